"""Reads segments: which records they hold, where a torn tail begins, which intents are open. Changes nothing.

A segment is a file of records, one a line, named by the index of its first record. Writes are appended,
one batch at a time, and a batch is acknowledged only after fdatasync. So a crash can leave bytes that were
never acknowledged only behind the last acknowledged batch, and no more of them than one batch: a bad line
further up is damage that no crash explains.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestry.audit.canonical import LEAF_BYTES, clean
from vestry.audit.fields import RecordType
from vestry.audit.forms import TIME
from vestry.regular import opened

BATCH_BYTES = 1 << 20
"""A batch takes records until it has this size; the last one may reach beyond."""
TAIL_BYTES = BATCH_BYTES + LEAF_BYTES + 1
"""The most that a crash can leave unacknowledged."""

_CHUNK = 1 << 20
_NAME = re.compile(r"[0-9]{18}\.jsonl")
ELSEWHERE = (
    "keep what is there as evidence and go on under another name (`audit.origin`, and for the log of commands "
    "`audit.commands`)."
)
MEND = f"Restore it from a copy, or {ELSEWHERE}"
CLOSING = frozenset({RecordType.OUTCOME.value, RecordType.REFUSAL.value, RecordType.INTENT_CLOSED.value})


class LogUnusable(Exception):  # noqa: N818 - a state of the log, told to the operator
    """The log cannot be opened; the sentence says why and what mends it."""


class LogLocked(LogUnusable):
    """Another process writes to this log."""


class LogDamaged(LogUnusable):
    """The log is not what this program wrote, in a way that no crash explains. Nothing was changed."""


class OpenIntent(Struct, frozen=True):
    index: int
    request_id: str


class Line(Struct, frozen=True):
    """What opening a log needs to know of a record."""

    index: int
    origin: str
    type: str
    time: Annotated[str, Meta(pattern=TIME["pattern"])]
    request_id: str = ""
    part: int = 0
    parts: int = 0
    open_intents: tuple[OpenIntent, ...] = ()
    segment: str = ""
    offset: int = 0
    sha256: str = ""


class Trim(Struct, frozen=True):
    """A trim that the log records."""

    segment: str
    offset: int
    sha256: str


class Scan:
    """What reading segments in order has found so far."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.open_intents: dict[str, int] = {}
        self.trims: set[Trim] = set()
        self.last_time = ""
        self.next_index = 0

    def read(self, path: Path, *, until: int | None = None) -> int:
        """Read one segment, as far as `until`; returns the offset behind its last good record.

        Raises LogDamaged for a whole record that does not belong where it stands, and OSError.
        """
        self.next_index = first_index(path)
        good = 0
        for line in lines(path, until=until):
            record = parse(line)
            if record is None:
                break
            self._take(record, path, good)
            good += len(line)
        return good

    def _take(self, record: Line, path: Path, offset: int) -> None:
        if record.index != self.next_index or record.origin != self.origin:
            raise LogDamaged(
                f"{path} is damaged at byte {offset}: there should be record {self.next_index} of origin "
                f"`{self.origin}`, but it is record {record.index} of "
                f"`{clean(record.origin, 64)}`. {MEND}"
            )
        if record.type == "intent":
            self.open_intents[record.request_id] = record.index
        elif record.type in CLOSING:
            self.open_intents.pop(record.request_id, None)
        elif record.type == RecordType.SEGMENT_BEGIN:
            self.open_intents |= {each.request_id: each.index for each in record.open_intents}
        elif record.type == RecordType.LOG_TRIM:
            self.trims.add(Trim(record.segment, record.offset, record.sha256))
        self.last_time = record.time
        self.next_index += 1


_DECODER = msgspec.json.Decoder(Line)


def parse(line: bytes) -> Line | None:
    """The record of a line with its line feed; None for a torn or unreadable one."""
    if not line.endswith(b"\n") or b"\x00" in line:
        return None
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def lines(path: Path, *, start: int = 0, until: int | None = None) -> Iterator[bytes]:
    """The lines of a file between two offsets, each with its line feed, the last one perhaps without.

    What has no line feed for longer than a tail can be is given as one piece, which is no record. Raises OSError.
    """
    with opened(path) as file:
        left = (os.fstat(file.fileno()).st_size if until is None else until) - start
        file.seek(start)
        rest = b""
        while chunk := file.read(min(_CHUNK, left)):
            left -= len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line + b"\n"
            if len(rest) > TAIL_BYTES:
                break
    if rest:
        yield rest


def segments(directory: Path) -> list[Path]:
    """The segments of a log, in order."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def first_index(path: Path) -> int:
    return int(path.stem)


def name_of(index: int) -> str:
    return f"{index:018d}.jsonl"


def begins_whole(path: Path) -> bool:
    """Whether all of the records that begin a segment, and list the intents open then, are there."""
    expected = 1
    for line in lines(path):
        record = parse(line)
        if record is None or record.type != RecordType.SEGMENT_BEGIN or record.part != expected:
            return False
        if record.part == record.parts:
            return True
        expected += 1
    return False


def end_before(path: Path, following: int) -> int:
    """Where a segment that is not the last one ends: behind the record before index `following`.

    What stands beyond was written but never acknowledged: the log went on in a new segment after a failed
    fdatasync. Raises LogDamaged where that record is not near the end of the file.
    """
    size = path.stat().st_size
    for window in (LEAF_BYTES + 1, TAIL_BYTES + LEAF_BYTES + 1):
        start = max(0, size - window)
        offset = start
        for line in lines(path, start=start):
            record = parse(line)
            offset += len(line)
            if record is not None and record.index == following - 1:
                return offset
    raise LogDamaged(
        f"{path} is damaged: record {following - 1} should be its last one, because the next segment begins with "
        f"record {following}. {MEND}"
    )
