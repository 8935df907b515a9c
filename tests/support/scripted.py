"""Scripted servers on real sockets, and what the HTTP client towards the engines hears from them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from vestry.adapters.upstream import Connection, Upstream
from vestry.settings.section import is_private

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Heard:
    """seams.Exchange that remembers."""

    def __init__(self) -> None:
        self.status = 0
        self.content_type = b""
        self.body = b""
        self.error: str | None = None
        self.over = asyncio.Event()

    def on_head(self, status: int, content_type: bytes) -> None:
        self.status, self.content_type = status, content_type

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self, error: str | None) -> None:
        assert not self.over.is_set(), "the end is told once"
        self.error = error
        self.over.set()


class Server:
    """What a scripted server saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.connections = 0


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """One whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*answers: bytes) -> Script:
    """Answers the requests of each connection with these, in turn, the last one again and again."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = list(answers)
        while True:
            await request_of(reader)
            writer.write(left.pop(0) if len(left) > 1 else left[0])

    return script


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that runs the script on each connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    seen = Server(server.sockets[0].getsockname()[1])
    try:
        yield seen
    finally:
        server.close()


def pool(port: int, host: str = "127.0.0.1", **changes: Any) -> Upstream:
    """A pool of connections to this port."""
    options: dict[str, Any] = {"key": "engine-key", "connect_seconds": 2.0, "permitted": is_private}
    return Upstream(f"http://{host}:{port}", **{**options, **changes})


async def ask(engine: Upstream, **options: Any) -> tuple[Heard, Connection]:
    """One request, to its end."""
    heard = Heard()
    wire = await engine.send("POST", "/v1/x", (b"{}",), heard, **options)
    await asyncio.wait_for(heard.over.wait(), 20)
    return heard, wire


def run(main: Callable[[], Any]) -> None:
    """On uvloop, as the server does."""
    uvloop.run(main())
