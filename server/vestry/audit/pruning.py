"""Retention and legal hold: which records may go, and how they go (C2SP tlog-tiles, section Pruning).

Rules:
1. Only whole bundles of 256 go, from the beginning of the log: those whose records are all older than the policy,
   under a checkpoint, in no segment of the journal any more, and of no held tenant or subject. The first record that
   must stay stops it, and everything behind it stays.
2. First the record (`log.prune`) is made durable and signed, then the files go. So a crash at any point leaves a log
   that says what may be missing from it, and the next run finishes what was recorded, as far as the policy allows.
3. Files go in the order of their end, so whatever is left at any moment is a log pruned to some index, and proofs of
   what is kept stay valid: the tiles above hold the hashes of whole subtrees.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from vestry.audit import scan
from vestry.audit.content.bundles import Place
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.notary import replace_file
from vestry.audit.reading import LogReader, journal
from vestry.audit.records import Clock, Event, Records, as_recorded, microseconds_of, rfc3339
from vestry.audit.tlog.tiles import HEIGHT, WIDTH, TileMissing, Tiles, tile_path

_LOG = logging.getLogger("vestry.audit")
MARK = "pruned"
"""File beside the checkpoint that leads to the last pruning whose record is signed: its index, and the record's."""
DAY_SECONDS = 86_400
SIGNING_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_PRUNE = b'"type":"log.prune"'


class Hold(Struct, frozen=True):
    """A legal hold: what is of this tenant, of this subject, or of this subject in this tenant, is neither pruned nor
    erased. `subject` is a name as it is, or as records have it: rather too much is held than too little.
    """

    reason: str
    tenant: str = ""
    subject: str = ""

    def holds(self, tenant: str, subject: str) -> bool:
        """Whether it covers a subject, as records have it, of a tenant."""
        return not self.names.isdisjoint(_covering(tenant, subject))

    def __str__(self) -> str:
        whom = [f"tenant `{self.tenant}`"] if self.tenant else []
        whom += [f"subject `{self.subject}`"] if self.subject else []
        return f"the hold on {' and '.join(whom)} ({self.reason})"

    @property
    def names(self) -> set[tuple[str, str]]:
        """Tenant and subject as records may have them; empty for any."""
        subjects = {self.subject, as_recorded(self.subject)} if self.subject else {""}
        return {(self.tenant, subject) for subject in subjects}


def _covering(tenant: str, subject: str) -> tuple[tuple[str, str], ...]:
    """The `Hold.names` of all holds that cover a subject of a tenant."""
    return (tenant, subject), (tenant, ""), ("", subject), ("", "")


Holds = Mapping[tuple[str, str], Hold]
"""By whom they cover (`Hold.names`): a record is held against thousands as quickly as against one."""


class Policy(Struct, frozen=True):
    """What may be pruned, and what never. `days` is how long every record is kept at least, counted back from now, and
    from `latest` (microseconds since the epoch) where that is earlier; the digest is that of the settings that say so.
    """

    days: int
    holds: tuple[Hold, ...] = ()
    configuration_digest: str = ""
    latest: int | None = None

    def __str__(self) -> str:
        held = f"; {len(self.holds)} legal holds" if self.holds else ""
        return f"records are kept for {self.days} days{held}"


class Plan(Struct, frozen=True):
    """What may go now. `start` is the first record there is, `minimum` the new first; `recorded` is how far an earlier
    pruning is recorded, and `why` says what keeps the record at `minimum`: nothing but the journal, if `in_journal`.
    """

    start: int
    minimum: int
    recorded: int
    why: str
    in_journal: bool

    @property
    def records(self) -> int:
        return self.minimum - self.start


class Halted(Exception):  # noqa: N818 - what became of the work
    """The server stops, and the rest is left to its next start."""


class Ledger(Protocol):
    """The log's own writer. Both raise what the log raises."""

    def record(self, event: Event) -> None:
        """Durable when this returns."""

    def sign(self) -> None:
        """Ask for a checkpoint that covers it, soon."""


class _Kept(Struct):
    """What is read of a record to see whether it must stay."""

    time: str
    tenant: str = ""
    subject: str = ""


class _Prune(Struct):
    type: str
    minimum_index: int = 0


_kept = msgspec.json.Decoder(_Kept).decode
_prune = msgspec.json.Decoder(_Prune).decode


