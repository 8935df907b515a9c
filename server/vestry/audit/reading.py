"""Reads the records of a log, while its server writes or afterwards: from the bundles what a checkpoint covers, from
the journal's segments what came later. Changes nothing, and proves nothing: that is `verify`'s.

While one reads, the notary puts new tiles in the place of partial ones and removes journal segments that a checkpoint
covers; and the oldest records may be pruned. So whoever misses something looks again: where a newer checkpoint stands
by then, or the log begins later, reading goes on from there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from vestry.audit import scan
from vestry.audit.canonical import LEAF_BYTES
from vestry.audit.tlog.notes import NOTE_BYTES, Checkpoint, NoteRefused, split
from vestry.audit.tlog.tiles import CHECKPOINT, WIDTH, TileMissing, Tiles
from vestry.regular import is_folder, whole

Leaves = Iterator[tuple[int, bytes]]
"""Records in order, each with its index."""

_LAST, _FOLDER = re.compile("[0-9]{3}"), re.compile("x[0-9]{3}")
_DEEPEST = 5
_NOTE_BYTES = 4 * NOTE_BYTES
"""Of the characters of a note none has more bytes."""
LINEAR_BYTES = 1 << 18
"""So much of a segment is read line by line; in a longer one the place of a record is found by halving."""
_LOOK_BYTES = 2 * (LEAF_BYTES + 1)
ORIGIN = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")
COMMANDS = re.compile(r"([a-z0-9][a-z0-9.-]*-)?cli")
"""The name of a log in which commands record what they do."""


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
            return whole(self.home / CHECKPOINT, _NOTE_BYTES).decode()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise NoLog(f"{self.home / CHECKPOINT} cannot be read: {error}") from error

    def head(self) -> Checkpoint | None:
        """What the newest checkpoint says, its signature not looked at. Raises NoLog for one that says nothing."""
        note = self.note()
        return None if note is None else self.said(note)

    def said(self, note: str) -> Checkpoint:
        """What this checkpoint of the log says. Raises NoLog as `head`."""
        try:
            return Checkpoint.parse(split(note)[0])
        except NoteRefused as error:
            raise NoLog(f"{self.home / CHECKPOINT} is damaged: {error}.") from error

    @property
    def minimum(self) -> int:
        """Index of the first record that there is: 0, or where pruning has come to (C2SP tlog-tiles, Pruning)."""
        first = first_bundle(self.home)
        if first is not None:
            return first * WIDTH
        paths = scan.segments(self.home)
        return scan.first_index(paths[0]) if paths else 0

    def signed(self) -> int:
        """How many records the newest checkpoint covers; 0 without one."""
        head = self.head()
        return 0 if head is None else head.size

    def leaves(self, start: int = 0, stop: int | None = None) -> Leaves:
        """Records in order, each with its index, from `start` to before `stop`, or to the end of the log.

        Begins with the first that there is, where earlier ones were pruned, and leaves out those that are pruned
        meanwhile. A torn last line is left out. Raises TileMissing, ValueError or LogDamaged where records are missing.
        """

        def once(at: int, covered: int) -> Leaves:
            yield from Tiles(self.home, covered).leaves(at, stop)
            yield from self.journal(max(at, covered), stop)

        def gone(_at: int, _first: int) -> None:
            """Whoever needs to know of records that were pruned compares indexes."""

        begin = max(start, self.minimum)
        yield from persistent(once, begin, signed=self.signed, first=lambda: self.minimum, gone=gone)

    def journal(self, start: int, stop: int | None) -> Leaves:
        """The records that the journal holds, from `start` to before `stop`. Raises LogDamaged where one is missing."""
        expected = start
        for index, leaf in journal(self.home, start, strict=True):
            if index != expected:
                raise scan.LogDamaged(f"{self.home} is damaged: record {expected} is missing, {index} follows.")
            if stop is not None and index >= stop:
                return
            yield index, leaf
            expected += 1


def persistent(
    once: Callable[[int, int], Leaves],
    start: int,
    *,
    signed: Callable[[], int],
    first: Callable[[], int],
    gone: Callable[[int, int], None] | None = None,
) -> Leaves:
    """What `once(at, covered)` gives from `start` on, begun again behind the last record for as long as what was
    missed may stand under a newer checkpoint by then. Raises what `once` does.

    Where the log begins later by then, `gone` is told from where and up to where, and reading goes on there; without
    `gone` that is a fault like others.
    """
    at = start
    while True:
        covered = signed()
        try:
            for index, leaf in once(at, covered):
                yield index, leaf
                at = index + 1
        except (TileMissing, scan.LogDamaged, FileNotFoundError, ValueError):
            if (begin := first()) > at and gone is not None:
                gone(at, begin)
                at = begin
            elif begin > at or signed() <= covered:
                raise
            continue
        return


def journal(home: Path, start: int = 0, *, strict: bool = False) -> Leaves:
    """The records of the segments from index `start` on, each with its index by its place; a torn tail is left out, and
    so is a segment that the notary removes meanwhile, because a checkpoint covers it. A `strict` reader has
    FileNotFoundError for that one.
    """
    paths = scan.segments(home)
    ends: list[int | None] = [*map(scan.first_index, paths[1:]), None]
    for path, end in zip(paths, ends, strict=False):
        if end is not None and end <= start:
            continue
        try:
            index, offset = _place(path, start)
            for line in scan.lines(path, start=offset):
                if (end is not None and index >= end) or not line.endswith(b"\n"):
                    break
                if index >= start:
                    yield index, line[:-1]
                index += 1
        except FileNotFoundError:
            if strict:
                raise


def _place(path: Path, start: int) -> tuple[int, int]:
    """A record at or a little before index `start`, and where its line begins; found by halving."""
    index, low, high = scan.first_index(path), 0, path.stat().st_size
    while index < start and high - low > LINEAR_BYTES:
        middle = (low + high) // 2
        found = _next_line(path, middle)
        if found is None or found[0] > start:
            high = middle
        else:
            index, low = found
    return index, low


def _next_line(path: Path, offset: int) -> tuple[int, int] | None:
    """Index of the first whole record behind an offset, and where its line begins."""
    lines = scan.lines(path, start=offset, until=offset + _LOOK_BYTES)
    at = offset + len(next(lines, b""))
    record = scan.parse(next(lines, b""))
    return None if record is None else (record.index, at)


def first_bundle(home: Path) -> int | None:
    """Number of the first entry bundle on the disk, whole or partial; None where there is none.

    The fewer elements a number has as a path, the smaller it is.
    """
    for above in range(_DEEPEST):
        found = _first(home / "tile" / "entries", above)
        if found is not None:
            return int("".join(part.removeprefix("x") for part in found))
    return None


def _first(folder: Path, above: int) -> list[str] | None:
    """Path elements of the first bundle that lies under so many more folders."""
    try:
        names = sorted({each.name.partition(".")[0] for each in folder.iterdir()})
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not above:
        return next(([name] for name in names if _LAST.fullmatch(name)), None)
    for name in names:
        if _FOLDER.fullmatch(name) and (below := _first(folder / name, above - 1)) is not None:
            return [name, *below]
    return None


def is_log(home: Path) -> bool:
    """Whether a directory looks like a log: it has a checkpoint, be it a link that leads nowhere, or a segment."""
    return is_folder(home) and (os.path.lexists(home / CHECKPOINT) or bool(scan.segments(home)))


def origins(directory: Path) -> list[str]:
    """The names of the logs under a directory, sorted; one log may lie below another (`server`, `server/two`)."""
    found: list[str] = []
    if not is_folder(directory):
        raise NoLog(f"{directory} is no directory.")
    waiting = list(_folders(directory))
    while waiting:
        home = waiting.pop()
        name = home.relative_to(directory).as_posix()
        if not ORIGIN.fullmatch(name):
            continue
        if is_log(home):
            found.append(name)
        waiting.extend(each for each in _folders(home) if each.name != "tile")
    return sorted(found)


def _folders(directory: Path) -> Iterator[Path]:
    """The directories in a directory; no links, which could lead in a circle."""
    return (each for each in directory.iterdir() if not each.is_symlink() and is_folder(each))
