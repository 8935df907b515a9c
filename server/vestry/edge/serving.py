"""Listening: applications, each on a socket of its own, from the first connection to the last.

How it stops: no more connections; a call in progress goes on; a connection ends with the answer that says so, or
once nothing more is asked on it. What still runs after the drain time, or when the operator is in a hurry, is cut
off: each such call is answered with an error and recorded, and only then is its connection closed. Several stop at the
same time: what is given to them is one time for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from weakref import WeakSet

import uvicorn
from msgspec import Struct
from starlette.types import ASGIApp

LOOK_SECONDS = 0.02
CUT_SECONDS = 5.0
FLUSH_SECONDS = 0.5
UNSENT_BYTES = 131_072


class Manner(Struct, frozen=True):
    """How an application is served. `protocol` is uvicorn's name of one, or a class or factory; `hurry` cuts the
    drain short once it is set."""

    protocol: Any
    keep_alive_seconds: float
    drain_seconds: float
    hurry: asyncio.Event
    tls: ssl.SSLContext | None = None
    handshake_seconds: float = 8.0


class _Uvicorn(uvicorn.Server):
    """uvicorn, with a bound on TLS handshakes, sockets that we bound, and an end of our own."""

    def __init__(self, config: uvicorn.Config, manner: Manner) -> None:
        super().__init__(config)
        self._manner = manner
        self._met: WeakSet[asyncio.Protocol] = WeakSet()
        """Of TLS: those whose handshake is not over are in no set of uvicorn's."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            build = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
            made = build(config=self.config, server_state=self.server_state, app_state={}, _loop=loop)
            if self._manner.tls is not None:
                self._met.add(made)
            return made

        self.servers = [
            await loop.create_server(
                protocol,
                sock=each,
                ssl=self._manner.tls,
                backlog=self.config.backlog,
                ssl_handshake_timeout=self._manner.handshake_seconds if self._manner.tls else None,
            )
            for each in sockets or ()
        ]

    def renew(self) -> None:
        """Let every connection end soon, as it does when the server stops; whoever needs another one makes it."""
        for connection in {*self.server_state.connections, *self._met}:
            cast("Any", connection).shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the head of this file says."""
        for each in (*self.servers, *(sockets or ())):
            each.close()
        await self._drain()
        tasks = set(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CUT_SECONDS)
        connections = list(self.server_state.connections)
        for connection in connections:
            connection.transport.close()
        await self._until(FLUSH_SECONDS, lambda: not self.server_state.connections)
        for connection in connections:
            connection.transport.abort()

    async def _drain(self) -> None:
        """Wait until all calls and connections have ended, or the time for that is over."""
        state, hurry = self.server_state, self._manner.hurry
        told: set[Any] = set()

        def ended() -> bool:
            for connection in state.connections - told:  # a TLS handshake may end after the port was closed
                told.add(connection)
                connection.shutdown()
            return hurry.is_set() or not (state.connections or state.tasks)

        await self._until(self._manner.drain_seconds, ended)

    @staticmethod
    async def _until(seconds: float, condition: Callable[[], bool]) -> None:
        """Wait until this is so, but no longer than so many seconds. uvicorn's sets have no event to wait for."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            if condition() or loop.time() >= end:
                return
            await asyncio.sleep(LOOK_SECONDS)


class Served(Struct, frozen=True):
    """An application, the socket that it is served on, and how."""

    app: ASGIApp
    listener: socket.socket
    manner: Manner


@contextlib.asynccontextmanager
async def serving(*all_of_them: Served) -> AsyncIterator[Callable[[], None]]:
    """Serve applications; on the way out, let the calls of all end.

    Gives a function that lets each connection that is open end with its next answer, or once nothing more is asked.
    """
    servers = [_server_of(each) for each in all_of_them]
    ticking = []
    for server, each in zip(servers, all_of_them, strict=True):
        await server.startup([each.listener])
        ticking.append(asyncio.create_task(server.main_loop()))

    def renew() -> None:
        for server in servers:
            server.renew()

    try:
        yield renew
    finally:
        for task in ticking:
            task.cancel()
        await asyncio.gather(*ticking, return_exceptions=True)
        await asyncio.gather(
            *(server.shutdown([each.listener]) for server, each in zip(servers, all_of_them, strict=True))
        )


def _server_of(served: Served) -> _Uvicorn:
    manner = served.manner
    config = uvicorn.Config(
        served.app,
        interface="asgi3",
        http=manner.protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(manner.keep_alive_seconds)),
    )
    config.load()
    return _Uvicorn(config, manner)


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket. Raises OSError with a sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # what is not sent waits here, where it is seen, and not in the kernel
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as fault:
        listener.close()
        raise OSError(f"cannot listen on {host} port {port}: {fault.strerror}") from fault
    listener.setblocking(False)
    return listener


def url_of(scheme: str, listener: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
