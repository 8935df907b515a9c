"""How large a request may be: beyond its bounds it is refused while it arrives, and memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fakes.engine import FakeEngine
from support.house import House, chat
from support.refusal import Visit
from support.wire import chat_request, chunked, request, resident_bytes

HEAD_BYTES, BODY_BYTES = 32_768, 65_536
HELLO = b'{"model":"small","messages":[{"role":"user","content":"hello"}]}'
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that takes small bodies."""
    door = {"header_bytes": HEAD_BYTES, "body_bytes": BODY_BYTES}
    with House(tmp_path_factory.mktemp("small"), [shared_engine], door=door) as house:
        yield house


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


LARGE_HEADS: dict[str, Callable[[], bytes]] = {
    "8 MiB in one header": lambda: request("GET", "/v1/models", "X-A: " + "a" * 8 * MIB),
    "8 MiB in many headers": lambda: request("GET", "/v1/models", *(f"X-{i}: " + "a" * 8000 for i in range(1048))),
    "8 MiB in a name": lambda: request("GET", "/v1/models", "X" * 8 * MIB + ": a"),
    "8 MiB in the target": lambda: request("GET", "/" + "a" * 8 * MIB),
    "8 MiB in the query": lambda: request("GET", "/v1/models?" + "a" * 8 * MIB),
    "8 MiB in the key": lambda: request("GET", "/v1/models", "Authorization: Bearer " + "a" * 8 * MIB),
    "8 MiB without an end": lambda: b"GET /v1/models HTTP/1.1\r\nX-A: " + b"a" * 8 * MIB,
    "5,000 headers": lambda: request("GET", "/v1/models", *(f"X-{each}: a" for each in range(5000))),
    "5,000 empty headers": lambda: request("GET", "/v1/models", *["X:"] * 5000),
    "101 headers": lambda: request("GET", "/v1/models", *["X-A: a"] * 100),
    "a few bytes too many": lambda: request("GET", "/v1/models", "X-A: " + "a" * HEAD_BYTES),
    "8 MiB of empty lines": lambda: b"\r\n" * 4 * MIB,
    "8 MiB of cookies": lambda: request("GET", "/v1/models", *["Cookie: " + "a" * 8000] * 1048),
}


@pytest.mark.parametrize("name", LARGE_HEADS)
def test_headers_that_are_too_many_or_too_large_are_refused(name: str, visit: Visit) -> None:
    """Headers beyond their bound are answered 431 while they arrive; what follows is dropped, memory stays flat."""
    data = LARGE_HEADS[name]()
    before = resident_bytes()
    with visit.wire() as wire:
        wire.send(data)
        answer = wire.answer()
        assert wire.closed()
    assert answer.headers["connection"] == "close"
    assert resident_bytes() - before < 4 * MIB
    visit.refused(answer, 431, "request_header_fields_too_large", param=None, unlike=("a" * 9,))


def test_headers_within_their_bounds_are_read(visit: Visit) -> None:
    """A hundred headers of nearly 32 KiB in all are fine, however they are cut."""
    head = request("GET", "/v1/models", f"Authorization: Bearer {visit.key}", *["X-A: " + "a" * 320] * 98)
    assert HEAD_BYTES - 800 < len(head) < HEAD_BYTES
    with visit.wire() as wire:
        wire.send(head)
        assert wire.answer().status_code == 200
        for place in range(0, len(head), 1000):
            wire.send(head[place : place + 1000])
        assert wire.answer().status_code == 200


def test_a_body_does_not_count_as_headers_of_the_next_call(visit: Visit) -> None:
    """On one connection, bodies larger than the bound on headers come before heads that arrive in two pieces."""
    body = chat("x" * (HEAD_BYTES + 5000))
    with visit.wire() as wire:
        for _ in range(3):
            call = chat_request(visit.key, body)
            end = call.index(b"\r\n\r\n") + 4
            for piece in (call[:40], call[40:end]):
                wire.send(piece)
                assert not wire.readable(0.02)
            wire.send(call[end:])
            assert wire.answer().status_code == 200