def plan(home: Path, policy: Policy, *, clock: Clock | None = None, halted: Callable[[], bool] = bool) -> Plan:
    """What may go from the log in `home` now. Changes nothing. Raises NoLog; ValueError, TileMissing for damage."""
    reader = LogReader(home)
    head = reader.head()
    size = 0 if head is None else head.size
    start = min(reader.minimum, size)
    recorded = _marked(home, size)
    paths = scan.segments(home)
    kept_from = scan.first_index(paths[0]) if paths else size
    in_journal = False
    cutoff = _cutoff(policy, clock)
    holds = {names: hold for hold in policy.holds for names in hold.names}
    tiles = Tiles(home, size)
    minimum, why = start, ""
    while not why:
        end = minimum + WIDTH
        if halted():
            raise Halted
        if end > size:
            why = "the rest is not under a checkpoint in whole bundles of 256 records"
        elif why := _stays(tiles, minimum, cutoff, policy, holds, gone=end <= recorded):
            break
        elif in_journal := end > kept_from:
            why = f"the journal still holds the records from {kept_from} on; they go when it has moved on"
        else:
            minimum = end
    return Plan(start, minimum, min(recorded, minimum), why, in_journal)


def _cutoff(policy: Policy, clock: Clock | None) -> str:
    """What is older than this may go."""
    now = (clock or Clock()).wall()
    latest = now if policy.latest is None else min(now, policy.latest)
    return rfc3339(latest - policy.days * DAY_SECONDS * 1_000_000)


def earliest(home: Path) -> int:
    """The earliest time in the journal, in microseconds since the epoch: a day or two ago, of a log in use. Its
    segments may have begun while the clock was ahead, but some of their records are from other moments.
    """
    found = ""
    for index, leaf in journal(home):
        if index % WIDTH == 0:
            time.sleep(0)  # the event loop's thread first
        said = _kept(leaf).time
        found = min(found or said, said)
    return microseconds_of(found) if found else 0


