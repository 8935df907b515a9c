"""Copies that were made to harm whoever looks at them: the commands end, say what is wrong, and write no escapes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from support.alone import asked
from support.audit_logs import House, Record, bundle_of
from support.cli import Cli
from vestry.audit.tlog.tiles import bundled, unbundled

COMMANDS = {
    "show": ("show", "--copy", "COPY"),
    "export": ("export", "--copy", "COPY", "--format", "ocsf"),
    "prove": ("prove", "3", "--directory", "COPY", "--output", "-"),
    "open": ("open", "7", "--directory", "COPY"),
    "status": ("status", "--directory", "COPY"),
    "reconcile": ("reconcile", "--directory", "COPY"),
    "verify": ("verify", "COPY", "--public-key", "KEY"),
}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A copy of a log of 300 records."""
    made = House(tmp_path / "copy")
    made.log("server", 300)
    return made


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """Whatever would be waited for without end is a failure."""

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError("it did not end")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said(house: House, words: tuple[str, ...], tmp_path: Path) -> str:
    """What a command prints; it must end by itself, without a traceback."""
    given = [{"KEY": str(house.key)}.get(each, each.replace("COPY", str(house.directory))) for each in words]
    done = Cli(tmp_path / "state")("audit", *given, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["checkpoint", "tile/entries/000", "000000000000000000.jsonl", "../origins"])
def test_a_pipe_is_not_waited_for(house: House, place: str, command: str, tmp_path: Path) -> None:
    """In the place of a checkpoint, a bundle, a segment or the registry; where it is needed, it is told."""
    path = house.directory / "server" / place
    path.unlink()
    os.mkfifo(path)
    text = said(house, COMMANDS[command], tmp_path)
    if (command, place) in {("show", "checkpoint"), ("open", "checkpoint"), ("show", "tile/entries/000")}:
        assert "it is no file" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_links_in_a_circle_are_not_followed(house: House, command: str, tmp_path: Path) -> None:
    """Two links to the directory itself would double the paths with every step down."""
    for name in ("a", "b"):
        (house.directory / name).symlink_to(".")
    said(house, COMMANDS[command], tmp_path)


def test_what_is_too_large_is_not_read(house: House, tmp_path: Path) -> None:
    """A bundle and a checkpoint of a gigabyte each, which take no room on the disk."""
    bundle = bundle_of(house.directory / "server", 0)
    os.truncate(bundle, 1 << 30)
    assert f"{bundle} has more than" in said(house, COMMANDS["open"], tmp_path)
    os.truncate(house.directory / "server/checkpoint", 1 << 30)
    assert "has more than" in said(house, COMMANDS["status"], tmp_path)


ESCAPE = "\x1b]0;owned\x07\u202e\x9b"
ESCAPES = {"\x1b", "\x07", "\x9b", "\u202e"}
TIME = "2027-01-15T08:00:00.000000Z"
WITH_ESCAPES: list[Record] = [
    {"type": "server.start", "version": "1", "origins": ["server", f"x{ESCAPE}\nVerified."]},
    {
        "type": "intent",
        "request_id": "req-1",
        "tenant": "t",
        "subject": "s",
        "content_mode": "sealed",
        "content": {"auditor": ESCAPE, "size": 3, "commitment": "00", "bundle": "20270115-000001", "entry": 0},
    },
    {"type": ESCAPE, "request_id": "req-2"},
    {
        "type": "log.reconciled",
        "cause": "start",
        "replicas": [
            {"replica": f"e{ESCAPE}", "readable": True, "counters": [5, 5, 5], "read": TIME, "unexplained": [1, 1, 1]}
        ],
    },
    {"type": "outcome", "request_id": "req-1", "ending": "complete"},
]


