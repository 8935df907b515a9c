"""Changes to the keys are judged, recorded, then done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.keys import Keys
from vestry import administration
from vestry.adapters.directory.faults import DirectoryFault
from vestry.administration import ChangeRefused, change, create_key, look
from vestry.composition.reader import user_of_this_process
from vestry.composition.signing import make_signer
from vestry.composition.store import every_key
from vestry.errors import NotFound
from vestry.settings.tree import Settings
from vestry.types import Key


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh state directory, with the key that signs the record."""
    settings = Settings(state=tmp_path / "state", secrets=tmp_path / "secrets")
    make_signer(settings, "house.test/vestry")
    return settings


def existing_keys(settings: Settings) -> list[Key]:
    """All keys, as a command that only looks finds them."""
    return look(settings, lambda office: every_key(office.directory))


def revoke(settings: Settings, key_id: str) -> bool:
    """Revoke a key, as a command does; whether it was not revoked before."""
    return change(settings, lambda office: office.keys.revoke(office.actor, key_id))[1]


def test_looking_makes_nothing(settings: Settings) -> None:
    """Where there is no store, asking for it leaves no file; where there is one, it opens."""
    assert existing_keys(settings) == []
    assert not settings.state.exists()
    _, key = create_key(settings, owner="a")
    assert [each.id for each in existing_keys(settings)] == [key.id]


def test_a_store_that_cannot_be_looked_at_is_not_a_missing_one(settings: Settings) -> None:
    """A state directory in a loop of links is a fault, not a house without keys."""
    settings.state.symlink_to(settings.state)
    with pytest.raises(DirectoryFault) as fault:
        existing_keys(settings)
    assert "cannot be looked at" in fault.value.why


def test_revoking_in_a_damaged_store_is_refused(settings: Settings) -> None:
    """A store that cannot be read revokes nothing, and says why."""
    _, key = create_key(settings, owner="a")
    settings.keys_database.write_bytes(b"garbage" * 1000)
    with pytest.raises(DirectoryFault) as fault:
        revoke(settings, key.id)
    assert re.search("the key store .* is damaged", fault.value.why)


def test_revoking_tells_whether_it_did(settings: Settings) -> None:
    """True once; False after that; NotFound for ids that there are not."""
    secret, key = create_key(settings, owner="a")
    assert revoke(settings, key.id)
    assert not revoke(settings, key.id)
    with pytest.raises(NotFound):
        revoke(settings, "key_none")
    assert store(settings).holder(secret) is None


def test_the_record_is_durable_before_the_key_exists(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of recording the store has no such key yet."""
    create_key(settings, owner="first")
    held: list[int] = []
    monkeypatch.setattr(
        administration,
        "record_all",
        lambda *_, **__: held.append(len(store(settings).list())),
    )
    create_key(settings, owner="second")
    assert held == [1]
    assert len(store(settings).list()) == 2


def store(settings: Settings) -> Keys:
    """The store, as another process opens it."""
    return Keys.of(settings.keys_database, (settings.secrets_directory / "key-hash").read_bytes())


def test_the_actor_is_the_user_of_the_process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record of a change names who runs the command."""
    actors: list[str] = []
    monkeypatch.setattr(administration, "record_all", lambda _, made: actors.extend(each["actor"] for each in made))
    create_key(settings, owner="a")
    assert actors == [user_of_this_process()]


def test_without_the_signing_key_nothing_is_changed(settings: Settings) -> None:
    """A change that no signed log could hold is refused: no key is made, none is revoked, and the mend is said."""
    _, key = create_key(settings, owner="first")
    settings.signing_key.unlink()
    with pytest.raises(ChangeRefused, match=r"Nothing was changed.* is missing, .* Restore it from a copy"):
        create_key(settings, owner="second")
    with pytest.raises(ChangeRefused, match="Nothing was changed"):
        revoke(settings, key.id)
    assert [(each.owner, each.revoked) for each in store(settings).list()] == [("first", None)]