def test_a_body_over_the_cap_that_is_declared_is_refused_unread(visit: Visit) -> None:
    """A Content-Length beyond the cap is answered 413 before the body is asked for."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, b"", f"Content-Length: {BODY_BYTES + 1}", "Expect: 100-continue"))
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 413, "request_too_large", param=None)


LARGE_BODIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "declared": (lambda: b" " * (BODY_BYTES + 1), f"Content-Length: {BODY_BYTES + 1}"),
    "declared, 8 MiB": (lambda: b" " * 8 * MIB, f"Content-Length: {8 * MIB}"),
    "declared, 10^18": (lambda: b" " * BODY_BYTES, "Content-Length: 1000000000000000000"),
    "one chunk": (lambda: chunked(b" " * (BODY_BYTES + 1)), "Transfer-Encoding: chunked"),
    "many chunks": (lambda: chunked(*[b" " * 1000] * 8000), "Transfer-Encoding: chunked"),
    "chunks of one byte": (lambda: chunked(*[b" "] * (BODY_BYTES + 1)), "Transfer-Encoding: chunked"),
    "one chunk of 8 MiB, never ended": (lambda: b"800000\r\n" + b" " * 7 * MIB, "Transfer-Encoding: chunked"),
    "a chunk extension of 8 MiB": (lambda: b"1;" + b"a" * 8 * MIB + b"\r\n \r\n", "Transfer-Encoding: chunked"),
    "a trailer of 8 MiB": (lambda: b"0\r\nX-A: " + b"a" * 8 * MIB + b"\r\n\r\n", "Transfer-Encoding: chunked"),
    "8 MiB of trailers": (lambda: b"0\r\n" + b"X-A: a\r\n" * MIB + b"\r\n", "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("name", LARGE_BODIES)
def test_a_body_over_the_cap_is_refused(name: str, visit: Visit) -> None:
    """A body beyond the cap is 413, whether its length is declared or not, and whatever of it is framing."""
    build, line = LARGE_BODIES[name]
    data = chat_request(visit.key, build(), line)
    before = resident_bytes()
    with visit.wire() as wire:
        wire.send(data)
        answer = wire.answer()
        assert wire.closed()
    assert answer.headers["connection"] == "close"
    assert resident_bytes() - before < 4 * MIB
    visit.refused(answer, 413, "request_too_large", param=None)


@pytest.mark.parametrize("framing", ["length", "one chunk", "many chunks"])
def test_a_body_of_exactly_the_cap_is_read(framing: str, visit: Visit) -> None:
    """The cap itself is allowed."""
    body = HELLO + b" " * (BODY_BYTES - len(HELLO))
    if framing == "length":
        answer = visit.send(chat_request(visit.key, body))
    else:
        size = BODY_BYTES if framing == "one chunk" else 512
        pieces = [body[place : place + size] for place in range(0, BODY_BYTES, size)]
        answer = visit.send(chat_request(visit.key, chunked(*pieces), "Transfer-Encoding: chunked"))
    assert answer.status_code == 200


def test_bodies_that_do_not_end_have_little_room_together(visit: Visit) -> None:
    """One key's many half-sent bodies are refused with 503 before they fill the memory; whole ones still pass."""
    half, most = BODY_BYTES - 100, 64
    before = resident_bytes()
    wires = [visit.wire() for _ in range(most + 20)]
    try:
        for wire in wires:
            wire.send(chat_request(visit.key, b" " * half, f"Content-Length: {BODY_BYTES}"))
        late = [wire for wire in wires if wire.readable(0.02)]
        assert len(late) >= 10
        for wire in late:
            answer = wire.answer()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert wire.closed()
        assert resident_bytes() - before < 32 * MIB
        visit.well()
        for wire in wires:
            if wire not in late:
                wire.send(HELLO.ljust(BODY_BYTES - half))
                assert wire.answer().status_code == 200
    finally:
        for wire in wires:
            wire.close()


def test_a_stranger_s_large_body_is_refused_unread(visit: Visit) -> None:
    """Without a key nothing of a body is kept: 401 at once, and the connection closes."""
    with visit.wire() as wire:
        wire.send(chat_request("vst_wrong", b" " * 2 * MIB))
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 401, "invalid_api_key")


TYPES = {
    "none": None, "empty": "", "text": "text/plain", "form": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data; boundary=a", "a list": "application/json, text/plain",
    "JSON lines": "application/jsonl", "XML": "application/xml", "another charset": "application/json; charset=utf-16",
    "another parameter": "application/json; boundary=a", "a suffix": "application/problem+json",
    "a prefix": "xapplication/json", "half": "application/", "JSON with more": "application/jsonx",
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_another_content_type_is_refused(name: str, visit: Visit) -> None:
    """Only `application/json` in UTF-8 is read."""
    line = () if TYPES[name] is None else (f"Content-Type: {TYPES[name]}",)
    with visit.wire() as wire:
        wire.send(request("POST", "/v1/chat/completions", f"Authorization: Bearer {visit.key}", *line, body=HELLO))
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 415, "unsupported_media_type", param=None, unlike=("boundary", "utf-16"))


SPELLINGS = ["Application/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"']


@pytest.mark.parametrize("kind", SPELLINGS)
def test_json_by_any_spelling_is_read(kind: str, visit: Visit) -> None:
    """The type is matched without case, and a charset of UTF-8 is fine."""
    lines = (f"Authorization: Bearer {visit.key}", f"Content-Type: {kind}")
    assert visit.send(request("POST", "/v1/chat/completions", *lines, body=HELLO)).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "x", ""])
def test_a_content_encoding_is_refused(coding: str, visit: Visit) -> None:
    """Nothing is unpacked for a client, so that nothing can grow while it is."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, HELLO, f"Content-Encoding: {coding}"))
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 415, "unsupported_media_type", param=None)
