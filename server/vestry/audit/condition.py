"""The state of one log, as its files tell it: how much there is, what is signed, and what is wrong, in words.

Reads files only, so it works beside a running server and on a copy, and it is quick however long the log is: the last
segments, the newest checkpoint, the few tiles that lead to its root, and a bounded number of bundles for the last
reconciliation. It proves nothing; that is `verify`'s.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from vestry.audit import scan
from vestry.audit.canonical import clean, printable
from vestry.audit.completeness import NOTHING, Work
from vestry.audit.reading import LogReader, NoLog, journal
from vestry.audit.reconciling import Reconciled, reconciled
from vestry.audit.records import microseconds_of
from vestry.audit.registry import HEAD, REGISTRY
from vestry.audit.tlog.merkle import root
from vestry.audit.tlog.notes import NOTE_BYTES, Checkpoint
from vestry.audit.tlog.tiles import CHECKPOINT, TileMissing, Tiles
from vestry.regular import whole

LATE_SECONDS = 300
"""A record that is so old, and under no checkpoint, is a fault."""
RECONCILED_SECONDS = 7200
NAME_CHARACTERS = 200
"""So much is shown of an engine's name."""
_TRIES = 3


class Signed(Struct, frozen=True):
    """The newest checkpoint: how many records it covers, its root, and how old its file is."""

    size: int
    root: str
    age_seconds: float


class Segment(Struct, frozen=True):
    """A file of the journal."""

    name: str
    bytes: int


class Engine(Struct, frozen=True):
    """A replica, as the newest reconciliations have it. It has `left` where it stands in earlier ones alone."""

    replica: str
    readable: bool
    unexplained: Work = NOTHING
    uncounted: Work = NOTHING
    restarts: int = 0
    left: bool = False


class Condition(Struct):
    """One log. `faults` are sentences; a log that has none is as it should be."""

    origin: str
    records: int = 0
    minimum: int = 0
    last_time: str = ""
    checkpoint: Signed | None = None
    uncovered: int = 0
    segments: list[Segment] = field(default_factory=list)
    open_intents: int = 0
    reconciled: str = ""
    engines: list[Engine] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def condition(home: Path, origin: str, *, now: Callable[[], float] = time.time) -> Condition:
    """The state of the log in `home`. Raises NoLog where there is none."""
    for left in reversed(range(_TRIES)):
        try:
            return _Look(home, origin, now()).condition()
        except (OSError, scan.LogDamaged) as error:
            if not left:  # a server that writes may remove a segment while it is read, but not each time
                return Condition(origin, faults=[f"it cannot be read: {error}"])
    raise AssertionError


def listed(directory: Path) -> list[str]:
    """Names that the registry of logs has, unproven; empty where it cannot be read. `verify` looks at its signature."""
    try:
        lines = whole(directory / REGISTRY, 4 * NOTE_BYTES).decode().partition("\n\n")[0].split("\n")
    except (OSError, ValueError):
        return []
    return [clean(line.partition(" ")[0], 64) for line in lines[2:]] if lines[0] == HEAD else []


