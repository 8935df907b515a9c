"""What waits for one sink, on the disk: `spool/NAME/` below the log, one file an item, named by its turn.

    000000000000000007-1f0a93c2.checkpoint    a signed note
    000000000000000009-77d3e60b.registry      the registry of origins; only the newest waits
    delivered.checkpoint                      the last one that the sink has taken; its time is the file's
    delivered.registry

The hexadecimal digits are random: two commands may put into one spool at once.
Bounded: when `limit` checkpoints wait, the oldest makes room, so of a long outage the newest always stay. A checkpoint
covers everything that those before it did, so what is lost with one is only how finely times are pinned down.
An item that cannot be written to the disk (it is full) waits in memory, under the same bound.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

from msgspec import Struct

from vestry.audit.copies.durable import make_folder, read_bounded, write_whole
from vestry.audit.copies.sink import NOTE_LIMIT, Item
from vestry.regular import is_folder

_LOG = logging.getLogger("vestry.audit")
_NAME = re.compile(r"([0-9]{18})-[0-9a-f]{8}\.(checkpoint|registry)")
_DRAFT_SECONDS = 3600.0
LIMIT = 10_000
"""A week of checkpoints, at one a minute."""


class Waiting(Struct):
    """One item's place in the queue; its note only where the disk did not take it."""

    name: str
    kind: Literal["checkpoint", "registry"]
    since: float
    note: str | None = None


class Spool:
    """The queue before one sink. One thread puts, one takes."""

    def __init__(self, folder: Path, *, limit: int = LIMIT) -> None:
        """Finds what an earlier process left. A folder that cannot be read is an empty one, and said."""
        self.folder = folder
        self.dropped = 0
        self._limit = max(1, limit)
        self._lock = threading.Lock()
        self._queue: OrderedDict[str, Waiting] = OrderedDict()
        self._next = 0
        try:
            self._find()
        except OSError as error:
            _LOG.warning("the spool %s cannot be read, so what waited there is not delivered: %s", folder, error)

    def _find(self) -> None:
        if not is_folder(self.folder):
            return
        names = sorted(os.listdir(self.folder))  # noqa: PTH208 - only the names are needed
        for name in names:
            match = _NAME.fullmatch(name)
            if match is None:
                self._clean(name)
                continue
            turn, kind = int(match[1]), cast('Literal["checkpoint", "registry"]', match[2])
            with suppress(FileNotFoundError):
                since = (self.folder / match[0]).stat().st_mtime
                self._queue[name] = Waiting(name, kind, since)
            self._next = turn + 1

    def _clean(self, name: str) -> None:
        """Remove a draft that a crash left; one of another command that runs just now is younger."""
        with suppress(FileNotFoundError):
            if name.startswith(".") and time.time() - (self.folder / name).stat().st_mtime > _DRAFT_SECONDS:
                (self.folder / name).unlink()

    def put(self, item: Item) -> None:
        """Take an item, durably where the disk allows it. Makes room, and counts what went (`dropped`)."""
        with self._lock:
            name = f"{self._next:018d}-{secrets.token_hex(4)}.{item.kind}"
            entry = Waiting(name, item.kind, time.time())
            self._next += 1
        try:
            make_folder(self.folder)
            write_whole(self.folder / entry.name, item.note)
        except OSError as error:
            _LOG.warning("%s cannot be written (%s): the copy waits in memory", self.folder / entry.name, error)
            entry.note = item.note
        with self._lock:
            surplus = self._surplus(item)
            self._queue[entry.name] = entry
        for each in surplus:
            self._remove(each)
            if each.kind == "checkpoint":
                self._drop(f"{self._limit} checkpoints wait in {self.folder}: the oldest one made room")

    def _surplus(self, item: Item) -> list[Waiting]:
        """What makes room for an item, taken from the queue: older registries for a registry, else by the bound."""
        alike = [each for each in self._queue.values() if each.kind == item.kind]
        surplus = alike if item.kind == "registry" else alike[: max(0, len(alike) + 1 - self._limit)]
        for each in surplus:
            del self._queue[each.name]
        return surplus

    def first(self) -> tuple[Waiting, Item] | None:
        """Whose turn it is. One that cannot be read any more is given up, counted, and said."""
        while True:
            with self._lock:
                entry = next(iter(self._queue.values()), None)
            if entry is None:
                return None
            if entry.note is not None:
                return entry, Item(entry.kind, entry.note)
            try:
                item = Item(entry.kind, read_bounded(self.folder / entry.name, NOTE_LIMIT))
                _readable(item)
            except FileNotFoundError:  # another command has delivered it
                self._forget(entry)
            except (OSError, ValueError) as error:
                if self._forget(entry):
                    self._drop(f"{self.folder / entry.name} cannot be read, so it is not delivered: {error}")
            else:
                return entry, item

    def done(self, entry: Waiting, item: Item) -> None:
        """The sink has it."""
        with suppress(OSError):
            make_folder(self.folder)
            write_whole(self.folder / f"delivered.{item.kind}", item.note)
        self._forget(entry)

    def delivered(self, kind: str = "checkpoint") -> tuple[str, float] | None:
        """The last of this kind that the sink has taken, and when (seconds since the epoch)."""
        path = self.folder / f"delivered.{kind}"
        try:
            return read_bounded(path, NOTE_LIMIT), path.stat().st_mtime
        except (OSError, ValueError):
            return None

    def holds(self, item: Item) -> bool:
        """Whether this is the last of its kind that waits or, where none does, the last that was delivered."""
        with self._lock:
            last = next((each for each in reversed(self._queue.values()) if each.kind == item.kind), None)
        if last is not None:
            with suppress(OSError, ValueError):  # gone: it has been delivered this very moment
                return item.note == (last.note or read_bounded(self.folder / last.name, NOTE_LIMIT))
        delivered = self.delivered(item.kind)
        return delivered is not None and delivered[0] == item.note

    @property
    def waiting(self) -> tuple[int, float | None]:
        """How many wait, and since when the first of them does (seconds since the epoch)."""
        with self._lock:
            entries = list(self._queue.values())
        return len(entries), min((each.since for each in entries), default=None)

    def _forget(self, entry: Waiting) -> bool:
        """Take an entry out; False where it was out already, because it made room."""
        with self._lock:
            mine = self._queue.pop(entry.name, None) is not None
        self._remove(entry)
        return mine

    def _remove(self, entry: Waiting) -> None:
        try:
            (self.folder / entry.name).unlink(missing_ok=True)
        except OSError as error:  # it is delivered once more after the next start, which does no harm
            _LOG.warning("%s cannot be removed: %s", self.folder / entry.name, error)

    def _drop(self, sentence: str) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 ... : a long outage does not flood the log
            _LOG.warning("%s (%d given up since the start)", sentence, self.dropped)


def _readable(item: Item) -> None:
    """Raises NoteRefused (a ValueError) for what is no checkpoint: no sink could take it, and it would block all."""
    if item.kind == "checkpoint":
        item.head()