def _stays(tiles: Tiles, first: int, cutoff: str, policy: Policy, holds: Holds, *, gone: bool) -> str:
    """Why the bundle that begins with record `first` must stay; empty if it may go. A `gone` one may be missing."""
    try:
        leaves = tiles.bundle(first // WIDTH)
    except TileMissing:
        if gone:
            return ""
        raise
    for index, leaf in enumerate(leaves, start=first):
        record = _kept(leaf)
        if record.time >= cutoff:
            return f"record {index} is from {record.time}, and {policy.days} days are kept"
        for names in _covering(record.tenant, record.subject) if holds else ():
            if (hold := holds.get(names)) is not None:
                return f"record {index}, from {record.time}, is kept by {hold}"
    return ""


def prune(
    home: Path,
    policy: Policy,
    ledger: Ledger,
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    signing_seconds: float = SIGNING_SECONDS,
    halted: Callable[[], bool] = bool,
) -> Plan:
    """Record what may go, see it signed, and remove it; then finish what an earlier run left. Blocks.

    Nothing is removed where the record is not signed within `signing_seconds`. Once `halted` says so it ends with
    Halted. Raises as `plan` and the ledger do, TimeoutError, and OSError where a file cannot be removed; the next run
    goes on.
    """
    files = files or Files()
    found = plan(home, policy, clock=clock, halted=halted)
    if found.minimum > found.recorded and found.records:
        begin = _size(home)
        ledger.record(event(found, policy, Records(clock=clock)))
        ledger.sign()
        index = _signed(home, begin, found.minimum, signing_seconds, halted)
        if index is None:
            raise TimeoutError(f"no checkpoint came within {signing_seconds:g} s, so nothing was removed")
        replace_file(home / MARK, msgspec.json.encode({"minimum_index": found.minimum, "record": index}), files)
    if found.records:
        remove(home, found.start, found.minimum, files, halted)
        _LOG.info("the records below %d were pruned: %s", found.minimum, policy)
    if found.minimum:  # whoever pruned last may have died before its content went
        forget(home, policy, files, clock=clock, halted=halted)
    return found


def event(found: Plan, policy: Policy, records: Records) -> Event:
    """The record of a pruning."""
    return records.event(
        RecordType.LOG_PRUNE,
        minimum_index=found.minimum,
        records=found.records,
        cause=str(policy),
        configuration_digest=policy.configuration_digest,
    )


def remove(home: Path, start: int, minimum: int, files: Files, halted: Callable[[], bool] = bool) -> None:
    """Remove every tile and bundle whose end index is at or below `minimum`, in the order of their ends.

    Begins one bundle before `start`: a crash may have left the tiles that end with it. Raises OSError, and Halted.
    """
    folder: Path | None = None
    for path in _ended(max(0, start - WIDTH), minimum):
        if halted():
            raise Halted
        place = home / path
        if folder is not None and place.parent != folder and "/entries/" in path:
            _leave(folder, home / "tile", files)
        if "/entries/" in path:
            folder = place.parent
        for each in (place, *_partials(place)):
            with suppress(FileNotFoundError):
                files.remove(each)
        with suppress(OSError):
            place.with_name(f"{place.name}.p").rmdir()
    if folder is not None:
        _leave(folder, home / "tile", files)
        for level in (home / "tile").iterdir():
            _tidy(level, files)


def forget(
    home: Path, policy: Policy, files: Files, *, clock: Clock | None = None, halted: Callable[[], bool] = bool
) -> list[str]:
    """Remove what content is kept of calls whose records have gone: bundles of days before the first record's, and
    before those that the policy keeps, because a clock that was wrong may have given the first one any time.

    A hold keeps the content of each record that is kept, whatever its time: then all of them are read, where there is
    anything to remove. A content is written before the record that names it, at most a day before. Returns the
    bundles' names. Raises OSError, Halted, ValueError for a record without a time, TileMissing or LogDamaged for one
    that is missing.
    """
    place, leaves = Place(home), LogReader(home).leaves()
    first = next(leaves, None)
    if first is None:
        return []
    oldest = min(_kept(first[1]).time, _cutoff(policy, clock))
    gone = _before(place, oldest)
    if gone and policy.holds:
        for index, leaf in leaves:
            if index % WIDTH == 0:
                time.sleep(0)  # the event loop's thread first
                if halted():
                    raise Halted
            oldest = min(oldest, _kept(leaf).time)
        gone = _before(place, oldest)
    for folder in (place.blobs, place.keys):
        for name in gone:
            with suppress(FileNotFoundError):
                files.remove(folder / name)
        if gone:
            files.sync_directory(folder)
    return gone


def _before(place: Place, oldest: str) -> list[str]:
    """The bundles of content that are older than all that a record of this time, or a later one, may name."""
    day = rfc3339(microseconds_of(oldest) - DAY_SECONDS * 1_000_000)[:10].replace("-", "")
    return [name for name in place.names() if name[:8] < day]


def _ended(start: int, minimum: int) -> Iterator[str]:
    """Paths of what ends between two multiples of 256, the later one included."""
    for bundle in range(start // WIDTH, minimum // WIDTH):
        yield tile_path("entries", bundle)
        number, level = bundle, 0
        while True:
            yield tile_path(level, number)
            if (number + 1) % WIDTH:
                break
            number, level = number >> HEIGHT, level + 1


def _partials(place: Path) -> Sequence[Path]:
    folder = place.with_name(f"{place.name}.p")
    return list(folder.iterdir()) if folder.is_dir() else []


def _leave(folder: Path, top: Path, files: Files) -> None:
    """A folder is done with: make that durable, and remove it where it is empty, with those above."""
    if folder.is_dir():
        files.sync_directory(folder)
    while folder not in {top, top / "entries"} and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
        files.sync_directory(folder)


def _tidy(level: Path, files: Files) -> None:
    """Remove the folders of a level that are empty."""
    for folder in sorted(level.rglob("x[0-9][0-9][0-9]"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            files.sync_directory(folder.parent)


def _size(home: Path) -> int:
    head = LogReader(home).head()
    return 0 if head is None else head.size


def _signed(home: Path, begin: int, minimum: int, seconds: float, halted: Callable[[], bool]) -> int | None:
    """Where the record of this pruning stands, once a checkpoint covers it; None after so many seconds."""
    until = time.monotonic() + seconds
    index: int | None = None
    while time.monotonic() < until:
        if index is None:
            index = _find(journal(home, begin), minimum)
        if index is not None and _size(home) > index:
            return index
        if halted():
            raise Halted
        time.sleep(_LOOK_SECONDS)
    return None


def _find(leaves: Iterator[tuple[int, bytes]], minimum: int) -> int | None:
    for index, leaf in leaves:
        if _PRUNE in leaf and _is_prune(leaf, minimum):
            return index
    return None


def _is_prune(leaf: bytes, minimum: int) -> bool:
    try:
        record = _prune(leaf)
    except (ValueError, RecursionError):
        return False
    return record.type == RecordType.LOG_PRUNE and record.minimum_index == minimum


def _marked(home: Path, size: int) -> int:
    """How far a pruning is recorded, by its own signed record, to which the mark only leads; 0 where none is."""
    try:
        mark: dict[str, Any] = msgspec.json.decode((home / MARK).read_bytes()[:1024], type=dict)
        minimum, index = mark["minimum_index"], mark["record"]
    except (OSError, ValueError, KeyError):
        return 0
    if not (isinstance(minimum, int) and isinstance(index, int) and 0 < minimum <= index < size) or minimum % WIDTH:
        return 0
    try:
        leaf = Tiles(home, size).bundle(index // WIDTH)[index % WIDTH]
    except (TileMissing, ValueError, IndexError):
        return 0
    return minimum if _is_prune(leaf, minimum) else 0
