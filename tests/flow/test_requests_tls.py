"""The door behind TLS: the same refusals arrive whole, and a handshake has its time too."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from fakes.engine import FakeEngine
from support.house import House, chat, until
from support.refusal import Visit, check_shape
from support.wire import chat_request, request

SECONDS = 1.5  # a request must have begun by then, on a machine that stands still for a moment, too
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def house(
    shared_engine: FakeEngine, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A server that speaks TLS, and is quick to lose patience."""
    folder = tmp_path_factory.mktemp("tls")
    files = write(authority, folder)
    door = {"header_seconds": SECONDS, "body_seconds": SECONDS, "reader_seconds": SECONDS, "body_bytes": 65_536}
    with House(folder / "state", [shared_engine], door=door, server={"tls": files}) as house:
        yield house


def write(authority: trustme.CA, folder: Path) -> dict[str, str]:
    """A certificate for localhost and its key, as files; the settings that name them."""
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for place, each in enumerate(issued.cert_chain_pems):
        each.write_to_path(folder / "certificate.pem", append=place > 0)
    return {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}


@pytest.fixture
def visit(house: House, engine: FakeEngine, authority: trustme.CA) -> Visit:
    """One bad request to come."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Visit(house, engine, context=context)


CASES: dict[str, tuple[int, str, Callable[[], bytes]]] = {
    "headers too large": (431, "request_header_fields_too_large", lambda: request("GET", "/", "X-A: " + "a" * 8 * MIB)),
    "malformed": (400, "malformed_request", lambda: b"GET / HTTP/1.1\nHost: localhost\r\n\r\n" + b"a" * MIB),
    "half a head": (408, "request_timeout", lambda: b"GET /v1/models HTTP/1.1\r\n"),
    "another route": (404, "not_found", lambda: request("POST", "/invocations", body=b"a" * MIB)),
    "no key": (401, "invalid_api_key", lambda: chat_request("vst_wrong", b"a" * 2 * MIB)),
}


@pytest.mark.parametrize("name", CASES)
def test_refusals_arrive_whole_through_tls(name: str, visit: Visit) -> None:
    """Though the client is still sending, it gets the whole answer before the connection ends."""
    status, code, build = CASES[name]
    with visit.wire() as wire:
        wire.send(build())
        answer = wire.answer()
        assert wire.rest() == b""
    visit.refused(answer, status, code)


@pytest.mark.parametrize("lines", [(f"Content-Length: {4 * MIB}",), ("Transfer-Encoding: chunked",)])
def test_a_body_over_the_cap_is_refused_through_tls(lines: tuple[str, ...], visit: Visit) -> None:
    """413 arrives, declared or not."""
    body = b"400000\r\n" + b" " * 4 * MIB if "chunked" in lines[0] else b" " * 4 * MIB
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, body, *lines))
        answer = wire.answer()
    visit.refused(answer, 413, "request_too_large")


def test_half_a_body_is_given_up_through_tls(visit: Visit) -> None:
    """408 arrives when the body's time is over."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, b"{", "Content-Length: 50"))
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 408, "request_timeout")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", request()])
def test_a_connection_that_does_not_finish_its_handshake_is_closed(sent: bytes, house: House, visit: Visit) -> None:
    """A handshake that stops half-way, or that is none, ends; nothing is answered in the clear."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", house.port), timeout=15) as plain:
        plain.sendall(sent)
        try:
            answer = plain.recv(4096)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP")
    assert time.monotonic() - began < 10
    visit.well()


def test_a_stream_that_is_not_read_is_dropped_through_tls(visit: Visit) -> None:
    """A client that does not read is dropped after `reader_seconds` here too."""
    visit.engine.behave(words=("x" * 16_384,) * 2000)
    with visit.wire(receive_buffer=8192) as wire:
        wire.send(chat_request(visit.key, chat(stream=True)))
        assert wire.line() == b"HTTP/1.1 200 OK\r\n"
        until(lambda: visit.house.records("outcome")[-1]["ending"] == "cancelled", what="the client being dropped")


def test_calls_and_streams_go_through_tls(visit: Visit) -> None:
    """Many calls share one TLS connection, whole and streamed."""
    with visit.wire() as wire:
        for turn in range(4):
            wire.send(chat_request(visit.key, chat(stream=turn % 2 == 0)))
            answer = wire.answer()
            assert answer.status_code == 200
            assert "Paris" in answer.text
        wire.send(request("GET", "/nothing"))
        check_shape(wire.answer())
