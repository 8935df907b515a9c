"""Changes to the keys are judged, recorded, then done."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from support.keys import Keys
from vestry import administration
from vestry.adapters.directory.faults import DirectoryFault
from vestry.administration import (
    ChangeRefused,
    ReadingRefused,
    create_key,
    existing_keys,
    record_reading,
    revoke_key,
    user_of_this_process,
)
from vestry.composition.signing import make_signer
from vestry.settings.tree import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh state directory, with the key that signs the record."""
    settings = Settings(state=tmp_path / "state", secrets=tmp_path / "secrets")
    make_signer(settings, "house.test/vestry")
    return settings


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
    with pytest.raises(ChangeRefused, match=f"{key.id} was not revoked: the key store .* is damaged"):
        revoke_key(settings, key.id)


def test_revoking_tells_whether_it_did(settings: Settings) -> None:
    """True once; False after that, and for ids that there are not."""
    secret, key = create_key(settings, owner="a")
    assert revoke_key(settings, key.id)
    assert not revoke_key(settings, key.id)
    assert not revoke_key(settings, "key_none")
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


def test_the_actor_can_be_given(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that makes keys for somebody names them; else it is the user of the process."""
    actors: list[str] = []
    monkeypatch.setattr(administration, "record_all", lambda _, made: actors.extend(each["actor"] for each in made))
    create_key(settings, owner="a", actor="the portal, for dana")
    create_key(settings, owner="a")
    assert actors == ["the portal, for dana", user_of_this_process()]


def test_users_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user may have a number only; SUDO_USER is told only where it differs."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    name = pwd.getpwuid(os.getuid()).pw_name
    assert user_of_this_process() == name
    monkeypatch.setenv("SUDO_USER", name)
    assert user_of_this_process() == name

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("SUDO_USER")
    assert user_of_this_process() == f"uid {os.getuid()}"


def test_without_the_signing_key_nothing_is_changed(settings: Settings) -> None:
    """A change that no signed log could hold is refused: no key is made, none is revoked, and the mend is said."""
    _, key = create_key(settings, owner="first")
    settings.signing_key.unlink()
    with pytest.raises(ChangeRefused, match=r"Nothing was changed.* is missing. Make one with `vestry audit init`"):
        create_key(settings, owner="second")
    with pytest.raises(ChangeRefused, match="Nothing was changed"):
        revoke_key(settings, key.id)
    assert [(each.owner, each.revoked) for each in store(settings).list()] == [("first", None)]


def test_a_reading_is_held_against_the_copies(tmp_path: Path) -> None:
    """Its record goes out like any other of the log `cli`; where that log was rolled back, nothing is shown."""
    (tmp_path / "vault").mkdir()
    copy = {"kind": "directory", "name": "vault", "path": str(tmp_path / "vault")}
    settings = Settings.model_validate({"state": tmp_path / "state", "audit": {"copies": [copy]}})
    make_signer(settings, "house.test/vestry")
    log, snapshot = settings.audit_directory / "cli", tmp_path / "snapshot"
    record_reading(settings, command="audit show", asked="all", records=1)
    shutil.copytree(log, snapshot)
    record_reading(settings, command="audit show", asked="all", records=2)
    assert (tmp_path / "vault/cli/latest").read_text() == (log / "checkpoint").read_text()
    shutil.rmtree(log)
    shutil.copytree(snapshot, log)
    with pytest.raises(ReadingRefused, match=r"Nothing is shown.*was rolled back or cut off: `vault`"):
        record_reading(settings, command="audit show", asked="all", records=3)


def test_a_reading_without_a_key_to_sign_it_is_refused(tmp_path: Path) -> None:
    """In a sentence that names the key and how to make it."""
    with pytest.raises(ReadingRefused, match=r"Nothing is shown.*the key that signs the audit log is missing"):
        record_reading(Settings(state=tmp_path / "state"), command="audit show", asked="all", records=1)