class _Look:
    """One attempt."""

    def __init__(self, home: Path, origin: str, now: float) -> None:
        self._home, self._now = home, now
        self._reader = LogReader(home)
        self._found = Condition(origin)

    def condition(self) -> Condition:
        found = self._found
        found.minimum = self._reader.minimum
        head = self._checkpoint()
        self._journal(head)
        if head is not None:
            self._covered(head)
        self._engines()
        return found

    def _wrong(self, sentence: str) -> None:
        self._found.faults.append(sentence)

    def _checkpoint(self) -> Checkpoint | None:
        try:
            head = self._reader.head()
        except NoLog as error:
            self._wrong(str(error).rstrip("."))
            return None
        if head is None:
            self._wrong("there is no checkpoint, so nothing of it is evidence yet")
            return None
        age = max(0.0, self._now - (self._home / CHECKPOINT).stat().st_mtime)
        self._found.checkpoint = Signed(head.size, base64.b64encode(head.root).decode(), round(age, 1))
        self._found.records = head.size
        return head

    def _journal(self, head: Checkpoint | None) -> None:
        found, covered = self._found, 0 if head is None else head.size
        paths = scan.segments(self._home)
        found.segments = [Segment(path.name, path.stat().st_size) for path in paths]
        if not paths:
            return
        seen = scan.Scan(found.origin)
        good = seen.read(paths[-1])
        left = found.segments[-1].bytes - good
        if left > scan.TAIL_BYTES:
            self._wrong(f"{paths[-1].name} cannot be read from byte {good} on, and that is more than a crash can leave")
        found.open_intents, found.last_time = len(seen.open_intents), seen.last_time
        found.records = max(covered, seen.next_index)
        found.uncovered = max(0, seen.next_index - covered)
        first = scan.first_index(paths[0])
        if first > covered:
            self._wrong(f"the records from {covered} to {first - 1} are under no checkpoint and in no segment")
        elif seen.next_index < covered:
            self._wrong(f"the journal ends before record {seen.next_index}, though {covered} records are signed")
        else:
            self._late(covered)

    def _late(self, covered: int) -> None:
        for _, leaf in journal(self._home, covered):
            record = scan.parse(leaf + b"\n")
            if record is not None and self._now - microseconds_of(record.time) / 1e6 > LATE_SECONDS:
                self._wrong(
                    f"record {covered} has been under no checkpoint since {record.time}: the tree cannot be written, "
                    "the server was killed (its next start makes up for it), or this is a copy, taken before one came"
                )
            return

    def _covered(self, head: Checkpoint) -> None:
        tiles = Tiles(self._home, head.size)
        try:
            if root(head.size, tiles.subtree) != head.root:
                self._wrong(f"its tiles do not lead to the root of its checkpoint of {head.size} records")
            if head.size:
                tiles.bundle((head.size - 1) // 256)
        except TileMissing as error:
            self._wrong(str(error))
        except (ValueError, IndexError) as error:
            self._wrong(f"its tiles are damaged: {error}")

    def _engines(self) -> None:
        found = self._found
        engines: dict[str, Engine] = {}
        before: dict[str, tuple[str, Engine]] = {}
        last: Reconciled | None = None
        try:
            for each in reconciled(self._reader)[1]:
                if last is None or each.since != last.since:  # one of many replicas takes several records
                    engines = {name: replace(engine, left=True) for name, engine in engines.items()}
                last = each
                for row in last.replicas:
                    old = engines.get(row.replica, Engine(row.replica, row.readable))
                    since, base = before.get(row.replica, ("", old))
                    if since != last.since:  # else it covers the time of the one before again, and takes its place
                        base = old
                    before[row.replica] = last.since, base
                    engines[row.replica] = Engine(
                        row.replica,
                        row.readable,
                        base.unexplained.plus(row.unexplained),
                        base.uncounted.plus(row.uncounted),
                        base.restarts + row.restarts,
                    )
        except NoLog:
            return  # its checkpoint is no checkpoint, which was said
        except (TileMissing, scan.LogDamaged) as error:
            self._wrong(str(error).rstrip("."))
        except ValueError as error:
            self._wrong(f"a log.reconciled record cannot be read: {error}")
        if last is None:
            return
        found.reconciled, found.engines = last.time, [engines[name] for name in sorted(engines)]
        self._judge(last)

    def _judge(self, last: Reconciled) -> None:
        for engine in self._found.engines:
            name = clean(engine.replica, NAME_CHARACTERS)
            if any(engine.unexplained):
                self._wrong(f"the engine {name} has done {said(engine.unexplained)} that no record explains")
            if not engine.readable and not engine.left:
                self._wrong(f"the counters of the engine {name} could not be read")
        behind = microseconds_of(self._found.last_time or last.time) - microseconds_of(last.time)
        if behind / 1e6 > RECONCILED_SECONDS:
            self._wrong(f"nothing was reconciled with the engines since {last.time}")


def said(work: Work) -> str:
    """Amounts, in words."""
    return f"{work.prompt_tokens} prompt tokens, {work.completion_tokens} completion tokens, {work.requests} requests"


def text(conditions: list[Condition]) -> str:
    """All conditions, for a person."""
    blocks = []
    for each in conditions:
        rows = _rows(each)
        width = max(map(len, rows)) + 2
        blocks.append("\n".join([f"{each.origin}:", *(f"  {name:<{width}}{value}" for name, value in rows.items())]))
    wrong = [f"  {each.origin}: {fault}." for each in conditions for fault in each.faults]
    return printable("\n\n".join([*blocks, "\n".join(["What is wrong:", *wrong]) if wrong else "Nothing is wrong."]))


def _rows(each: Condition) -> dict[str, str]:
    rows = {"records": f"{each.records}" + (f", the last from {each.last_time}" if each.last_time else "")}
    if each.minimum:
        rows["pruned"] = f"the records below {each.minimum}"
    if each.checkpoint is not None:
        rows["checkpoint"] = f"{each.checkpoint.size} records, written {each.checkpoint.age_seconds:.0f} s ago"
        rows["root"] = each.checkpoint.root
    rows["not covered"] = f"{each.uncovered}"
    rows["segments"] = f"{len(each.segments)}, {sum(one.bytes for one in each.segments)} bytes"
    rows["open intents"] = f"{each.open_intents}"
    if each.reconciled:
        rows["reconciled"] = clean(each.reconciled, NAME_CHARACTERS)
    for engine in each.engines:
        doubts = [
            *([f"unexplained: {said(engine.unexplained)}"] if any(engine.unexplained) else []),
            *([f"not counted by it: {said(engine.uncounted)}"] if any(engine.uncounted) else []),
            *([f"{engine.restarts} restarts"] if engine.restarts else []),
            *(["it is no replica any more"] if engine.left else []),
            *([] if engine.readable or engine.left else ["its counters cannot be read"]),
        ]
        rows[f"engine {clean(engine.replica, NAME_CHARACTERS)}"] = "; ".join(doubts) or "agrees with the log"
    return rows


def as_json(conditions: list[Condition]) -> str:
    """The same for a program."""
    return json.dumps([_plain(each) for each in conditions], indent=2)


def _plain(each: Condition) -> dict[str, object]:
    return {
        "origin": each.origin,
        "records": each.records,
        "minimum_index": each.minimum,
        "last_time": each.last_time or None,
        "checkpoint": None
        if each.checkpoint is None
        else {name: getattr(each.checkpoint, name) for name in each.checkpoint.__struct_fields__},
        "uncovered": each.uncovered,
        "segments": [{"name": one.name, "bytes": one.bytes} for one in each.segments],
        "open_intents": each.open_intents,
        "reconciled": each.reconciled or None,
        "engines": [
            {
                "replica": one.replica,
                "readable": one.readable,
                "left": one.left,
                "unexplained": one.unexplained._asdict(),
                "uncounted": one.uncounted._asdict(),
                "restarts": one.restarts,
            }
            for one in each.engines
        ],
        "faults": each.faults,
    }
