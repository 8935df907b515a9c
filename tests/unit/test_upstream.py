"""The HTTP client towards the engines: requests, answers, and connections that are used again or not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from support.scripted import OK, Heard, answering, ask, pool, request_of, run, serving
from vestry.adapters import upstream


def test_a_request_is_what_http_says() -> None:
    """Request line, host, the engine's key, our headers, the length, the body; the answer arrives in parts."""

    async def main() -> None:
        got = bytearray()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.extend(await request_of(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"one", b"two"):
                writer.write(b"3\r\n%b\r\n" % piece)
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        async with serving(script) as server:
            heard, _ = await ask(pool(server.port), headers={"x-request-id": "req_1"})
            assert (heard.status, heard.content_type, heard.body, heard.error) == (
                200, b"text/event-stream", b"onetwo", None,
            )  # fmt: skip
            assert bytes(got) == (
                b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer engine-key\r\n"
                b"content-type: application/json\r\nx-request-id: req_1\r\ncontent-length: 2\r\n\r\n{}" % server.port
            )

    run(main)


@pytest.mark.parametrize(
    "answer",
    [OK, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"HTTP/1.1 204 X\r\n\r\n"],
)
def test_connections_are_used_again(answer: bytes) -> None:
    """Fifty requests, one connection, however the answer states its length."""

    async def main() -> None:
        async with serving(answering(answer)) as server:
            engine = pool(server.port)
            for _ in range(50):
                await ask(engine)
            assert engine.opened == server.connections == 1

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"content-type", b"connection: close\r\ncontent-type"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"more",
        OK + OK,
        OK + b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
def test_a_connection_in_doubt_is_not_used_again(answer: bytes) -> None:
    """Closed by its answer, or followed by bytes that nobody asked for: the next call must not get those."""

    async def main() -> None:
        async with serving(answering(answer)) as server:
            engine = pool(server.port)
            for _ in range(3):
                heard, _ = await ask(engine)
                assert (heard.body, heard.error) == (b"ok", None)
            assert engine.opened == 3

    run(main)


def test_bytes_on_an_idle_connection_close_it() -> None:
    """An engine that speaks out of turn is not listened to."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(OK)
            await asyncio.sleep(0.05)
            writer.write(OK)
            assert await reader.read() == b""
            gone.set()

        gone = asyncio.Event()
        async with serving(script) as server:
            engine = pool(server.port)
            await ask(engine)
            await asyncio.wait_for(gone.wait(), 20)
            await ask(engine)
            assert engine.opened == 2

    run(main)


def test_calls_at_once_have_a_connection_each() -> None:
    """No connection carries two exchanges; afterwards all of them are there to be used."""

    async def main() -> None:
        async with serving(answering(OK)) as server:
            engine = pool(server.port)
            await asyncio.gather(*(ask(engine) for _ in range(10)))
            await asyncio.gather(*(ask(engine) for _ in range(10)))
            assert engine.opened == 10

    run(main)


def test_no_more_idle_connections_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a connection is closed when its answer is done."""
    monkeypatch.setattr(upstream, "MAX_IDLE", 2)

    async def main() -> None:
        async with serving(answering(OK)) as server:
            engine = pool(server.port)
            done = await asyncio.gather(*(ask(engine) for _ in range(5)))
            assert sum(wire.usable for _, wire in done) == 2

    run(main)


def test_an_old_idle_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines close what is idle; a connection older than that is not even tried."""
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.05)

    async def main() -> None:
        async with serving(answering(OK)) as server:
            engine = pool(server.port)
            _, first = await ask(engine)
            await asyncio.sleep(0.1)
            _, second = await ask(engine)
            assert second is not first
            assert not first.usable
            assert not second.stale

    run(main)


def test_a_fresh_connection_is_a_new_one() -> None:
    """`fresh` leaves the idle ones alone."""

    async def main() -> None:
        async with serving(answering(OK)) as server:
            engine = pool(server.port)
            await ask(engine)
            await ask(engine, fresh=True)
            assert engine.opened == 2

    run(main)


def test_an_idle_connection_that_was_closed_meanwhile_is_stale() -> None:
    """The engine closes instead of answering the second request: nothing was lost, and the wire says so."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(OK)
            await request_of(reader)

        async with serving(script) as server:
            engine = pool(server.port)
            await ask(engine)
            heard, wire = await ask(engine)
            assert heard.error == "the engine closed the connection"
            assert wire.stale
            heard, wire = await ask(engine)
            assert heard.error is None
            assert not wire.stale

    run(main)


def test_a_new_connection_that_is_closed_is_not_stale() -> None:
    """A first request that is not answered is a failure of the engine."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)

        async with serving(script) as server:
            heard, wire = await ask(pool(server.port))
            assert heard.error == "the engine closed the connection"
            assert not wire.stale

    run(main)


def test_a_used_connection_that_is_closed_at_work_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine had the request for a while: what it did of it is done, so whoever asked has to know."""
    monkeypatch.setattr(upstream, "STALE_SECONDS", 0.05)

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(OK)
            await request_of(reader)
            await asyncio.sleep(0.1)

        async with serving(script) as server:
            engine = pool(server.port)
            await ask(engine)
            heard, wire = await ask(engine)
            assert heard.error == "the engine closed the connection"
            assert not wire.stale
            assert engine.opened == 1

    run(main)


def test_a_used_connection_that_hangs_is_not_stale() -> None:
    """Given up by us, not closed by the engine: the request may be at work there, so it is not sent again."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(OK)
            await request_of(reader)
            asked.set()
            assert await reader.read() == b""
            left.set()

        asked, left = asyncio.Event(), asyncio.Event()
        async with serving(script) as server:
            engine = pool(server.port)
            await ask(engine)
            heard = Heard()
            wire = await engine.send("POST", "/v1/x", (b"{}",), heard)
            await asyncio.wait_for(asked.wait(), 20)
            wire.close()
            await asyncio.wait_for(left.wait(), 20)
            await asyncio.sleep(0.01)
            assert not wire.stale
            assert not heard.over.is_set(), "whoever closes hears nothing more"

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-padding: 0123456789\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no",
    ],
)
def test_an_answer_that_is_not_http_ends_with_an_error(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Garbage, two lengths, a bad chunk, an upgrade, endless headers, a short body: an error, and the end of it."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(answer)

        async with serving(script) as server:
            heard, wire = await ask(pool(server.port))
            assert heard.error is not None
            assert not wire.usable

    run(main)
    assert not caplog.records, "the loop has met an error of ours"


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"", b"\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x-padding: 0123456789\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n2;", b"0123456789"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"x-padding: 0123456789\r\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: ", b"0123456789"),
    ],
    ids=["lines before it", "interim answers", "headers", "an extension", "trailers", "a trailer"],
)
def test_what_is_around_a_body_ends(begun: bytes, more: bytes) -> None:
    """Whatever there may be of it without end is given up before it fills the memory, and keeps the loop busy."""

    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(begun)
            while not writer.is_closing():
                writer.write(more * 4096)
                await writer.drain()

        async with serving(script) as server:
            heard, wire = await ask(pool(server.port))
            assert heard.error == "the engine's headers are too long"
            assert not wire.usable

    run(main)


def test_interim_answers_are_passed_over() -> None:
    """100 and 103 come before the answer (RFC 9110 section 15.2)."""

    async def main() -> None:
        early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        async with serving(answering(early + OK)) as server:
            engine = pool(server.port)
            heard, _ = await ask(engine)
            assert (heard.status, heard.body) == (200, b"ok")
            await ask(engine)
            assert engine.opened == 1

    run(main)


def test_reading_pauses_and_goes_on() -> None:
    """While it is paused nothing is read, so the engine is slowed down; nothing is lost."""

    async def main() -> None:
        size = 8_000_000

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(80):
                writer.write(b"x" * (size // 80))
                await writer.drain()
            sent.set()
            await request_of(reader)

        sent = asyncio.Event()
        async with serving(script) as server:
            engine = pool(server.port)
            heard = Heard()
            wire = await engine.send("POST", "/v1/x", (b"{}",), heard)
            wire.pause(True)
            wire.pause(True)
            await asyncio.sleep(0.1)
            read = len(heard.body)
            await asyncio.sleep(0.1)
            assert len(heard.body) == read < size
            assert not sent.is_set()
            wire.pause(False)
            wire.pause(False)
            await asyncio.wait_for(heard.over.wait(), 20)
            assert len(heard.body) == size
            wire.close()
            wire.pause(True)

    run(main)


def test_much_at_once_leaves_others_their_turn() -> None:
    """However fast an engine sends: each turn of the loop takes one read of it, and a slow client's pause holds."""
    size = 8_000_000

    def send(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)

    async def main() -> None:
        turns, paused = [0], asyncio.Event()

        def turn() -> None:
            turns.append(0)
            if not heard.over.is_set():
                asyncio.get_running_loop().call_soon(turn)

        class Counting(Heard):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                turns[-1] += len(data)
                if not paused.is_set() and len(self.body) > size // 2:
                    paused.set()
                    wire.pause(True)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            sending = asyncio.create_task(asyncio.to_thread(send, listener))
            heard = Counting()
            wire = await pool(listener.getsockname()[1]).send("POST", "/v1/x", (b"{}",), heard)
            turn()
            await paused.wait()
            read = len(heard.body)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert len(heard.body) == read
            wire.pause(False)
            await asyncio.wait_for(heard.over.wait(), 20)
            await sending
        assert (len(heard.body), heard.error) == (size, None)
        assert max(turns) <= 262_144

    run(main)


def test_a_connection_that_was_paused_at_its_end_is_not_used_again() -> None:
    """A client that stopped reading during the last bytes must not make the next call deaf."""

    async def main() -> None:
        async with serving(answering(OK)) as server:
            engine = pool(server.port)

            class Pausing(Heard):
                def on_data(self, data: bytes) -> None:
                    super().on_data(data)
                    wire.pause(True)

            heard = Pausing()
            wire = await engine.send("POST", "/v1/x", (b"{}",), heard)
            await asyncio.wait_for(heard.over.wait(), 20)
            assert (await ask(engine))[0].body == b"ok"
            assert engine.opened == 2

    run(main)
