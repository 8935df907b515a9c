"""Both ends of the relay in memory: an engine whose answers a test writes step by step, and a client that listens.

`MemoryEngine` keeps the laws of `seams.Engine`, `MemoryClient` those of `seams.Client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vestry.errors import EngineFailed
from vestry.seams import Exchange, Pieces

EVENT_STREAM = b"text/event-stream; charset=utf-8"


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until the condition holds. Raises TimeoutError after so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - tests look at what has no event to wait for
            await asyncio.sleep(0.001)


@dataclass
class MemoryWire:
    """seams.Wire, and the switches of the engine's end."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    fresh: bool
    exchange: Exchange
    closed: bool = False
    pauses: list[bool] = field(default_factory=list)
    stale: bool = False

    def pause(self, paused: bool) -> None:
        self.pauses.append(paused)

    def close(self) -> None:
        self.closed = True

    def head(self, status: int = 200, content_type: bytes = EVENT_STREAM) -> None:
        """The engine's headers arrive."""
        self.exchange.on_head(status, content_type)

    def data(self, data: bytes) -> None:
        """Bytes of the body arrive."""
        self.exchange.on_data(data)

    def end(self, error: str | None = None) -> None:
        """The answer ends, or breaks off."""
        self.exchange.on_end(error)

    def drop_stale(self) -> None:
        """The connection turns out to have been closed by the engine while it was idle."""
        self.stale = True
        self.end("the engine closed the connection")


class MemoryEngine:
    """seams.Engine. `wires` are the requests so far; `refusing` fails the next connections."""

    def __init__(self) -> None:
        self.wires: list[MemoryWire] = []
        self.refusing = False

    async def send(
        self,
        method: str,
        path: str,
        body: Pieces,
        exchange: Exchange,
        *,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> MemoryWire:
        await asyncio.sleep(0)
        if self.refusing:
            raise EngineFailed("connect")
        wire = MemoryWire(method, path, b"".join(body), dict(headers or {}), fresh, exchange)
        self.wires.append(wire)
        return wire

    async def wire(self, number: int = 1) -> MemoryWire:
        """The request of this number, counted from 1, once it is there."""
        await until(lambda: len(self.wires) >= number)
        return self.wires[number - 1]


class MemoryClient:
    """seams.Client. `written` is what has arrived."""

    def __init__(self) -> None:
        self.written = b""
        self.gone = False
        self.leave: Callable[[], None] | None = None
        self.pause: Callable[[bool], None] | None = None

    def start(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        self.leave, self.pause = on_leave, on_pause

    def write(self, chunk: bytes) -> None:
        self.written += chunk

    def go(self) -> None:
        """The client closes its connection."""
        self.gone = True
        if self.leave is not None:
            self.leave()

    def read_slowly(self, slowly: bool) -> None:
        """The client stops reading, or goes on."""
        assert self.pause is not None
        self.pause(slowly)
