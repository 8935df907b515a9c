"""A relay between an engine and a client in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.calls import call, head
from fakes.wires import MemoryClient, MemoryEngine, MemoryWire
from vestry.errors import Refusal
from vestry.relay import Relay
from vestry.settings.tree import Relay as Deadlines
from vestry.types import Outcome, Replica

REPLICA = Replica("a", "http://127.0.0.1:1")
SAID = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COUNTED = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE: dict[str, Any] = {
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
CLOSED = "the engine closed the connection"


class Bench:
    """A relay between an engine and a client in memory."""

    def __init__(
        self,
        *,
        stream: bool = True,
        traceparent: str = "",
        route: str = "chat.completions",
        body: bytes = b"{}",
        **deadlines: Any,
    ) -> None:
        self.engine, self.client = MemoryEngine(), MemoryClient()
        self.relay = Relay({"a": self.engine}, Deadlines(event_bytes=4096, answer_bytes=65_536, **deadlines))
        self.head = head("req_7", route=route, traceparent=traceparent, began=time.monotonic())
        self.call = call(stream=stream, prompt_bytes=40, body=body)
        self.firsts = 0

    def first(self, _moment: float) -> None:
        self.firsts += 1

    def send(self) -> Awaitable[Outcome]:
        return self.relay.send(self.head, self.call, REPLICA, self.client, self.first)

    async def while_(self, play: Callable[[MemoryWire], None]) -> Outcome:
        """Send, and let the engine play its part."""
        task = asyncio.ensure_future(self.send())
        play(await self.engine.wire())
        async with asyncio.timeout(20):
            return await task


def relayed(play: Callable[[MemoryWire], None], **options: Any) -> tuple[Outcome, Bench]:
    """The outcome of one call, and the bench that it was made on."""

    async def run() -> tuple[Outcome, Bench]:
        bench = Bench(**options)
        return await bench.while_(play), bench

    return asyncio.run(run())


def failed(play: Callable[[MemoryWire], None], **options: Any) -> Refusal:
    """What is raised for one call."""
    with pytest.raises(Refusal) as refused:
        relayed(play, **options)
    return refused.value


def whole(status: int, body: bytes) -> Callable[[MemoryWire], None]:
    """An answer in one piece."""

    def play(wire: MemoryWire) -> None:
        wire.head(status, b"application/json")
        wire.data(body)
        wire.end()

    return play


def streamed(*pieces: bytes, error: str | None = None) -> Callable[[MemoryWire], None]:
    """A stream that ends well, or with this error."""

    def play(wire: MemoryWire) -> None:
        wire.head()
        for piece in pieces:
            wire.data(piece)
        wire.end(error)

    return play
