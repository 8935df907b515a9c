"""Connecting to engines: which addresses, how long, over TLS, and the end of it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from typing import Any

import pytest
import trustme

from fakes.wires import until
from support.scripted import OK, Heard, answering, ask, pool, request_of, run, serving
from vestry.adapters.upstream import Upstream
from vestry.errors import EngineFailed
from vestry.settings.section import is_private


def test_nobody_listening_is_a_failure_to_connect() -> None:
    """The cause is `connect`, and it is known at once."""

    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(EngineFailed) as refused:
                await ask(pool(taken.getsockname()[1]))
            assert refused.value.cause == "connect"

    run(main)


def test_a_connect_that_hangs_has_a_deadline() -> None:
    """A listener whose queue is full drops what comes: no longer than `connect_seconds`."""

    async def main() -> None:
        with socket.socket() as full, socket.socket() as one, socket.socket() as two:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for each in (one, two):
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            with pytest.raises(EngineFailed) as refused:
                async with asyncio.timeout(20):
                    await ask(pool(full.getsockname()[1], connect_seconds=0.2))
            assert refused.value.cause == "connect"

    run(main)


@pytest.mark.parametrize(
    ("found", "called"),
    [
        (["127.0.0.1"], True),
        (["8.8.8.8"], False),
        (["169.254.169.254"], False),
        (["0.0.0.0"], False),
        (["2001:4860:4860::8888"], False),
        (["8.8.8.8", "127.0.0.1"], True),
        (["127.9.9.9", "127.0.0.1"], True),
        (["::1", "8.8.8.8", "127.0.0.1", "127.0.0.1"], True),
        (["127.9.9.9", "127.9.9.8"], False),
    ],
)
def test_only_private_addresses_are_called(monkeypatch: pytest.MonkeyPatch, found: list[str], called: bool) -> None:
    """Whatever the engine's name resolves to: public and link-local addresses are never called. Of several addresses
    the next one is asked where one refuses: `localhost` may be `::1` first, where an engine does not listen.
    """

    async def main() -> None:
        async with serving(answering(OK)) as server:
            answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, server.port)) for each in found]

            async def resolved(*_: Any, **__: Any) -> list[Any]:
                return answers

            monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
            engine = pool(server.port, "engine.internal")
            if called:
                assert (await ask(engine))[0].body == b"ok"
            else:
                with pytest.raises(EngineFailed) as refused:
                    await ask(engine)
                assert refused.value.cause == "connect"
            assert server.connections == int(called)

    asyncio.run(main())


def test_an_address_that_hangs_keeps_no_other_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within `connect_seconds` for all of them together."""

    async def main() -> None:
        with socket.socket() as full, socket.socket() as one, socket.socket() as two:
            async with serving(answering(OK)) as server:
                full.bind(("127.9.9.9", server.port))
                full.listen(0)
                for each in (one, two):
                    each.setblocking(False)
                    each.connect_ex(full.getsockname())

                async def resolved(*_: Any, **__: Any) -> list[Any]:
                    found = ("127.9.9.9", "127.0.0.1")
                    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, server.port)) for each in found]

                monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
                began = time.monotonic()
                heard, _ = await ask(pool(server.port, "engine.internal", connect_seconds=2.0))
                assert heard.body == b"ok"
                assert 0.9 < time.monotonic() - began < 10

    asyncio.run(main())


def test_a_public_address_as_such_is_not_called() -> None:
    """A literal address is held to the same rule as a name."""

    async def main() -> None:
        with pytest.raises(EngineFailed):
            await ask(pool(80, "203.0.113.7", permitted=lambda address: address == ipaddress.ip_address("127.0.0.1")))

    run(main)


def test_names_are_resolved() -> None:
    """`localhost` is an engine's name like another."""

    async def main() -> None:
        async with serving(answering(OK)) as server:
            assert (await ask(pool(server.port, "localhost")))[0].body == b"ok"

    run(main)


def both_sides() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for an engine named `localhost`, and for whoever knows its authority."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    return server_side, client_side


def test_engines_may_speak_https() -> None:
    """With the certificate's authority and name checked; a wrong name is a failure to connect."""
    server_side, client_side = both_sides()

    async def main() -> None:
        async with serving(answering(OK), server_side) as server:
            rest: dict[str, Any] = {"key": "k", "connect_seconds": 2.0, "permitted": is_private}
            engine = Upstream(f"https://localhost:{server.port}", **rest, tls=lambda: client_side)
            assert (await ask(engine))[0].body == b"ok"
            assert (await ask(engine))[0].body == b"ok"
            assert engine.opened == 1
            for wrong in (
                Upstream(f"https://127.0.0.1:{server.port}", **rest, tls=lambda: client_side),
                Upstream(f"https://localhost:{server.port}", **rest),
            ):
                with pytest.raises(EngineFailed) as refused:
                    await ask(wrong)
                assert refused.value.cause == "connect"
            engine.close()

    run(main)


@pytest.mark.parametrize("length", [100_000, 32_000_000])
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "TLS"])
def test_a_connection_whose_request_nobody_has_read_is_not_used_again(length: int, sealed: bool) -> None:
    """It was refused for its head alone: whoever comes next has another connection, and does not wait behind bytes that
    nobody reads, be they here, in TLS or in the system."""
    server_side, client_side = both_sides()

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(await reader.readuntil(b"\r\n\r\n")) and server.connections == 1:
                writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
                await given_up.wait()
            else:
                writer.write(OK)

        given_up = asyncio.Event()
        async with serving(script, server_side if sealed else None) as server:
            url = f"{'https' if sealed else 'http'}://localhost:{server.port}"
            engine = Upstream(url, key="k", connect_seconds=5.0, permitted=is_private, tls=lambda: client_side)
            first = Heard()
            await engine.send("POST", "/v1/x", (b"x" * length,), first)
            await asyncio.wait_for(first.over.wait(), 20)
            assert first.status == 413
            second, _ = await ask(engine)
            assert second.status == 200
            given_up.set()
            engine.close()

    run(main)


def test_closing_the_pool_closes_every_connection() -> None:
    """Idle ones and those in use."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if b"/idle" in await request_of(reader):
                writer.write(OK)
            await reader.read()
            closed.append(1)

        closed: list[int] = []
        async with serving(script) as server:
            engine = pool(server.port)
            idle, busy = Heard(), Heard()
            await engine.send("GET", "/busy", (), busy)
            await engine.send("GET", "/idle", (), idle)
            await asyncio.wait_for(idle.over.wait(), 20)
            engine.close()
            await until(lambda: len(closed) == 2)

    run(main)
