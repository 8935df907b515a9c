"""The log on disk: appends batches of records to segments, and brings itself back after a failed write.

Rules:
1. A batch is one write and one fdatasync. It is acknowledged when both have worked and the file has exactly
   the size that it should have; not before.
2. After a failure nothing is written until `recover` has cut the file back to its last acknowledged size. So
   an index that was given to a failed batch is given again, and stands in the log once.
3. After a failed fdatasync the state of the file's cached pages is unknown, and a second fdatasync may report
   success for pages that were dropped. So the log goes on in a new segment, in a new file.
4. A segment begins with `segment.begin` records that list the intents open at that point. So the last segment
   alone tells which intents a crash left open, however long the log is.
5. A turn to a new segment that has failed is due until it has succeeded, whatever the clock says by then: nothing
   is acknowledged in the old file while there may be a new one, which the next opening would take for the last.
6. Nothing is acknowledged, cut back, removed or signed where the lock under its name is not the one that is held: it
   was removed, or the directory moved or replaced, and another process may have opened the log.

One thread at a time may use a store. `vestry.audit.opening` opens one. What is durable goes to the notary, in order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from vestry.audit.calls import IntentRecord, OutcomeRecord
from vestry.audit.canonical import NotCanonical, leaf, placed, said
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.forms import OPEN_INTENTS_EACH
from vestry.audit.notary import Notary
from vestry.audit.reading import LogReader
from vestry.audit.records import Event, Records, microseconds_of
from vestry.audit.scan import BATCH_BYTES, CLOSING, lines, name_of, parse, segments
from vestry.faults import cause_of
from vestry.seams import Record

SEGMENT_SECONDS = 86_400
"""A segment that is older ends, however small: retention waits for a record to be in bundles alone."""
SIGNING_SECONDS = 10.0
"""How long closing waits for the notary to finish what it does."""
ROOM_SECONDS = 1.0
"""How long a commit waits for the tree to take what was written before: less than a call waits for its record."""
LOCK = "lock"
HELD_SECONDS = 0.01
"""For so long one look at the names of lock and segment holds, since each costs the thread its turn under load. Whoever
makes a lock anew beside a journal waits for longer before reading it: what was acknowledged until then is found."""
_TAIL = 512


class WriteFailed(Exception):  # noqa: N818 - what happened to the batch
    """The batch is not acknowledged. `cause` is short: `ENOSPC`, `EIO`, `short_write`, …."""

    def __init__(self, cause: str, sentence: str) -> None:
        super().__init__(sentence)
        self.cause = cause


class Committed(Struct, frozen=True):
    """A durable batch: how many of the given records it took, its leaves in order, its size in bytes, and what
    was wrong with those records (by their place among the given ones) that have no leaf.
    """

    taken: int
    leaves: list[bytes]
    size: int
    unfit: dict[int, NotCanonical]


class Store:
    """An open log. Every method but `close` raises WriteFailed where the disk does. `notary` is set by who opens it."""

    notary: Notary

    def __init__(
        self, directory: Path, origin: str, lock: int, *, segment_bytes: int, files: Files, records: Records
    ) -> None:
        self.directory = directory
        self.origin = origin
        self.next_index = 0
        self.open_intents: dict[str, int] = {}
        self.broken = ""
        self.discarded = 0
        self.origins: list[str] = []
        self._lock, self._lock_path = lock, directory / LOCK
        self._held, self._looked_at = files.state(lock).which, -HELD_SECONDS
        self._segment_bytes = segment_bytes
        self._files = files
        self._records = records
        self._path: Path | None = None
        self._file = -1
        self._mine = (0, 0)
        self._size = 0
        self._tail = b""
        self._begun = b""
        self._left: tuple[Path, tuple[int, int], bytes] | None = None
        self._doubtful = False
        self._turn_at = 0

    def go_on(self, path: Path, size: int, next_index: int, open_intents: dict[str, int]) -> None:
        """Go on behind what a scan has found. Raises OSError."""
        self._open(path)
        self._tail = _read(path, max(0, size - _TAIL), size)
        self._path, self._size, self.next_index, self.open_intents = path, size, next_index, open_intents
        first = parse(next(lines(path), b""))
        self._turn_at = 0 if first is None else microseconds_of(first.time) + SEGMENT_SECONDS * 1_000_000

    def commit(self, records: Sequence[Record]) -> Committed:
        """Append records until the batch is full; those taken are durable when this returns, unfit ones left out."""
        if self.broken:
            raise WriteFailed(self.broken, "an earlier write failed, and the log has not recovered yet")
        if not self.notary.has_room(ROOM_SECONDS):
            raise self._broke("tree_behind", "the tree of the log cannot be written, and too many records wait for it")
        self._hold()
        if self._path is None or self._size >= self._segment_bytes or self._records.wall() >= self._turn_at:
            self._begin_segment()
        leaves: list[bytes] = []
        taken: list[Record] = []
        unfit: dict[int, NotCanonical] = {}
        index, origin, size = self.next_index, self.origin, 0
        for position, record in enumerate(records):
            try:
                encoded = leaf(placed(record, index, origin))
            except NotCanonical as error:
                unfit[position] = error
                continue
            leaves.append(encoded)
            taken.append(record)
            index += 1
            size += len(encoded)
            if size >= BATCH_BYTES:
                break
        if leaves:
            size = self._append(leaves)
            self.notary.take(leaves)
            self._follow(taken)
        return Committed(len(taken) + len(unfit), leaves, size, unfit)

    def recover(self, report: Event) -> Committed:
        """Bring the log back after a failure, and record `report` (a `log.recovered` record) to prove it."""
        if self._path is not None:
            try:
                if not self.holds():
                    self._regain(self._path)
                self._cut_back(self._path)
            except OSError as error:
                self._doubtful = True
                raise self._failed(error) from error
        self.broken = ""
        if self._doubtful:
            self._begin_segment()
            self._doubtful = False
        committed = self.commit([{**report, "discarded_bytes": self.discarded}])
        self.discarded = 0
        return committed

    def holds(self) -> bool:
        """Whether the lock that keeps other writers out is still this log's own. Raises OSError."""
        there = self._files.there(self._lock_path)
        return there is not None and there.which == self._held

    def fail(self, cause: str) -> None:
        """Take the log as broken: for a fault that is not the disk's."""
        self.broken, self._doubtful = cause, True

    def close(self) -> None:
        """Sign a last checkpoint, and let go of the files."""
        self.broken = "closed"
        if self._lock >= 0:
            self.notary.close(SIGNING_SECONDS)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files and, last of all, of the lock."""
        self.broken = "closed"
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                with suppress(OSError):
                    self._files.close(descriptor)
        self._file = self._lock = -1

    def _append(self, leaves: list[bytes]) -> int:
        """One write, one fdatasync. Leaves are joined by line feeds, which they never hold themselves."""
        data = self._begun = b"\n".join(leaves) + b"\n"
        wrote = False
        try:
            taken = self._files.write(self._file, data)
            if taken != len(data):
                raise self._broke("short_write", f"only {taken} of {len(data)} bytes were written")
            wrote = True
            self._files.sync(self._file)
            found = self._files.state(self._file)
        except OSError as error:
            self._doubtful = self._doubtful or wrote
            raise self._failed(error) from error
        if found.size != self._size + len(data) or not found.names:
            self._doubtful = True
            raise self._broke("changed_outside", f"{self._path} was changed or removed by another program")
        self._hold()
        self._begun = b""
        self._size += len(data)
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        self.next_index += len(leaves)
        return len(data)

    def _follow(self, taken: Sequence[Record]) -> None:
        """Keep the set of open intents."""
        index = self.next_index - len(taken)
        for record in taken:
            if record.__class__ is IntentRecord:
                self.open_intents[record.request_id] = index
            elif record.__class__ is OutcomeRecord:
                self.open_intents.pop(record.request_id, None)
            elif said(record, "type") in CLOSING:
                self.open_intents.pop(said(record, "request_id"), None)
            index += 1

    def _begin_segment(self) -> None:
        """Go on in a new file, durable with its directory entry and its `segment.begin` records."""
        self._hold()
        path = self.directory / name_of(self.next_index)
        before = (self._path, self._file, self._mine, self._size, self._tail, self.next_index)
        self._turn_at = 0
        try:
            with suppress(FileNotFoundError):
                self._files.remove(path)  # left by an attempt that failed: none of it was acknowledged
            created = self._files.create(path)
            mine = self._files.state(created).which
        except OSError as error:
            raise self._failed(error) from error
        self._path, self._file, self._mine, self._size, self._tail = path, created, mine, 0, b""
        beginning = self._beginning()
        try:
            for batch in beginning:
                self._append(batch)
            self._files.sync_directory(self.directory)
        except BaseException as error:
            self._path, self._file, self._mine, self._size, self._tail, self.next_index = before
            self._left = path, mine, b"".join(b"%b\n" % each for batch in beginning for each in batch)
            self._undo(path, created)
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise
        self._turn_at = self._records.wall() + SEGMENT_SECONDS * 1_000_000
        for batch in beginning:
            self.notary.take(batch)
        if before[1] >= 0:
            with suppress(OSError):
                self._files.close(before[1])

    def _undo(self, path: Path, created: int) -> None:
        """Let go of a segment that could not be begun, and remove it, as far as the disk lets us; but not where another
        process may go on in it by now.
        """
        with suppress(OSError):
            self._files.close(created)
        with suppress(OSError):
            if self.holds():
                self._files.remove(path)
                self._files.sync_directory(self.directory)

    def _beginning(self) -> list[list[bytes]]:
        """The leaves that begin a segment, in batches."""
        listed = [{"index": index, "request_id": name} for name, index in self.open_intents.items()]
        parts = [listed[at : at + OPEN_INTENTS_EACH] for at in range(0, len(listed), OPEN_INTENTS_EACH)] or [[]]
        leaves = []
        for number, part in enumerate(parts):
            record = self._records.event(RecordType.SEGMENT_BEGIN, part=number + 1, parts=len(parts), open_intents=part)
            leaves.append(leaf(placed(record, self.next_index + number, self.origin)))
        each = BATCH_BYTES // (1 << 16)
        return [leaves[at : at + each] for at in range(0, len(leaves), each)]

    def _hold(self) -> None:
        """Raises WriteFailed where another process may have opened the log, or would not find this segment. Looks again
        after HELD_SECONDS.
        """
        now = time.monotonic()
        if now - self._looked_at < HELD_SECONDS:
            return
        try:
            held = self.holds()
            there = None if self._path is None else self._files.there(self._path)
        except OSError as error:
            raise self._failed(error) from error
        if not held:
            raise self._broke(
                "lock_lost",
                f"{self._lock_path} was removed, or its directory moved or replaced, so that another process may "
                "write to this log: put it back as it was, or restart",
            )
        if self._path is not None and (there is None or there.which != self._mine):
            raise self._broke("changed_outside", f"{self._path} was moved or replaced by another program")
        self._looked_at = now

    def _regain(self, path: Path) -> None:
        """Take the lock anew where only its file was removed: if nobody holds it, nor has written meanwhile."""
        lock = self._files.lock(self._lock_path)
        if lock is None:
            raise self._broke("lock_lost", f"another process writes to the log in {self.directory}")
        try:
            outwait(lock, self.directory, self._files)
            self._require_untouched(path)
            held = self._files.state(lock).which
        except BaseException:  # else this process would keep itself out at the next try
            self._files.close(lock)
            raise
        before, self._lock, self._held = self._lock, lock, held
        self._files.close(before)
        self._lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")

    def _require_untouched(self, path: Path) -> None:
        """Behind what was acknowledged may stand what this process itself has begun to write, and nothing else: there,
        or in the segment that it failed to begin, which goes when it is begun again. Nor has anybody else signed it.
        """
        last = segments(self.directory)
        if self._left is not None and last[-1:] == [self._left[0]] and self._wrote(*self._left):
            last.pop()
        if last[-1:] != [path] or not self._wrote(path, self._mine, self._begun, self._size):
            raise self._broke("lock_lost", f"{path} was changed by another process, or was replaced: restart")
        if self.next_index < LogReader(self.directory).signed():
            raise self._broke("lock_lost", f"the log in {self.directory} was signed by another process: restart")

    def _wrote(self, path: Path, which: tuple[int, int], begun: bytes, size: int = 0) -> bool:
        """Whether it is that file, and what stands in it from `size` on is the beginning of this. Raises OSError."""
        there = self._files.there(path)
        return there is not None and there.which == which and begun.startswith(_read(path, size))

    def _cut_back(self, path: Path) -> None:
        """Cut the file back to what was acknowledged, through a new descriptor."""
        if self._file >= 0:
            with suppress(OSError):
                self._files.close(self._file)
            self._file = -1
        size = self._open(path)
        if _read(path, self._size - len(self._tail), self._size) != self._tail:
            raise self._broke("changed_outside", f"{path} was changed by another program: restore it, or restart")
        if size > self._size:
            self._files.truncate(self._file, self._size)
        self._files.sync(self._file)
        self.discarded += size - self._size

    def _open(self, path: Path) -> int:
        """Open a segment to append to it; returns its size. Raises OSError."""
        self._file = self._files.append_to(path)
        self._mine, size, _ = self._files.state(self._file)
        return size

    def _failed(self, error: OSError) -> WriteFailed:
        return self._broke(cause_of(error), str(error))

    def _broke(self, cause: str, sentence: str) -> WriteFailed:
        self.broken = cause
        return WriteFailed(cause, sentence)


def outwait(lock: int, home: Path, files: Files) -> None:
    """Where a lock was made just now beside a journal, let the time pass in which the holder of one that was removed
    may acknowledge records without having looked. Raises OSError.
    """
    if files.state(lock).size == 0 and segments(home):
        time.sleep(2 * HELD_SECONDS)


def _read(path: Path, start: int, end: int | None = None) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(-1 if end is None else end - start)
