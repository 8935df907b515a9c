"""The security officer's page: its secrets are where it says, and what it tells to do works."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.cli import Cli
from support.engines import SMALL, install_engine, put_model
from support.house import House, chat
from vestry.administration import create_key, identified
from vestry.composition.signing import make_signer
from vestry.models.chosen import choose
from vestry.models.launch import plan
from vestry.secret_files import SecretFault, content_hash, engine_key, key_hash
from vestry.settings.tree import Settings, Tls

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Default settings, in an empty folder with the key that signs the record."""
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    make_signer(settings, None)
    return settings


def test_the_secrets_are_where_the_page_says(settings: Settings) -> None:
    """After the first key, engine and hashed content each file of the table is there, for its owner alone."""
    create_key(settings, owner="alice")
    engine_key(settings)
    content_hash(settings)
    rows = re.findall(r"`(\.vestry/[\w./-]+)`, (0\d+)\b", PAGE)
    assert {path for path, _ in rows} == {
        ".vestry/secrets/key-hash",
        ".vestry/secrets/engine-key",
        ".vestry/secrets/audit-key",
        ".vestry/secrets/content-hash",
        ".vestry/keys.sqlite",
        ".vestry/up-key",  # made by `vestry up` alone
    }
    for path, mode in rows:
        if path != ".vestry/up-key":
            assert stat.S_IMODE(Path(path).stat().st_mode) == int(mode, 8), path


def test_a_new_key_hash_ends_every_key(settings: Settings) -> None:
    """The steps of the page lead to a store under a new secret; the old key is unknown there. Tenants, which lie in the
    same file, are taken along.
    """
    cli = Cli(settings.state)
    cli.ok("tenants", "set", "radiology", "--concurrency", "7")
    tenants = Path("tenants.yaml")
    tenants.write_text(cli.ok("tenants", "export"))
    old, _ = create_key(settings, owner="alice", tenant="radiology")
    before = key_hash(settings)
    for suffix in ("", "-wal", "-shm", "-mark"):
        path = Path(f"{settings.keys_database}{suffix}")
        if path.exists():
            path.rename(f"{path}.old")
    (settings.secrets_directory / "key-hash").unlink()
    steps = re.findall(r"`vestry ((?:tenants export|apply) [^`]*)`", PAGE)
    assert steps == [f"tenants export > {tenants}", f"apply --file {tenants}"]
    cli.ok(*steps[1].split())
    assert cli.ok("tenants", "export") == tenants.read_text()
    new, _ = create_key(settings, owner="alice", tenant="radiology")
    assert key_hash(settings) != before
    assert identified(settings, old) is None
    assert identified(settings, new) is not None


@pytest.mark.parametrize(("length", "good"), [(15, False), (16, True), (512, True), (513, False)])
def test_the_engine_keys_length(length: int, good: bool, settings: Settings) -> None:
    """A line as long as the page allows is taken, a shorter or longer one is not."""
    assert "16 to 512 printable characters" in TEXT
    path = settings.secrets_directory / "engine-key"
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    path.write_text("x" * length + "\n")
    path.chmod(0o600)
    if good:
        assert engine_key(settings) == "x" * length
    else:
        with pytest.raises(SecretFault):
            engine_key(settings)


def test_the_prefix_cache_can_be_turned_off(tmp_path: Path) -> None:
    """The argument that the page names comes after the one that turns the cache on, so that it holds."""
    [argument] = re.findall(r"`engine\.arguments: \[(--[a-z-]+)\]`", PAGE)
    put_model(install_engine(tmp_path))
    settings = Settings.model_validate({"state": tmp_path, "models": {SMALL: {"engine": {"arguments": [argument]}}}})
    argv = plan(settings, choose(settings, SMALL), "key", os.environ).argv
    assert argv.index("--enable-prefix-caching") < argv.index(argument)


def test_what_is_not_promised_is_not_there_yet(tmp_path: Path) -> None:
    """Nothing leaves the house by itself: once it does, the page must say so. The salt that it speaks of is there."""
    with FakeEngine() as engine, House(tmp_path, [engine]) as house:
        assert house.post(json=chat()).status_code == 200
        assert len(engine.calls[0].json["cache_salt"]) == 43
        assert house.settings.audit.copies == ()
    assert "Without a copy of the checkpoints outside" in TEXT


def test_the_certificates_delay() -> None:
    """A changed certificate is taken up as soon as the page says."""
    seconds = Tls(certificate=Path("a"), key=Path("b")).reload_seconds
    assert f"`server.tls.reload_seconds` ({seconds:g} s)" in TEXT
