"""The house's signing key: made when asked for, read with care, never shown."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vestry.audit.tlog.notes import Signer
from vestry.composition.signing import make_signer, signer, signing
from vestry.secret_files import SecretFault
from vestry.settings.tree import Settings

HOUSE = "hospital.example/vestry"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh state directory."""
    return Settings(state=tmp_path / "state")


def test_reading_makes_no_key(settings: Settings) -> None:
    """A key made silently would be one whose public half nobody has: the fault names the command that makes one."""
    with pytest.raises(SecretFault, match="the key that signs the audit log is missing") as fault:
        signing(settings)
    assert fault.value.fault.place == str(settings.signing_key)
    assert "`vestry audit init`" in fault.value.fault.mend
    assert not settings.state.exists()


def test_made_once(settings: Settings) -> None:
    """The second time the same key comes back, whatever name is asked for."""
    first, made = make_signer(settings, HOUSE)
    assert made
    again, made = make_signer(settings, "another.example")
    assert not made
    assert str(again) == str(first) == str(signer(settings))
    assert first.public.name == HOUSE


def test_the_file_is_private(settings: Settings) -> None:
    """Private key and folder are this user's alone; the written form is one line."""
    make_signer(settings, HOUSE)
    path = settings.signing_key
    assert path == settings.secrets_directory / "audit-key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_text().startswith(f"PRIVATE+KEY+{HOUSE}+")
    assert path.read_text().count("\n") == 1


def test_the_setting_names_another_file(tmp_path: Path) -> None:
    """`audit.signing_key`, as where the key comes from a place of its own."""
    settings = Settings.model_validate({"state": tmp_path, "audit": {"signing_key": tmp_path / "key" / "house"}})
    made, _ = make_signer(settings, HOUSE)
    assert (tmp_path / "key" / "house").exists()
    assert not settings.secrets_directory.exists()
    assert str(signer(settings)) == str(made)


def test_how_often_is_what_the_settings_say(tmp_path: Path) -> None:
    """The two intervals go to the notary."""
    settings = Settings.model_validate({"state": tmp_path, "audit": {"checkpoint_records": 7, "checkpoint_seconds": 3}})
    make_signer(settings, HOUSE)
    found = signing(settings)
    assert (found.records, found.seconds, found.signer.public.name) == (7, 3, HOUSE)


@pytest.mark.parametrize("name", ["a", "hospital.example", "a-b.example/vestry/2", "x" * 128])
def test_names_that_are_fine(settings: Settings, name: str) -> None:
    """And the longest log's name still fits behind the longest house's."""
    made, _ = make_signer(settings, name)
    assert made.of("o" * 63).public.name == f"{name}/{'o' * 63}"


@pytest.mark.parametrize(
    "name", ["", "Hospital", "a b", "a+b", "/a", "a/", "a//b", "-a", "..", "a\n", "ü", "x" * 129, "a/../b"]
)
def test_names_that_are_not(settings: Settings, name: str) -> None:
    """A sentence, and no key."""
    with pytest.raises(ValueError, match="cannot name a house: use up to 128"):
        make_signer(settings, name)
    assert not settings.signing_key.exists()


@pytest.mark.parametrize("host", ["mini", "Ward-7.Hospital.Example", "a_b", "", "-", "é", "h" * 300])
def test_a_name_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Without a name the machine's is taken, with what no name may hold replaced."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    made, _ = make_signer(settings, None)
    assert made.public.name.endswith("/vestry")
    assert str(signer(settings)) == str(made), "a name that was made can be read"
    if host == "Ward-7.Hospital.Example":
        assert made.public.name == "ward-7.hospital.example/vestry"


WRITTEN = Signer.generate(HOUSE).written()
WRONG = {
    "empty": "",
    "public": str(Signer.parse(WRITTEN)),
    "of a service": "sk-0123456789abcdef0123456789abcdef",
    "cut off": WRITTEN[:-8],
    "flipped": WRITTEN[:-6] + ("A" if WRITTEN[-6] != "A" else "B") + WRITTEN[-5:],
    "renamed": WRITTEN.replace("hospital", "hospitai"),
    "two": f"{WRITTEN}\n{WRITTEN}",
    "binary": "\udcff" * 64,
    "large": WRITTEN + " " * 5000,
    "named too long": Signer.generate("x" * 150).written(),
    "named oddly": Signer.generate("Hospital_A").written(),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_a_file_that_is_no_key_is_refused_without_showing_it(settings: Settings, content: str) -> None:
    """A sentence with the place; nothing of what the file holds, and making does not replace it."""
    path = settings.signing_key
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    attempts: list[Callable[[], object]] = [lambda: signer(settings), lambda: make_signer(settings, None)]
    for attempt in attempts:
        with pytest.raises(SecretFault) as fault:
            attempt()
        assert fault.value.fault.place == str(path)
        assert WRITTEN[-20:] not in str(fault.value)
        assert "sk-0123" not in str(fault.value)
    assert path.read_bytes() == content.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(settings: Settings, mode: int) -> None:
    """As any secret. (`make_signer` says it too, instead of printing the public half of a key that may have leaked.)"""
    make_signer(settings, HOUSE)
    settings.signing_key.chmod(mode)
    if settings.signing_key.stat().st_uid == 0 and mode == 0o640:
        assert signer(settings).public.name == HOUSE, "root's own, for its group: as Kubernetes mounts a Secret"
        return
    attempts: list[Callable[[], object]] = [lambda: signer(settings), lambda: make_signer(settings, None)]
    for attempt in attempts:
        with pytest.raises(SecretFault, match=r"others may read or write it .* chmod 600"):
            attempt()


def test_a_folder_that_cannot_be_written(settings: Settings) -> None:
    """A sentence, and no half-written key."""
    settings.state.mkdir()
    settings.secrets_directory.write_text("a file")
    with pytest.raises(SecretFault, match="cannot be made"):
        make_signer(settings, HOUSE)
    assert [each.name for each in settings.state.iterdir()] == ["secrets"]
