"""`vestry audit show`, `export` and `index`, on a copy of a log, as an auditor types them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from support.cli import Cli, shown
from support.logs import LogMaker


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a log, on a machine without settings."""
    with LogMaker(tmp_path / "copy") as log:
        log.add_calls(600)
    return tmp_path / "copy"


@pytest.fixture
def auditor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line of somebody who has nothing but the copy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Cli(tmp_path / "no-state")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_is_read_and_not_written_to(copy: Path, auditor: Cli, tmp_path: Path) -> None:
    """No settings and no key are needed, nothing is recorded, and no file of the copy changes; of a copy of one log
    its directory will do."""
    before = contents(copy)
    records = shown(auditor.ok("audit", "show", "--copy", str(copy), "--request-id", "req-17", "--json"))
    assert [record["type"] for record in records] == ["intent", "outcome"]
    assert shown(auditor.ok("audit", "export", "--copy", str(copy / "server"), "--request-id", "req-17")) == records
    assert auditor.ok("audit", "index", "--copy", str(copy)).startswith("server: 1024 of 1201 records")
    assert contents(copy) == before
    assert not (tmp_path / "no-state").exists()


def test_without_a_place_for_an_index_the_copy_is_read(copy: Path, auditor: Cli, tmp_path: Path) -> None:
    """Where no cache can be written, the log is read from end to end, and that is said."""
    (tmp_path / "cache").write_text("a file")
    result = auditor("audit", "show", "--copy", str(copy), "--request-id", "req-17", "--json")
    assert result.exit_code == 0
    assert len(shown(result.stdout)) == 2
    assert "The whole log `server` is read: no index can be kept in" in result.stderr


def test_without_locks_the_copy_is_read(copy: Path, auditor: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a home that is shared over a network without its lock daemon; `index`, which does nothing else, says so."""

    def none(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    result = auditor("audit", "show", "--copy", str(copy), "--request-id", "req-17", "--json")
    assert result.exit_code == 0, result.output
    assert len(shown(result.stdout)) == 2
    assert "The whole log `server` is read: no index can be kept in" in result.stderr
    result = auditor("audit", "index", "--copy", str(copy))
    assert (result.exit_code, "No locks available" in result.stderr) == (2, True), result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--copy", "NOWHERE"], "does not exist"),
        (["--copy", "EMPTY"], "holds no audit log"),
        (["--copy", "COPY", "--origin", "other"], "There is no log `other` in"),
        (["--copy", "COPY", "--directory", "COPY"], "give one of them"),
        (["--copy", "COPY", "--since", "yesterday"], "write 24h, 90m, 7d"),
        (["--copy", "COPY", "--type", "nonsense"], "is not one of"),
        (["--copy", "COPY", "--follow", "--reverse"], "leave --reverse out"),
        (["--directory", "EMPTY"], "holds no audit log"),
    ],
)
def test_what_cannot_be_used(copy: Path, auditor: Cli, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """A sentence and exit status 2."""
    (tmp_path / "empty").mkdir()
    places = {"NOWHERE": str(tmp_path / "nowhere"), "EMPTY": str(tmp_path / "empty"), "COPY": str(copy)}
    result = auditor("audit", "show", *[places.get(each, each) for each in arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_damaged_copy(copy: Path, auditor: Cli) -> None:
    """A record that is none, a bundle that is cut, a checkpoint that says nothing: a sentence that says where."""
    bundle = copy / "server/tile/entries/001"
    whole = bundle.read_bytes()
    for damaged, said in (
        (whole.replace(b'"time"', b'"tine"', 1), "record 256 of"),
        (whole[:-5], "entries/001 is damaged"),
        (b"", "entries/001 holds 0 records"),
        (os.urandom(5000), "entries/001 "),
    ):
        bundle.write_bytes(damaged)
        for arguments in (["--subject", "user3"], ["--subject", "user3", "--no-index"]):
            result = auditor("audit", "show", "--copy", str(copy), *arguments)
            assert result.exit_code == 2, result.output
            assert said in result.stderr
            assert "Traceback" not in result.output
    bundle.write_bytes(whole)
    (copy / "server/checkpoint").write_text("nonsense")
    result = auditor("audit", "show", "--copy", str(copy))
    assert (result.exit_code, "checkpoint is damaged" in result.stderr) == (2, True)


def test_nothing_in_a_record_reaches_the_terminal(tmp_path: Path, auditor: Cli) -> None:
    """Control characters in a copy that somebody has prepared are shown as escapes."""
    with LogMaker(tmp_path / "copy") as log:
        log.add(
            {"schema": 1, "type": "server.stop", "time": "2026-01-31T23:59:59.000001Z", "version": "\x1b[31m\u202e\x85"}
        )
    output = auditor.ok("audit", "show", "--copy", str(tmp_path / "copy"), "--type", "server.stop")
    assert "\\x1b[31m\\u202e\\x85" in output
    assert output.strip().isprintable()


def test_pruned_records_are_told(copy: Path, auditor: Cli) -> None:
    """What is there is shown, and that something is not is said."""
    for number in (0, 1):
        (copy / f"server/tile/entries/00{number}").unlink()
    shutil.rmtree(copy / "server/tile/0")
    result = auditor("audit", "show", "--copy", str(copy), "--json")
    assert result.exit_code == 0
    assert shown(result.stdout)[0]["index"] == 512
    assert "Records before 512 of `server` are not there" in result.stderr
