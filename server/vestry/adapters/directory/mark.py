"""Whether a SQLite directory has changed: asked by every call, answered without waiting.

Whoever changes the directory through this program writes a new mark into a small file beside it once the change is
committed, and what is in memory is used only if that mark was read after the call had arrived: so a revocation acts on
the next call after `vestry keys revoke` has said that it is done. Calls that had arrived together share one read. That
another program has committed something (`PRAGMA data_version`), or that a file was removed or replaced, is noticed
within LOOK_SECONDS: asking SQLite costs ten times what the mark does, and stat(2) as much as the mark. Noting when keys
were used is a commit too, but no change: a counter in the file, which triggers raise, tells them apart.

https://sqlite.org/pragma.html
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from vestry.adapters.directory.faults import OLDER, DirectoryFault, Unfit

WAIT_SECONDS = 0.02
RETRY_SECONDS = 0.1
LOOK_SECONDS = 0.25
MARK_BYTES = 16
COUNT_BYTES = 8
"""Behind the mark: how many changes there had been. A copy that is put in the file's place has had fewer."""
log = logging.getLogger("vestry")


class FileFreshness:
    """seams.Freshness, with a connection of its own. One thread's."""

    def __init__(
        self,
        path: Path,
        verify: Callable[[sqlite3.Connection], None],
        fault: Callable[[Exception], DirectoryFault],
    ) -> None:
        self._path, self._verify, self._fault = path, verify, fault
        self._mark_path = path.with_name(path.name + "-mark")
        self._mark_file = -1
        self._mark = b""
        self._reading: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()
        self._version: tuple[int, ...] = ()
        self._counted: tuple[int, ...] = ()
        self._marked = self._changes = 0
        self._told = (0, 0)
        self._epoch = 0
        self._look_at = 0.0
        self._seen = -math.inf
        self._refusal: DirectoryFault | None = None
        self._closed_until = 0.0

    def epoch(self, arrived: float) -> int:
        """As seams.Freshness. Raises DirectoryFault where the file cannot be read."""
        if self._reading is None or self._seen <= arrived:
            try:
                self._see()
            except (sqlite3.Error, OSError, Unfit) as error:
                raise self._lost(error) from error
        return self._epoch

    def missing(self) -> str:
        """Why the file cannot be read now; empty where it can."""
        try:
            self.epoch(math.inf)
        except DirectoryFault as fault:
            return fault.why
        return ""

    def changed(self, changes: int) -> None:
        """Say that the directory has changed, so often by now. If that fails, others notice within LOOK_SECONDS."""
        self._epoch += 1
        with contextlib.suppress(OSError):
            mark = os.open(self._mark_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(mark, os.urandom(MARK_BYTES) + changes.to_bytes(COUNT_BYTES, signed=True), 0)
            finally:
                os.close(mark)

    def close(self) -> None:
        """Close the connection; `epoch` opens it again."""
        reading, self._reading = self._reading, None
        self._identity, self._version, self._counted = (), (), ()
        self._epoch += 1
        self._close_mark()
        if reading is not None:
            with contextlib.suppress(sqlite3.Error):
                reading.close()

    def _see(self) -> None:
        """Make sure that the epoch is the one of now."""
        moment = time.monotonic()
        if (
            self._reading is None
            or moment >= self._look_at
            or self._mark_file < 0
            or os.pread(self._mark_file, MARK_BYTES, 0) != self._mark
        ):
            self._look()
        self._seen = moment

    def _look(self) -> None:
        """Open the file, unless it is the one that is open; another epoch begins if anything has changed."""
        self._read_mark()  # first: a change that comes after it shows at the next call
        status = self._path.stat()
        identity = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        moment = time.monotonic()
        self._look_at = moment + LOOK_SECONDS
        if self._reading is None or identity != self._identity:
            if self._refusal is not None and moment < self._closed_until:
                raise self._refusal
            reading = self._open(identity)
        else:
            reading = self._reading
        version: tuple[int, ...] = next(reading.execute("PRAGMA data_version"))
        if version != self._version:
            counted = (*_first(reading, "SELECT changes FROM store"), *_first(reading, "PRAGMA schema_version"))
            if counted != self._counted:
                self._epoch += 1
                self._look_back(counted[0] if counted else 0)
            self._version, self._counted = version, counted

    def _look_back(self, changes: int) -> None:
        """Say it if the file has had fewer changes than before. The mark was read first, and is no newer."""
        before = max(self._changes, self._marked)
        if changes < before and self._told != (changes, before):
            self._told = changes, before
            log.warning(OLDER, changes, before)
        self._changes = changes

    def _open(self, identity: tuple[int, ...]) -> sqlite3.Connection:
        """Open the file. Its identity was taken before, so that a change in between shows at the next look."""
        uri = f"{self._path.as_uri()}?mode=rw"
        reading = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            reading.execute("PRAGMA query_only = ON")
            self._verify(reading)
        except BaseException:
            reading.close()
            raise
        self.close()  # after the other is open: the last connection to be closed would copy the log, and wait for it
        self._reading, self._identity, self._refusal = reading, identity, None
        self._read_mark()
        return reading

    def _lost(self, error: Exception) -> DirectoryFault:
        """Forget everything. A bad file is not opened again at once: opening may wait for a lock."""
        self.close()
        fault = self._fault(error)
        if not isinstance(error, FileNotFoundError):
            self._refusal, self._closed_until = fault, time.monotonic() + RETRY_SECONDS
        return fault

    def _read_mark(self) -> None:
        """Read the mark from the file that now has its name. Where there is none every call asks SQLite."""
        try:
            named = self._mark_path.stat()
            if self._mark_file < 0 or not os.path.samestat(named, os.fstat(self._mark_file)):
                self._close_mark()
                self._mark_file = os.open(self._mark_path, os.O_RDONLY | os.O_CLOEXEC)
            read = os.pread(self._mark_file, MARK_BYTES + COUNT_BYTES, 0)
            self._mark, counted = read[:MARK_BYTES], read[MARK_BYTES:]
            self._marked = int.from_bytes(counted, signed=True) if len(counted) == COUNT_BYTES else 0
        except OSError:
            self._close_mark()

    def _close_mark(self) -> None:
        if self._mark_file >= 0:
            os.close(self._mark_file)
        self._mark_file = -1


def _first(reading: sqlite3.Connection, asked: str) -> tuple[int, ...]:
    found: tuple[int, ...] = next(reading.execute(asked), ())
    return found
