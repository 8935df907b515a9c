"""An index beside the log: which of its blocks hold which values. It can be made anew at any time, and is never the
truth: it only says which blocks are worth reading, and every record in them is looked at itself.

A block is 256 records, as one bundle of the log holds. The index knows, for every term (a field and its value, hashed
to 64 bits), the blocks that have it, and for every block the span of its times. Only settled, whole blocks are
indexed; what comes after is read. A digest of the last indexed block tells whether this is still the same log.

One command at a time uses an index, by a lock beside it; another waits, or reads the log itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vestry.audit.finding.filters import Filter, row_of
from vestry.audit.finding.walk import Walker
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.tiles import WIDTH

VERSION = 1
INDEX = "index.sqlite"
CHUNK_BLOCKS = 64
"""Blocks that are added in one transaction: about 25 MB of records at most are read for it, one at a time."""
WAIT_SECONDS = 120.0
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE blocks (block INTEGER PRIMARY KEY, lowest INTEGER NOT NULL, highest INTEGER NOT NULL);
CREATE TABLE terms (term INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (term, block)) WITHOUT ROWID;
"""
Advance = Callable[[int], None]


class IndexUnusable(Exception):  # noqa: N818 - a state, told to the user
    """There is no index to be had here: the sentence says why. The log can be read all the same."""


