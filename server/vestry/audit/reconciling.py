"""Reconciliation out of the logs alone: what an earlier life of a server left, and what several logs say together.

Both read `log.reconciled` records for the engines' side, and outcomes for the log's. A call that was in progress at the
edge of the time looked at may have been worked on before or after it, so it counts as bounds: nothing at least.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from vestry.audit.completeness import NOTHING, UNKNOWN, Bounds, Reading, Share, Told, Work, shares
from vestry.audit.fields import RecordType
from vestry.audit.reading import LogReader, journal
from vestry.audit.records import microseconds_of, rfc3339
from vestry.audit.scan import first_index, segments
from vestry.audit.tlog.tiles import WIDTH, Tiles

EDGE_SECONDS = 5
"""Around the edges of the time looked at: for an engine that counts a moment later, and clocks that differ."""
LATE_SECONDS = 1
"""What an engine may count so much later than its answer has ended."""
REPLICAS = 4096
"""More replicas than this are not a house's: a log that names them is not believed."""
BACK_BUNDLES = 2048
"""How many bundles of the log are looked through for a `log.reconciled` record: half a million records."""

_RECONCILED = b'"type":"log.reconciled"'
_OUTCOME = b'"type":"outcome"'
_CLOSED = b'"type":"intent.closed"'
_START = b'"type":"server.start"'


class Row(Struct, frozen=True):
    """One replica in a `log.reconciled` record."""

    replica: str
    engine: Work = NOTHING
    least: Work = NOTHING
    most: Work = NOTHING
    unexplained: Work = NOTHING
    uncounted: Work = NOTHING
    restarts: int = 0
    readable: bool = False
    counters: Work | None = None
    read: str = ""
    started: str = ""

    @property
    def reading(self) -> Reading | None:
        """The counters that the record ends with. Raises ValueError for a time that is none."""
        if self.counters is None or not self.read:
            return None
        return Reading(self.counters, microseconds_of(self.started) if self.started else 0)


class Reconciled(Struct, frozen=True):
    """A `log.reconciled` record."""

    time: str
    since: str = ""
    cause: str = ""
    in_progress: int = 0
    replicas: tuple[Row, ...] = ()


class Past(Struct, frozen=True):
    """Where an earlier life left one replica: the counters it saw last, and the bounds of what it recorded since."""

    last: Reading
    recorded: Bounds


_reconciled = msgspec.json.Decoder(Reconciled).decode
_told = msgspec.json.Decoder(Told).decode


def past(home: Path) -> dict[str, Past]:
    """What the lives of this log's server before this one left to go on from; empty where there is nothing.

    Raises as `reconciled`, and LogDamaged.
    """
    reader = LogReader(home)
    start, found = reconciled(reader)
    left: dict[str, tuple[Reading, str]] = {}
    for each in found:
        for row in each.replicas:
            if row.reading is not None and len(left) < REPLICAS:
                left[row.replica] = (row.reading, row.read)
    bounds = {replica: Bounds() for replica in left}
    looks = {replica: (shifted(read, -LATE_SECONDS), read) for replica, (_, read) in left.items()}
    born = max((index for index, leaf in journal(home) if _START in leaf), default=0)
    for _, leaf in reader.leaves(start, born) if left else ():
        if _OUTCOME in leaf or _CLOSED in leaf:
            _count(_told(leaf), looks, bounds)
    return {replica: Past(last, bounds[replica]) for replica, (last, _) in left.items()}


