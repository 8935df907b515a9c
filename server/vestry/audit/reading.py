"""Reads the records of a log, while its server writes or afterwards: from the bundles what a checkpoint covers, from
the journal's segments what came later. Changes nothing, and proves nothing: that is `verify`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vestry.audit import scan
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, split
from vestry.audit.tlog.tiles import CHECKPOINT, Tiles

ORIGIN = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")


class NoLog(Exception):  # noqa: N818 - what the directory is
    """A directory that is no log, or holds none. The sentence says which."""


class LogReader:
    """One log: a directory with segments, tiles and a checkpoint. Raises NoLog where there is none of these."""

    def __init__(self, home: Path) -> None:
        if not is_log(home):
            raise NoLog(f"{home} is no audit log: it has neither a checkpoint nor a segment.")
        self.home = home

    def note(self) -> str | None:
        """The newest checkpoint, as it was signed; None where there is none yet. Raises NoLog for what is no text."""
        try:
            return (self.home / CHECKPOINT).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise NoLog(f"{self.home / CHECKPOINT} cannot be read: {error}") from error

    def head(self) -> Checkpoint | None:
        """What the newest checkpoint says, its signature not looked at. Raises NoLog for one that says nothing."""
        note = self.note()
        try:
            return None if note is None else Checkpoint.parse(split(note)[0])
        except NoteRefused as error:
            raise NoLog(f"{self.home / CHECKPOINT} is damaged: {error}.") from error

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Records in order, each with its index, from `start` to before `stop`, or to the end of the log.

        A torn last line is left out. Raises TileMissing, ValueError or LogDamaged where records are missing.
        """
        head = self.head()
        covered = 0 if head is None else head.size
        yield from Tiles(self.home, covered).leaves(start, stop)
        yield from self._journal(max(start, covered), stop)

    def _journal(self, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
        expected = start
        for index, leaf in journal(self.home, start):
            if index != expected:
                raise scan.LogDamaged(f"{self.home} is damaged: record {expected} is missing, {index} follows.")
            if stop is not None and index >= stop:
                return
            yield index, leaf
            expected += 1


def journal(home: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of the segments from index `start` on, each with its index by its place; a torn tail is left out."""
    paths = scan.segments(home)
    ends: list[int | None] = [*map(scan.first_index, paths[1:]), None]
    for path, end in zip(paths, ends, strict=False):
        if end is not None and end <= start:
            continue
        index = scan.first_index(path)
        for line in scan.lines(path):
            if (end is not None and index >= end) or not line.endswith(b"\n"):
                break
            if index >= start:
                yield index, line[:-1]
            index += 1


def is_log(home: Path) -> bool:
    """Whether a directory looks like a log: it has a checkpoint, or a segment."""
    return home.is_dir() and ((home / CHECKPOINT).exists() or bool(scan.segments(home)))


def origins(directory: Path) -> list[str]:
    """The names of the logs under a directory, sorted; one log may lie below another (`server`, `server/two`)."""
    found: list[str] = []
    if not directory.is_dir():
        raise NoLog(f"{directory} is no directory.")
    waiting = [each for each in directory.iterdir() if each.is_dir()]
    while waiting:
        home = waiting.pop()
        name = home.relative_to(directory).as_posix()
        if not ORIGIN.fullmatch(name):
            continue
        if is_log(home):
            found.append(name)
        waiting.extend(each for each in home.iterdir() if each.is_dir() and each.name != "tile")
    return sorted(found)
