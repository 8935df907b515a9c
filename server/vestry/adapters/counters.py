"""An engine's own counters: `GET /metrics`, in Prometheus' text format, read as what a stranger wrote.

Only the few families below are looked at. What is too long, too late, not a number, negative, or beyond what a record
can hold is no reading at all: an engine that hides what it did must not look idle.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

from vestry.adapters.asking import ask
from vestry.audit.completeness import KINDS, Reading, Work
from vestry.errors import EngineFailed
from vestry.seams import Engine

READ_SECONDS = 5.0
READ_BYTES = 8 << 20
MOST_SERIES = 4096
GREATEST = 2**53 - 1
FAMILIES = {
    "vllm:prompt_tokens_total": KINDS[0],
    "vllm:generation_tokens_total": KINDS[1],
    "vllm:request_success_total": KINDS[2],
    "vllm:num_requests_running": "busy",
    "vllm:num_requests_waiting": "busy",
    "process_start_time_seconds": "started",
}


class NoReading(Exception):  # noqa: N818 - what there is
    """The engine's counters could not be read. The words say why, and hold nothing of what it sent."""


class _Page:
    """Implements seams.Exchange: gathers one answer, up to its bound."""

    ended = False

    def __init__(self) -> None:
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.page = bytearray()
        self.status = 0

    def on_head(self, status: int, content_type: bytes) -> None:  # noqa: ARG002 - the seam's shape
        self.status = status

    def on_data(self, data: bytes) -> None:
        if len(self.page) + len(data) <= READ_BYTES:
            self.page += data
        elif not self.over.done():
            self.over.set_result(f"its page is longer than {READ_BYTES} bytes")

    def on_end(self, error: str | None) -> None:
        self.ended = True
        if not self.over.done():
            self.over.set_result(error)


async def read_counters(engine: Engine, seconds: float = READ_SECONDS) -> Reading:
    """What the engine's counters say now. Raises NoReading."""
    try:
        async with asyncio.timeout(seconds):
            page, wire = await ask(engine, "/metrics", _Page)
    except EngineFailed:
        raise NoReading("it cannot be connected to") from None
    except TimeoutError:
        raise NoReading(f"it did not answer within {seconds:g} s") from None
    if (error := page.over.result()) is not None:
        if not page.ended:
            wire.close()
        raise NoReading(error)
    if page.status != 200:
        raise NoReading(f"it answered with {page.status}")
    return parse(bytes(page.page))


def parse(text: bytes) -> Reading:
    """The reading that a page holds; series of one family are added. Raises NoReading."""
    found = dict.fromkeys([*KINDS, "busy", "started"], 0.0)
    seen: set[str] = set()
    page = b"\n" + text
    for family, place in FAMILIES.items():
        for sample in _samples(page, b"\n" + family.encode()):
            seen.add(place)
            found[place] += _value(sample, family)
    if missing := [kind for kind in KINDS if kind not in seen]:
        raise NoReading(f"it shows no counter of {missing[0].replace('_', ' ')}")
    if any(found[kind] > GREATEST for kind in [*KINDS, "busy"]) or found["started"] * 1e6 > GREATEST:
        raise NoReading("its counters are absurd")
    return Reading(Work(*(int(found[kind]) for kind in KINDS)), int(found["started"] * 1e6), math.ceil(found["busy"]))


def _samples(page: bytes, begin: bytes) -> Iterator[str]:
    """What follows the name in each line that begins so. Searched for, since a page of nothing but lines would take
    seconds to split. Raises NoReading for more of them than an engine has.
    """
    at = -1
    for _ in range(MOST_SERIES):
        at = page.find(begin, at + 1)
        if at < 0:
            return
        end = page.find(b"\n", at + len(begin))
        sample = page[at + len(begin) : end if end >= 0 else len(page)]
        if sample.startswith((b"{", b" ")):
            yield sample.decode("utf-8", "replace")
    raise NoReading("it shows more series than an engine has")


def _value(sample: str, family: str) -> float:
    """A sample's value: behind the labels, whose own texts may hold braces and spaces."""
    words = sample.rpartition("}")[2].split()
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        value = math.nan
    if not 0 <= value <= GREATEST:
        raise NoReading(f"its {family.replace('_', ' ').replace(':', ' ')} is absurd")
    return value