def reconciled(reader: LogReader) -> tuple[int, list[Reconciled]]:
    """The newest `log.reconciled` records, and the index of a record before all of them: those that the journal holds;
    or, where all of it came later (a busy server fills it in less than an hour), the last ones before, BACK_BUNDLES
    back at most.

    Raises NoLog, TileMissing, LogDamaged, OSError, ValueError for a record that is malformed.
    """
    paths, size = segments(reader.home), reader.signed()
    first = min(size, first_index(paths[0])) if paths else size
    found = [_reconciled(leaf) for _, leaf in reader.leaves(first) if _RECONCILED in leaf]
    if found:
        return first, found
    tiles, newest = Tiles(reader.home, size), (first - 1) // WIDTH
    oldest = max(reader.minimum // WIDTH, newest - BACK_BUNDLES)
    for number in range(newest, oldest - 1, -1):
        before = found  # many replicas take several records, one behind the other: so one bundle more
        found = [_reconciled(leaf) for leaf in _in_bundle(tiles, number)] + before
        if before:
            return number * WIDTH, found
    return (oldest * WIDTH, found) if found else (first, [])


def _in_bundle(tiles: Tiles, number: int) -> list[bytes]:
    return [leaf for leaf in tiles.bundle(number) if _RECONCILED in leaf] if _RECONCILED in tiles.raw(number) else []


def _count(record: Told, looks: Mapping[str, tuple[str, str]], bounds: Mapping[str, Bounds]) -> None:
    """Add a call that the engine may have counted after the last look at its counters, which is known of those alone
    that began after it.
    """
    for share in _shares(record, bounds):
        if share.replica not in bounds:
            continue
        late, read = looks[share.replica]
        if record.time >= late:
            least = share.least if (record.began or record.time) >= read else NOTHING
            bounds[share.replica].add(least, share.most)


def _shares(record: Told, replicas: Iterable[str]) -> Iterable[Share]:
    """A call of unknown end may have been at any replica."""
    if record.type == RecordType.INTENT_CLOSED:
        return [Share(replica, NOTHING, UNKNOWN) for replica in replicas]
    return shares(record)


class Sum(Struct):
    """One replica over several logs. `since` and `until` are when its counters were read first and last."""

    replica: str
    since: str
    until: str
    last: Reading
    engine: Work = NOTHING
    recorded: Bounds = msgspec.field(default_factory=Bounds)
    restarts: int = 0

    @property
    def unexplained(self) -> Work:
        """Engine work that no record of any of the logs explains."""
        return self.engine.beyond(self.recorded.most)

    @property
    def uncounted(self) -> Work:
        """Recorded work that the engine did not count, or forgot when it was started anew."""
        return self.recorded.least.beyond(self.engine)

    def see(self, reading: Reading, read: str) -> None:
        """Another look at the same counters, by whichever server.

        Of two so near each other that clocks do not tell which came first, the one that shows less did.
        """
        work, anew = reading.since(self.last)
        if anew and reading.started == self.last.started and read < shifted(self.until, EDGE_SECONDS):
            return
        self.engine, self.restarts = self.engine.plus(work), self.restarts + anew
        self.last, self.until = reading, read


def sums(homes: Iterable[Path], step: Callable[[int], None] = lambda _records: None) -> list[Sum]:
    """What all these logs together say of each replica, sorted by name. Each log is read twice; `step` hears of it.

    Raises NoLog, TileMissing, ValueError or LogDamaged where a log cannot be read.
    """
    readers = [LogReader(home) for home in homes]
    found: dict[str, Sum] = {}
    for read, replica, reading in heapq.merge(*(_readings(reader, step) for reader in readers), key=_when):
        if replica in found:
            found[replica].see(reading, read)
        elif len(found) < REPLICAS:
            found[replica] = Sum(replica, read, read, reading)
    edges = {name: _Edges(each.since, each.until) for name, each in found.items()}
    for reader in readers:
        for _, leaf in _stepped(reader, step):
            if _OUTCOME in leaf or _CLOSED in leaf:
                _add(_told(leaf), edges, found)
    return [found[name] for name in sorted(found)]


def _readings(reader: LogReader, step: Callable[[int], None]) -> Iterator[tuple[str, str, Reading]]:
    for _, leaf in _stepped(reader, step):
        if _RECONCILED in leaf:
            for row in _reconciled(leaf).replicas:
                if (reading := row.reading) is not None:
                    yield row.read, row.replica, reading


def _when(seen: tuple[str, str, Reading]) -> tuple[str, str]:
    return seen[:2]


def _stepped(reader: LogReader, step: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    for index, leaf in reader.leaves(reader.minimum):
        if index % 4096 == 0:
            step(4096)
        yield index, leaf


class _Edges:
    """Both ends of the time looked at, with what is around them."""

    def __init__(self, since: str, until: str) -> None:
        self._first = (shifted(since, -EDGE_SECONDS), shifted(since, EDGE_SECONDS))
        self._last = (shifted(until, -EDGE_SECONDS), shifted(until, EDGE_SECONDS))

    def place(self, record: Told) -> str:
        """`in`, `out`, or `edge` for a call that was in progress at an end."""
        began = record.began or record.time
        if record.time < self._first[0] or began > self._last[1]:
            return "out"
        return "in" if began > self._first[1] and record.time < self._last[0] else "edge"


def _add(record: Told, edges: Mapping[str, _Edges], found: Mapping[str, Sum]) -> None:
    for share in _shares(record, found):
        if share.replica not in found:
            continue
        place = edges[share.replica].place(record)
        if place != "out":
            found[share.replica].recorded.add(share.least if place == "in" else NOTHING, share.most)


def shifted(time: str, seconds: int) -> str:
    """A record's time, moved. Raises ValueError."""
    return rfc3339(microseconds_of(time) + seconds * 1_000_000)
