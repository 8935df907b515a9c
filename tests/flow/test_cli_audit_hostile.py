"""Copies that were made to harm whoever looks at them: the commands end, say what is wrong, and write no escapes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from support.audit_logs import House, bundle_of
from support.cli import Cli

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
    given = [{"COPY": str(house.directory), "KEY": str(house.key)}.get(each, each) for each in words]
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
