"""What the records themselves say, looked at in order: form, place, times, intents and their outcomes, prunings.

Rules:
1. An intent that is still open where a `server.start` follows in the same log is a failure: opening a log closes all
   that a crash has left open (promise 6). One that is open at the end of the copy is a call in progress, and is told.
2. A pruning counts only where a signed checkpoint covers its record.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vestry.audit.canonical import NotCanonical, clean, encode
from vestry.audit.forms import TIME
from vestry.audit.records import microseconds_of
from vestry.audit.scan import CLOSING
from vestry.audit.tlog.tiles import WIDTH
from vestry.audit.verify.findings import Findings

OPEN = 100_000
"""Intents that may be open at once; a server has room for far fewer calls."""
ORIGINS = 10_000
LISTED = 1000
NAMED = 20
AHEAD = frozenset({"segment.begin", "log.recovered"})
"""They come before the `clock.jump` of the records with which they are written."""
_BACK_US = 10_000_000
_TIME = re.compile(TIME["pattern"])
_TYPES = 256


class Chronicle:
    """Takes the records of one log in order."""

    def __init__(self, origin: str, findings: Findings) -> None:
        self.types: dict[str, int] = {}
        self.began = self.ended = ""
        self.pruned = 0
        self.open: dict[str, int] = {}
        self.origins: dict[str, int] = {}
        self._origin, self._findings = origin, findings
        self._latest = self._before = 0
        self._overfull = False
        self._backs = 0

    def take(self, index: int, leaf: bytes, *, covered: bool = True) -> bool:
        """Look at one record; False where it is none that could stand there."""
        record = record_of(leaf)
        if isinstance(record, str):
            self._findings.fail("not-canonical", f"Record {index} {record}.", index, "a record in canonical JSON")
            return False
        if not self._in_place(index, record):
            return False
        kind = record.get("type")
        kind = clean(kind, 64) if isinstance(kind, str) else "?"
        if kind in self.types or len(self.types) < _TYPES:
            self.types[kind] = self.types.get(kind, 0) + 1
        self._time(index, kind, record.get("time"))
        self._follow(index, kind, record)
        if kind == "log.prune" and covered:
            self._prune(index, record.get("minimum_index"))
        return True

    def _in_place(self, index: int, record: dict[str, Any]) -> bool:
        own, origin = record.get("index"), record.get("origin")
        if own.__class__ is not int or own != index:
            said = clean(str(own), 64)
            self._findings.fail(
                "wrong-index", f"Where record {index} should stand, there is record {said}.", index, str(index), said
            )
            return False
        if origin != self._origin:
            said = clean(str(origin), 64)
            self._findings.fail(
                "wrong-origin", f"Record {index} belongs to the log `{said}`.", index, self._origin, said
            )
            return False
        return True

    def _time(self, index: int, kind: str, said: Any) -> None:
        """Notes where the clock goes back by seconds without a `clock.jump`; records made at once may change places,
        also with a `clock.jump`: those that waited as the clock was set have times from before it, and what is written
        of the log itself (`AHEAD`) has one from after it.
        """
        try:
            now = microseconds_of(said) if isinstance(said, str) and _TIME.fullmatch(said) else None
        except ValueError:
            now = None
        if now is None:
            self._findings.fail("wrong-time", f"Record {index} has no time.", index, "RFC 3339", clean(str(said), 64))
            return
        self.began = self.began or said
        self.ended = said
        if kind in AHEAD:
            return
        if kind == "clock.jump":
            self._before, self._latest = self._latest, now
        if abs(now - self._before) <= _BACK_US:
            return
        if now < self._latest - _BACK_US:
            self._backs += 1
            if self._backs == 1:
                self._findings.note(
                    "time-back",
                    f"The time of record {index} is more than 10 s before an earlier one's, without a `clock.jump`.",
                    index,
                )
        self._latest = max(self._latest, now)

    def _follow(self, index: int, kind: str, record: dict[str, Any]) -> None:
        name = record.get("request_id")
        if kind == "intent" and isinstance(name, str):
            if len(self.open) >= OPEN and not self._overfull:
                self._overfull = True
                self._findings.fail("intents-too-many", f"More than {OPEN} intents have no outcome by here.", index)
            if not self._overfull:
                self.open[name] = index
        elif kind in CLOSING and isinstance(name, str):
            self.open.pop(name, None)
        elif kind == "server.start":
            self._start(index, record.get("origins"))

    def _start(self, index: int, origins: Any) -> None:
        if self.open:
            name, first = next(iter(self.open.items()))
            self._findings.fail(
                "intent-not-closed",
                f"{len(self.open)} intents had no outcome when the server started again at record {index}; the first "
                f"is record {first}, request {clean(name, 64)}.",
                first,
                "an outcome or an `intent.closed`",
                "none",
            )
            self.open.clear()
        for each in origins if isinstance(origins, list) else []:
            if isinstance(each, str) and len(self.origins) < ORIGINS:
                self.origins.setdefault(each, index)

    def _prune(self, index: int, minimum: Any) -> None:
        if minimum.__class__ is not int or not 0 <= minimum <= index or minimum % WIDTH:
            self._findings.fail(
                "wrong-pruning",
                f"The `log.prune` at record {index} has no valid `minimum_index`.",
                index,
                f"a multiple of {WIDTH} up to {index}",
                clean(str(minimum), 64),
            )
            return
        self.pruned = max(self.pruned, minimum)


def record_of(leaf: bytes) -> dict[str, Any] | str:
    """The record, if the bytes are its canonical form; else what is wrong with them."""
    try:
        record = msgspec.json.decode(leaf)
    except (ValueError, RecursionError):
        return "is no JSON"
    if not isinstance(record, dict):
        return "is no JSON object"
    try:
        return record if encode(record) == leaf else "is not in canonical form"
    except (NotCanonical, ValueError, RecursionError) as error:
        return f"is not in canonical form: {error}" if isinstance(error, NotCanonical) else "is not in canonical form"