class Index:
    """An open index of one log. Use `opened`."""

    def __init__(self, database: sqlite3.Connection, walker: Walker) -> None:
        self._database, self._walker = database, walker

    @property
    def end(self) -> int:
        """Records below this index are in it."""
        return int(self._about("next", 0)) * WIDTH

    @property
    def first(self) -> int:
        """Records from this index on are in it."""
        return int(self._about("first", 0)) * WIDTH

    def current(self) -> bool:
        """Whether it is an index of this very log, in the form that this program knows, and undamaged."""
        try:
            sound = self._database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            if not sound or self._about("version", None) != VERSION:
                return False
            end = self.end
            if end == 0 or end > self._walker.settled() or end - WIDTH < self._walker.first():
                return end == 0
            return bool(self._about("digest", b"") == self._digest(end // WIDTH - 1))
        except (sqlite3.DatabaseError, TypeError, ValueError):
            return False

    def create(self) -> None:
        """Make the tables of an empty index."""
        self._database.executescript(_TABLES)
        with self._database:
            self._set("version", VERSION)

    def due(self) -> int:
        """How many records there are to be added."""
        return max(0, self._walker.settled() // WIDTH * WIDTH - max(self.end, self._walker.first()))

    def grow(self, advance: Advance) -> None:
        """Add what has settled. `advance` is told of every so many records. Raises LogDamaged, sqlite3.Error."""
        stop = self._walker.settled() // WIDTH
        block = self._begin(self.end // WIDTH)
        while block < stop:
            upto = min(stop, block + CHUNK_BLOCKS)
            try:
                with self._database:
                    self._add(block, upto)
            except LogDamaged:
                if (begin := self._begin(block)) == block:
                    raise
                block = begin  # they were pruned meanwhile
                continue
            advance((upto - block) * WIDTH)
            block = upto

    def _begin(self, block: int) -> int:
        """The first block to add, from this one on: the log may begin later, which is noted then."""
        first = self._walker.first() // WIDTH
        if first > block:
            with self._database:
                self._set("first", first)
        return max(first, block)

    def blocks(self, wanted: Filter) -> list[int]:
        """Blocks that may hold what is looked for, in order."""
        query = "SELECT block FROM blocks WHERE 1"
        values: list[int] = []
        if wanted.since is not None:
            query, values = f"{query} AND highest >= ?", [*values, wanted.since]
        if wanted.until is not None:
            query, values = f"{query} AND lowest < ?", [*values, wanted.until]
        found = {block for (block,) in self._database.execute(query, values)} if values else None
        for name, alternatives in wanted.wanted.items():
            having: set[int] = set()
            for value in alternatives:
                rows = self._database.execute("SELECT block FROM terms WHERE term = ?", (term(name, value),))
                having.update(block for (block,) in rows)
            found = having if found is None else found & having
        if found is None:
            found = {block for (block,) in self._database.execute("SELECT block FROM blocks")}
        return sorted(found)

    def _add(self, start: int, stop: int) -> None:
        terms: set[tuple[int, int]] = set()
        known: dict[tuple[str, str], int] = {}
        blocks: list[tuple[int, int, int]] = []
        digest = hashlib.sha256()
        lowest = highest = 0
        for index, leaf in self._walker.records(start * WIDTH, stop * WIDTH):
            block, place = divmod(index, WIDTH)
            row, moment = row_of(leaf, f"record {index} of {self._walker.home}")
            if place == 0:
                digest, lowest, highest = hashlib.sha256(), moment, moment
            lowest, highest = min(lowest, moment), max(highest, moment)
            digest.update(leaf + b"\n")
            for pair in row.terms():
                number = known.get(pair)
                if number is None:
                    number = known[pair] = term(*pair)
                terms.add((number, block))
            if place == WIDTH - 1:
                blocks.append((block, lowest, highest))
        self._database.executemany("INSERT INTO terms VALUES (?, ?)", sorted(terms))
        self._database.executemany("INSERT INTO blocks VALUES (?, ?, ?)", blocks)
        self._set("next", stop)
        self._set("digest", digest.digest())

    def _digest(self, block: int) -> bytes:
        digest = hashlib.sha256()
        for _, leaf in self._walker.records(block * WIDTH, (block + 1) * WIDTH):
            digest.update(leaf + b"\n")
        return digest.digest()

    def _about(self, name: str, default: Any) -> Any:
        found = self._database.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return default if found is None else found[0]

    def _set(self, name: str, value: int | bytes) -> None:
        self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))


def term(name: str, value: str) -> int:
    """The number that stands for a field's value: 64 bits, signed as SQLite has them. Alike ones cost time, no more."""
    text = f"{name}\0{value}".encode(errors="surrogatepass")  # what a terminal gave may be no UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


@contextlib.contextmanager
def opened(walker: Walker, path: Path, *, rebuild: bool = False, wait: float = WAIT_SECONDS) -> Iterator[Index]:
    """The index of a log, at `path`; an empty one where there is none that fits. Raises IndexUnusable."""
    lock = _lock(path.with_suffix(".lock"), wait)
    try:
        index, database = _open(walker, path, anew=rebuild)
        try:
            yield index
        finally:
            database.close()
    except (sqlite3.Error, OSError) as error:
        raise IndexUnusable(f"the index {path} cannot be used: {error}") from error
    finally:
        os.close(lock)


def _open(walker: Walker, path: Path, *, anew: bool) -> tuple[Index, sqlite3.Connection]:
    if not anew and path.exists():
        database = _connect(path)
        index = Index(database, walker)
        if index.current():
            return index, database
        database.close()
    for each in (path, path.with_name(f"{path.name}-journal")):
        each.unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    database = _connect(path)
    index = Index(database, walker)
    index.create()
    return index, database


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5.0)
    with contextlib.suppress(sqlite3.DatabaseError):  # what is no database shows when it is used
        database.execute("PRAGMA synchronous = OFF")  # a lost index is made anew
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cache_size = -65536")
    return database


def _lock(path: Path, wait: float) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise IndexUnusable(f"no index can be kept in {path.parent}: {error.strerror}") from error
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise IndexUnusable("another command has been using the index for too long") from None
            time.sleep(0.05)
        except OSError as error:  # ENOLCK: some network file systems have none
            os.close(descriptor)
            raise IndexUnusable(f"no index can be kept in {path.parent}: {error.strerror}") from error
        else:
            return descriptor
