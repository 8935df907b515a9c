"""What is looked for in a log: a filter, as a sentence, as a question to one record, and as terms for the index."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec
from msgspec import Struct

from vestry.audit.records import as_recorded, microseconds_of, rfc3339
from vestry.audit.scan import LogDamaged

FIELDS = ("type", "tenant", "subject", "model", "ending", "code", "status", "request_id", "key_id")
"""Fields that a filter asks for by their value. Several values of one are alternatives; fields narrow each other."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Row(Struct, frozen=True):
    """What filters look at in a record. A field that is not there is empty."""

    time: str
    type: str
    tenant: str = ""
    subject: str = ""
    model: str = ""
    ending: str = ""
    code: str = ""
    status: int | str = ""
    request_id: str = ""
    key_id: str = ""

    @property
    def moment(self) -> int:
        """When, in microseconds since the epoch. Raises ValueError."""
        if len(self.time) != 27 or not self.time.endswith("Z"):
            return microseconds_of(self.time)
        return _second(self.time[:20]) + int(self.time[20:26])

    def terms(self) -> Iterator[tuple[str, str]]:
        """The fields that have a value, with it."""
        for name in FIELDS:
            value = getattr(self, name)
            if value != "":
                yield name, str(value)


@lru_cache(maxsize=1024)
def _second(text: str) -> int:
    """Of `2026-01-31T23:59:59.`: many records share one."""
    return microseconds_of(f"{text}000000Z")


_DECODER = msgspec.json.Decoder(Row)


def row_of(leaf: bytes, place: str) -> tuple[Row, int]:
    """What filters look at, and the record's moment. Raises LogDamaged for what is no record, with its place."""
    try:
        row = _DECODER.decode(leaf)
        moment = row.moment
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, RecursionError) as error:
        raise LogDamaged(f"{place} is damaged: it is no record ({error}).") from error
    return row, moment


class Filter(Struct, frozen=True):
    """What to find. `wanted` holds the alternatives of each field; times are microseconds since the epoch."""

    wanted: dict[str, frozenset[str]] = {}
    origins: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None
    """Not included."""

    @property
    def narrow(self) -> bool:
        """Whether it leaves anything out of a log."""
        return bool(self.wanted) or self.since is not None or self.until is not None

    def in_time(self, lowest: int, highest: int) -> bool:
        """Whether anything between these two moments, both included, can fit."""
        return (self.since is None or highest >= self.since) and (self.until is None or lowest < self.until)

    def fits(self, row: Row, moment: int) -> bool:
        """Whether a record is what is looked for. Its origin was looked at before."""
        if not self.in_time(moment, moment):
            return False
        return all(str(getattr(row, name)) in values for name, values in self.wanted.items())

    def __str__(self) -> str:
        """For the record of the reading: `all`, or such as `tenant=radiology since=2026-01-01T00:00:00.000000Z`."""
        parts = [f"{name}={','.join(sorted(values))}" for name, values in sorted(self.wanted.items())]
        parts += [f"origin={','.join(sorted(self.origins))}"] if self.origins else []
        parts += [f"since={rfc3339(self.since)}"] if self.since is not None else []
        parts += [f"until={rfc3339(self.until)}"] if self.until is not None else []
        return " ".join(parts) or "all"


def alternatives(asked: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """What a filter looks for, of what is asked for by field; a subject as it is given, and as records write it."""
    wanted = {name: frozenset(values) for name, values in asked.items() if values}
    if subjects := wanted.get("subject"):
        wanted["subject"] = subjects.union(map(as_recorded, subjects))
    return wanted


def moment_of(text: str, now: datetime) -> int:
    """Microseconds since the epoch of `24h`, `90m`, `7d` (ago), a day, or an RFC 3339 time. Raises ValueError."""
    try:
        if span := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
            found = now - timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            found = datetime.fromisoformat(text).replace(tzinfo=UTC)
        else:
            found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError("a time needs its offset from UTC")
        return microseconds_of(found.astimezone(UTC).isoformat())  # exactly: a float has none of them in the year 9999
    except OverflowError as error:
        raise ValueError("that is beyond the calendar") from error
