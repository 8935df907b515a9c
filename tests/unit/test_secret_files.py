"""Secrets in files: made once, privately; refused where others could have read them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vestry.faults import ConfigurationError
from vestry.secret_files import SecretFault, engine_key, exposure, is_folder, key_hash, looked_at, read, read_or_make
from vestry.settings.tree import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh state directory."""
    return Settings(state=tmp_path / "state")


def put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """A file with this content and mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def status(mode: int, owner: int) -> os.stat_result:
    """What stat(2) says of a file with this mode and owner."""
    return os.stat_result((mode, 1, 1, 1, owner, 0, 32, 0, 0, 0))


def test_secrets_are_made_once_and_private(settings: Settings) -> None:
    """Each secret is made at first use with mode 0600 in a folder of mode 0700, and stays the same."""
    pepper, key = key_hash(settings), engine_key(settings)
    assert len(pepper) == 32
    assert len(key) == 64
    assert (key_hash(settings), engine_key(settings)) == (pepper, key)
    folder = settings.secrets_directory
    assert {each.name for each in folder.iterdir()} == {"key-hash", "engine-key"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_two_secrets_are_alike(tmp_path: Path) -> None:
    """Two installations have nothing in common."""
    one, other = (Settings(state=tmp_path / name) for name in "ab")
    assert key_hash(one) != key_hash(other)
    assert engine_key(one) != engine_key(other)


def test_processes_that_start_together_share_one_secret(settings: Settings) -> None:
    """Whoever comes second takes the secret of the first, whole."""
    script = (
        "import sys; from pathlib import Path; from vestry.settings.tree import Settings; "
        "from vestry.secret_files import key_hash; print(key_hash(Settings(state=Path(sys.argv[1]))).hex())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, settings.state], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=30)[0] for process in running}
    assert said == {key_hash(settings).hex() + "\n"}


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666, 0o602, 0o650])
def test_an_open_secret_is_refused(settings: Settings, mode: int) -> None:
    """A secret that others may read or write is not used, and the mend is a command."""
    path = put(settings.secrets_directory / "key-hash", bytes(32), mode)
    with pytest.raises(SecretFault, match=f"mode {mode:04o}.*chmod 600 {path}"):
        key_hash(settings)


@pytest.mark.parametrize(
    ("mode", "owner", "private"),
    [
        (stat.S_IFREG | 0o600, 4242, False),
        (stat.S_IFREG | 0o600, 0, True),
        (stat.S_IFREG | 0o440, 0, True),
        (stat.S_IFREG | 0o640, 0, True),
        (stat.S_IFREG | 0o660, 0, False),
        (stat.S_IFREG | 0o644, 0, False),
        (stat.S_IFREG | 0o400, 1000, True),
        (stat.S_IFREG | 0o440, 1000, False),
        (stat.S_IFDIR | 0o755, 1000, True),
        (stat.S_IFDIR | 0o775, 1000, False),
        (stat.S_IFDIR | 0o1777, 0, True),
    ],
)
def test_who_may_see_a_secret(monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, private: bool) -> None:
    """As user 1000: own files for oneself alone, root's also for its group, folders that nobody else can change."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (exposure(Path("secret"), status(mode, owner)) is None) == private


@pytest.mark.parametrize(
    ("mode", "private"), [(0o640, True), (0o440, True), (0o600, True), (0o660, False), (0o644, False)]
)
def test_a_projected_token_may_be_its_groups(monkeypatch: pytest.MonkeyPatch, mode: int, private: bool) -> None:
    """Kubernetes lets the group of a pod's volumes read it, whoever owns it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (exposure(Path("token"), status(stat.S_IFREG | mode, 1000), by_group=True) is None) == private


@pytest.mark.parametrize("size", [0, 31, 4097])
def test_a_pepper_of_a_wrong_size_is_refused(settings: Settings, size: int) -> None:
    """An empty, cut or huge file is no pepper."""
    put(settings.secrets_directory / "key-hash", bytes(size))
    with pytest.raises(SecretFault, match="bytes"):
        key_hash(settings)


@pytest.mark.parametrize(
    "content", [b"short", b"two lines of a\nfile that is long", "schlüssel-schlüssel".encode(), bytes(32)]
)
def test_an_engine_key_must_fit_a_header(settings: Settings, content: bytes) -> None:
    """A key that no HTTP header can carry, or that is too short, is refused without being shown."""
    put(settings.secrets_directory / "engine-key", content)
    with pytest.raises(SecretFault) as fault:
        engine_key(settings)
    assert content.decode() not in str(fault.value)


def test_an_engine_key_may_be_brought(settings: Settings) -> None:
    """A line that somebody put there is the key, without its line feed."""
    put(settings.secrets_directory / "engine-key", b"brought-by-the-operator\n")
    assert engine_key(settings) == "brought-by-the-operator"


def test_a_secret_may_be_a_link_to_a_file(settings: Settings, tmp_path: Path) -> None:
    """Kubernetes mounts Secrets as links; what counts is the file behind."""
    put(tmp_path / "..data" / "key-hash", b"k" * 32, 0o400)
    settings.secrets_directory.mkdir(parents=True)
    (settings.secrets_directory / "key-hash").symlink_to(tmp_path / "..data" / "key-hash")
    assert key_hash(settings) == b"k" * 32


def test_only_regular_files_are_read(settings: Settings) -> None:
    """A pipe or a folder in a secret's place is refused, and nobody waits for a writer."""
    folder = settings.secrets_directory
    folder.mkdir(parents=True)
    os.mkfifo(folder / "key-hash", 0o600)
    (folder / "engine-key").mkdir()
    for take in (key_hash, engine_key):
        with pytest.raises(SecretFault, match="regular file"):
            take(settings)


def test_a_dangling_link_is_told(settings: Settings) -> None:
    """A link to nothing is not replaced by a new secret."""
    settings.secrets_directory.mkdir(parents=True)
    (settings.secrets_directory / "key-hash").symlink_to("nowhere")
    with pytest.raises(SecretFault, match="cannot be opened"):
        key_hash(settings)


def test_no_new_pepper_for_old_keys(settings: Settings) -> None:
    """If the keys are there and their pepper is not, a new one is not made: it would hide the loss."""
    key_hash(settings)
    settings.keys_database.write_bytes(b"")
    (settings.secrets_directory / "key-hash").unlink()
    with pytest.raises(SecretFault, match="Restore it from a copy"):
        key_hash(settings)
    assert not (settings.secrets_directory / "key-hash").exists()


def test_a_secret_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A folder that is a file: the reason is one sentence, and a fault of the configuration."""
    put(tmp_path / "file", b"")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        key_hash(Settings(state=tmp_path, secrets=tmp_path / "file"))


def test_a_lost_race_leaves_nothing_behind(tmp_path: Path) -> None:
    """If another process makes the secret in between, its secret is taken and the draft is gone."""
    path = tmp_path / "secret"

    def late() -> bytes:
        put(path, b"first" * 8)
        return b"second" * 8

    assert read_or_make(path, late) == b"first" * 8
    assert read(path, 16) == b"first" * 8
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_disk_that_fails_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that the disk does not give is a fault like the others."""
    key_hash(settings)

    def fail(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(SecretFault, match="cannot be read"):
        key_hash(settings)


def test_looking_never_raises(tmp_path: Path) -> None:
    """Missing, looping and impossible paths are simply not there."""
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "none", tmp_path / "loop", Path("a\0b"), Path("x" * 5000)):
        assert looked_at(path) is None
        assert not is_folder(path)
    assert is_folder(tmp_path)