def spoilt(folder: Path) -> Iterator[House]:
    """A copy with escapes in its records; then in an unsigned registry too; then in the place of a log's name too."""
    house = House(folder)
    house.log("server").add(WITH_ESCAPES).checkpoint()
    yield house
    registry = folder / "origins"
    forged = registry.read_text().split("\n")
    forged.insert(3, f"zz{ESCAPE} {TIME}")
    registry.write_text("\n".join(forged))
    yield house
    journal = next((folder / "server").glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes().replace(b'"server"', f'"s{ESCAPE[8:]}"'.encode()))
    yield house


@pytest.mark.parametrize(
    "words",
    [
        *(words for name, words in COMMANDS.items() if name != "export"),  # what it writes is for programs
        ("status", "--directory", "COPY", "--json"),
        ("reconcile", "--directory", "COPY", "--json"),
        ("prove", "2", "--directory", "COPY", "--output", "proof"),
        ("prove", "req-2", "--type", "x", "--directory", "COPY"),
        ("open", "req-1", "--directory", "COPY"),
        ("open", "req-1", "--directory", "COPY", "--json"),
    ],
    ids=" ".join,
)
def test_no_escape_reaches_the_terminal(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a record's type, an engine's name, an auditor's key, a log's name."""
    monkeypatch.chdir(tmp_path)
    for house in spoilt(tmp_path / "copy"):
        assert not ESCAPES & {*said(house, words, tmp_path)}


def test_no_escape_comes_from_the_one_file_verifier(tmp_path: Path) -> None:
    """Nor a line of its own that says that all is well."""
    for house in spoilt(tmp_path / "copy"):
        _, out, err = asked(str(house.directory), "--public-key", str(house.key))
        assert not ESCAPES & {*out, *err}
        assert "Verified." not in out.split("\n")


@pytest.mark.parametrize(
    "words",
    [
        *COMMANDS.values(),
        ("verify", "COPY", "--public-key", "KEY", "--json"),
        ("index", "--copy", "COPY"),
        ("prove", "3", "--directory", "COPY", "--output", "COPY/proof"),
        ("show", "--copy", "COPY", "--tenant", "\udce9"),
        ("export", "--copy", "COPY", "--subject", "\udce9"),
    ],
    ids=lambda words: ascii(" ".join(words)),
)
def test_names_that_are_no_utf_8(house: House, words: tuple[str, ...], tmp_path: Path) -> None:
    """Of the copy's own folder, or in what is asked for: from a disk, or a terminal, with another encoding."""
    house.directory = house.directory.rename(tmp_path / "\udce9vidence")
    if words[0] == "verify":
        bundle_of(house.directory / "server", 299).unlink()
    said(house, words, tmp_path)


@pytest.mark.parametrize("place", ["journal", "bundle"])
@pytest.mark.parametrize(
    "words", [*COMMANDS.values(), ("show", "--copy", "COPY", "--tenant", "radiology")], ids=" ".join
)
def test_a_record_that_is_nested_without_end(house: House, words: tuple[str, ...], place: str, tmp_path: Path) -> None:
    """Below the newest checkpoint or behind it, under whatever name: no command gives up with a traceback."""
    log = house.directory / "server"
    nested = b'{"type":"outcome","x":"log.reconciled req-1 content.erase","y":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    if place == "journal":
        with max(log.glob("*.jsonl")).open("ab") as file:
            file.write(nested + b"\n")
    else:
        for journal in log.glob("*.jsonl"):
            journal.unlink()
        path = bundle_of(log, 299)
        path.write_bytes(b"".join(map(bundled, [*unbundled(path.read_bytes())[:-1], nested])))
    said(house, words, tmp_path)


@pytest.mark.parametrize("words", [COMMANDS["show"], COMMANDS["export"]], ids=" ".join)
def test_a_record_that_is_no_text(house: House, words: tuple[str, ...], tmp_path: Path) -> None:
    """One byte in a field that no filter looks at: it is told which record it is, or of which log."""
    path = bundle_of(house.directory / "server", 0)
    path.write_bytes(path.read_bytes().replace(b'"version":"0.1.0"', b'"version":"0\xff1.0"'))
    for journal in (house.directory / "server").glob("*.jsonl"):
        journal.unlink()
    assert "is damaged" in said(house, words, tmp_path)
