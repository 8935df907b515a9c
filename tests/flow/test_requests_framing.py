"""Bytes that are no HTTP request, or that could be read in two ways: refused, and the connection closes."""

from __future__ import annotations

import pytest

from fakes.engine import FakeEngine
from support.house import House, chat, until
from support.refusal import Ledger, Visit
from support.wire import Wire, chat_request, chunked, request

GOOD = b'{"model":"small","messages":[{"role":"user","content":"hello"}]}'
LENGTH = len(GOOD)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
END = b"\r\n\r\n"

HEADS: dict[str, bytes] = {
    # Host
    "no host": request(host=None),
    "no host, HTTP/1.0": request(host=None, version="1.0"),
    "two hosts": request("GET", "/v1/models", "Host: localhost"),
    "two different hosts": request("GET", "/v1/models", "Host: other.example"),
    "an empty host": request(host=""),
    "a host with a path": request(host="localhost/../admin"),
    "a host with credentials": request(host="user@localhost"),
    "a host with a space": request(host="local host"),
    "a host with a quote": request(host="localhost'"),
    "a host with a strange port": request(host="localhost:80a"),
    "a host with a port too great": request(host="localhost:123456"),
    "two hosts in one": request(host="localhost, other.example"),
    "a host that is not ASCII": request(host="h\xf6st"),
    "a host that is half an IPv6 address": request(host="[::1"),
    # The target
    "absolute form": request(target="http://localhost/v1/models"),
    "absolute form of another host": request(target="http://169.254.169.254/latest/meta-data"),
    "asterisk form": request("OPTIONS", "*"),
    "authority form": request("CONNECT", "169.254.169.254:80"),
    "an @ before the path": request(target="@evil.example/v1/models"),
    "a target without a slash": request(target="v1/models"),
    "a fragment": request(target="/v1/models#part"),
    "a control character in the target": request(target="/v1/mod\x01els"),
    "a target that is not ASCII": request(target="/v1/mod\xe9ls"),
    "a space in the target": request(target="/v1/models /x"),
    # The version
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2.0 in words": request(version="2.0"),
    "HTTP/1.2": request(version="1.2"),
    "HTTP/3": b"GET /v1/models HTTP/3\r\nHost: localhost\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9,
    "lower-case http": b"GET /v1/models http/1.1\r\nHost: localhost\r\n\r\n",
    # Not HTTP at all
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "the hello of SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "zeros": b"\0" * 64,
    "a line that begins with a space": b" GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "JSON": GOOD,
    # Headers
    "bare LF after the request line": b"GET /v1/models HTTP/1.1\nHost: localhost\r\n\r\n",
    "bare LF after a header": b"GET /v1/models HTTP/1.1\r\nHost: localhost\nX-A: 1\r\n\r\n",
    "bare LF at the end": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare CR in a header": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: a\rX-B: b\r\n\r\n",
    "a folded header": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b\r\n\r\n",
    "a folded first header": b"GET /v1/models HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a header without a colon": request("GET", "/v1/models", "X-A"),
    "a header without a name": request("GET", "/v1/models", ": value"),
    "a space before the colon": request("GET", "/v1/models", "X-A : 1"),
    "a space in a name": request("GET", "/v1/models", "X A: 1"),
    "NUL in a value": request("GET", "/v1/models", "X-A: a\0b"),
    "NUL in a name": request("GET", "/v1/models", "X-\0A: b"),
    "a control character in a value": request("GET", "/v1/models", "X-A: a\x0bb"),
    "DEL in a value": request("GET", "/v1/models", "X-A: a\x7fb"),
    "a name that is not ASCII": request("GET", "/v1/models", "X-\xe9: b"),
    # Upgrades
    "upgrade to h2c or a web socket": request("GET", "/v1/models", "Connection: Upgrade", "Upgrade: h2c, websocket"),
    "upgrade to h2c, twice": request("GET", "/v1/models", "Connection: Upgrade", "Upgrade: h2c", "Upgrade: h2c"),
    "upgrade to h2c, two lengths": POST
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\nContent-Length: %d" % LENGTH
    + END
    + GOOD,
    "upgrade to h2c, two hosts": request("GET", "/v1/models", "Host: a", "Connection: Upgrade", "Upgrade: h2c"),
    "upgrade to a web socket": request(
        "GET",
        "/v1/models",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "upgrade with a body": POST + b"Connection: Upgrade\r\nUpgrade: irc\r\nContent-Length: %d" % LENGTH + END + GOOD,
    # The length of the body
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked" + END + chunked(GOOD),
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: %d" % LENGTH + END + chunked(GOOD),
    "two lengths": POST + b"Content-Length: %d\r\nContent-Length: 5" % LENGTH + END + GOOD,
    "the same length twice": POST + b"Content-Length: %d\r\nContent-Length: %d" % (LENGTH, LENGTH) + END + GOOD,
    "two lengths in one": POST + b"Content-Length: %d, %d" % (LENGTH, LENGTH) + END + GOOD,
    "a negative length": POST + b"Content-Length: -1" + END + GOOD,
    "a length with a plus": POST + b"Content-Length: +%d" % LENGTH + END + GOOD,
    "a length in hex": POST + b"Content-Length: 0x40" + END + GOOD,
    "an empty length": POST + b"Content-Length: " + END + GOOD,
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999" + END + GOOD,
    "a length with an underscore": POST + b"Content-Length: 1_0" + END + GOOD,
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" + END + chunked(GOOD),
    "chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked" + END + chunked(GOOD),
    "gzip": POST + b"Transfer-Encoding: gzip" + END + GOOD,
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked" + END + chunked(GOOD),
    "identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: %d" % LENGTH + END + GOOD,
    "an empty transfer encoding": POST + b"Transfer-Encoding: " + END + chunked(GOOD),
    "xchunked": POST + b"Transfer-Encoding: xchunked" + END + chunked(GOOD),
    "chunked behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked" + END + chunked(GOOD),
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"' + END + chunked(GOOD),
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked" + END + chunked(GOOD),
    "chunked behind a space and a colon": POST + b"Transfer-Encoding : chunked" + END + chunked(GOOD),
}

SIZE = b"%x\r\n" % LENGTH
CHUNKS: dict[str, bytes] = {
    "a size in words": b"four\r\n" + GOOD,
    "no size": b"\r\n" + GOOD,
    "a size with 0x": b"0x" + SIZE + GOOD + b"\r\n0\r\n\r\n",
    "a size with a plus": b"+" + SIZE + GOOD + b"\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a size with an underscore": b"4_0\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"fffffffffffffffff\r\n" + GOOD,
    "a space after the size": b"%x \r\n" % LENGTH + GOOD + b"\r\n0\r\n\r\n",
    "bare LF after the size": b"%x\n" % LENGTH + GOOD + b"\r\n0\r\n\r\n",
    "bare LF after the chunk": SIZE + GOOD + b"\n0\r\n\r\n",
    "nothing after the chunk": SIZE + GOOD + b"0\r\n\r\n",
    "a chunk longer than it says": b"5\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "bare LF in an extension": b"%x;a=b\n" % LENGTH + GOOD + b"\r\n0\r\n\r\n",
    "NUL in an extension": b"%x;a=\0\r\n" % LENGTH + GOOD + b"\r\n0\r\n\r\n",
    "bare LF after the last chunk": SIZE + GOOD + b"\r\n0\n\n",
    "NUL in a trailer": SIZE + GOOD + b"\r\n0\r\nX-A: \0\r\n\r\n",
    "a folded trailer": SIZE + GOOD + b"\r\n0\r\nX-A: a\r\n b\r\n\r\n",
}


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_malformed_is_refused(name: str, visit: Visit) -> None:
    """A request line or header that RFC 9112 does not allow is answered 400, whole, and the connection closes."""
    with visit.wire() as wire:
        wire.send(HEADS[name])
        answer = wire.answer()
        assert wire.closed()
    assert answer.headers["connection"] == "close"
    visit.refused(answer, 400, "malformed_request", param=None, unlike=("evil", "169.254", "GET", "hello"))


def test_no_control_character_passes_in_a_header(house: House, engine: FakeEngine) -> None:
    """Of all control characters a header's value may hold a tab only, and its name none (RFC 9110 section 5.5)."""
    controls = [*range(32), 127]
    ledger = Ledger(house)
    start = ledger.look()
    for place, line in (("value", b"X-A: a%cb"), ("name", b"X%cA: b"), ("end of a name", b"X-A%c: b")):
        for each in controls:
            with Wire(house.port) as wire:
                wire.send(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n" + line % each + b"\r\n\r\n")
                status = wire.answer().status_code
            assert status == (404 if place == "value" and each == 9 else 400), (place, each)
    until(lambda: ledger.look() >= start + 3 * len(controls), what="a record of every refusal")
    assert engine.calls == []


WHOLE_ONLY = {"the hello of SSH"}  # its first byte alone could begin a method


@pytest.mark.parametrize("name", [name for name in HEADS if name not in WHOLE_ONLY])
def test_a_malformed_head_is_refused_byte_by_byte_too(name: str, visit: Visit) -> None:
    """Cut into single bytes, the same heads get the same answer: no check depends on how the bytes arrive."""
    with visit.wire() as wire:
        for place in range(len(HEADS[name])):
            wire.send(HEADS[name][place : place + 1])
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 400, "malformed_request", param=None)


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_are_malformed_are_refused(name: str, visit: Visit) -> None:
    """A chunk that does not begin or end as it should is answered 400 once, and the connection closes."""
    head = POST + b"Authorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n" % visit.key.encode()
    with visit.wire() as wire:
        wire.send(head + CHUNKS[name])
        answer = wire.answer()
        assert wire.closed()
    assert answer.headers["connection"] == "close"
    visit.refused(answer, 400, "malformed_request", param=None, unlike=("hello",))


@pytest.mark.parametrize("name", CHUNKS)
def test_malformed_chunks_after_a_pause_are_refused(name: str, visit: Visit) -> None:
    """The same, where the head came long before: the call that waits for its body gives the answer."""
    head = POST + b"Authorization: Bearer %b\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    with visit.wire() as wire:
        wire.send(head % visit.key.encode())
        assert wire.answer().status_code == 100
        wire.send(CHUNKS[name])
        answer = wire.answer()
        assert wire.closed()
    visit.refused(answer, 400, "malformed_request", param=None, unlike=("hello",))


@pytest.mark.parametrize(
    "method", ["FOO", "get", "Get", "GETS", "POSTX", "X-A", "G", "BREW2", "!#$%&'*+.^_`|~", "A" * 60]
)
def test_an_unknown_method_is_not_allowed(method: str, visit: Visit) -> None:
    """A method that no registry knows is answered 405 with Allow, like any other that is not ours."""
    with visit.wire() as wire:
        wire.send(request(method))
        answer = wire.answer()
        assert wire.closed()
    assert answer.headers["allow"] == "GET, POST"
    visit.refused(answer, 405, "method_not_allowed", param=None, unlike=(method,) if len(method) > 3 else ())


def test_chunks_that_are_well_formed_are_read(visit: Visit) -> None:
    """Chunks of any size, with extensions, upper-case hex and leading zeros, are one body."""
    half = LENGTH // 2
    body = b"%04X;name=value\r\n%b\r\n%x\r\n%b\r\n000\r\n\r\n" % (half, GOOD[:half], LENGTH - half, GOOD[half:])
    answer = visit.send(chat_request(visit.key, body, "Transfer-Encoding: chunked"))
    assert answer.status_code == 200
    assert visit.engine.calls[0].json["messages"] == [{"role": "user", "content": "hello"}]


def test_trailers_are_not_headers(visit: Visit) -> None:
    """What follows the last chunk is dropped: it can neither give a key nor name a client, whole or in pieces."""
    trailers = b"Authorization: Bearer %b\r\nX-Request-Id: smuggled\r\nContent-Type: text/plain\r\n\r\n"
    body = chunked(GOOD)[:-2] + trailers % visit.key.encode()
    without = POST + b"Transfer-Encoding: chunked\r\n\r\n" + body
    visit.refused(visit.send(without), 401, "invalid_api_key")
    answer = visit.send(chat_request(visit.key, body, "Transfer-Encoding: chunked"))
    assert answer.status_code == 200
    intent = visit.house.records("intent")[-1]
    assert intent["request_id"] == answer.headers["x-request-id"]
    assert "client_request_id" not in intent


def test_empty_lines_before_a_request_are_skipped(visit: Visit) -> None:
    """RFC 9112 section 2.2: a server skips empty lines that come before a request line."""
    assert visit.send(b"\r\n\r\n" + chat_request(visit.key, chat())).status_code == 200


@pytest.mark.parametrize("host", ["LOCALHOST:1", "my_service", "a.b-c.example.", "[::1]:80", "10.0.0.1:0"])
def test_good_hosts_are_answered(host: str, visit: Visit) -> None:
    """Names, container names with underscores, addresses and ports are all valid hosts."""
    answer = visit.send(request("GET", "/v1/models", f"Authorization: Bearer {visit.key}", host=host))
    assert answer.status_code == 200


# Several requests on one connection -------------------------------------------------------------------------------


def test_a_connection_serves_many_calls(visit: Visit) -> None:
    """Calls one after another share a connection, streams and refusals among them."""
    with visit.wire() as wire:
        for turn in range(6):
            wire.send(chat_request(visit.key, chat(stream=turn % 2 == 0)))
            assert wire.answer().status_code == 200
            wire.send(request("GET", "/nothing"))
            answer = wire.answer()
            assert answer.status_code == 404
            visit.recorded(answer, "not_found")
    assert len(visit.engine.calls) == 6


def test_a_head_that_comes_again_is_read_each_time(visit: Visit) -> None:
    """Calls with one head and bodies of any length, whole or in pieces, are each read as they come; so is a call with
    another key among them, and what comes after the length of one is no part of it.
    """
    texts = ["one", "and two", "", "x" * 40_000, "in pieces"]
    with visit.wire() as wire:
        for text in texts:
            data = chat_request(visit.key, chat(text))
            wire.send(data[:-5])
            if text == "in pieces":
                assert not wire.readable(0.05)
            wire.send(data[-5:])
            assert wire.answer().status_code == 200
            wire.send(chat_request(visit.key[:-1] + "-", chat(text)))
            answer = wire.answer()
            assert answer.status_code == 401
            visit.recorded(answer, "invalid_api_key")
        wire.send(chat_request(visit.key, GOOD + b" " * 9, f"Content-Length: {LENGTH}"))
        assert wire.answer().status_code == 200
        assert wire.closed()
    assert [asked.json["messages"][0]["content"] for asked in visit.engine.calls] == [*texts, "hello"]


def test_line_ends_around_a_body_do_not_move_it(visit: Visit) -> None:
    """Behind a body they are passed over, at its begin they are a part of it: of the next request that begins so, too,
    no more is read than its length says.
    """
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, b"\r\n" + GOOD) + b"\r\n")
        assert wire.answer().status_code == 200
        wire.send(chat_request(visit.key, b"\r\n" + GOOD, f"Content-Length: {LENGTH}"))
        assert wire.answer().status_code == 400
    assert len(visit.engine.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_request_at_once_is_not_served(stream: bool, visit: Visit) -> None:
    """Of two requests sent at once the first is answered whole, the connection closes, the second reaches nobody."""
    one = chat_request(visit.key, chat("first", stream=stream))
    with visit.wire() as wire:
        wire.send(one + chat_request(visit.key, chat("second")))
        answer = wire.answer()
        assert wire.closed()
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    assert "Paris" in answer.text
    assert [asked.json["messages"][0]["content"] for asked in visit.engine.calls] == ["first"]
    visit.well()


@pytest.mark.parametrize("second", [b"NONSENSE\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\nA: b\n\n", b"x" * 300_000])
@pytest.mark.parametrize("together", [True, False])
def test_nonsense_after_a_request_does_not_spoil_its_answer(second: bytes, together: bool, visit: Visit) -> None:
    """Bytes after a whole request are dropped, whatever they are: its answer is whole, then the connection closes."""
    visit.engine.behave(first_seconds=0.2)
    with visit.wire() as wire:
        one = chat_request(visit.key, chat())
        if together:
            wire.send(one + second)
        else:
            wire.send(one)
            until(lambda: visit.engine.calls, what="the engine being asked")
            wire.send(second)
        answer = wire.answer()
        assert wire.closed()
    assert answer.status_code == 200
    assert "Paris" in answer.text
    assert len(visit.engine.calls) == 1


def test_a_body_longer_than_its_length_says_is_cut_there(visit: Visit) -> None:
    """What comes after Content-Length is not part of the body, and is no second call either."""
    smuggled = chat_request(visit.key, chat("smuggled"))
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, GOOD + smuggled, f"Content-Length: {LENGTH}"))
        answer = wire.answer()
        assert wire.closed()
    assert answer.status_code == 200
    assert [asked.json["messages"][0]["content"] for asked in visit.engine.calls] == ["hello"]


def test_http_1_0_gets_a_stream_without_chunks(visit: Visit) -> None:
    """HTTP/1.0 knows no chunks (RFC 9112 section 6.1): the stream is plain bytes, ended by closing."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        answer = wire.answer()
    assert answer.status_code == 200
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert answer.text.startswith("data: {")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_http_1_0_gets_a_whole_answer(visit: Visit) -> None:
    """HTTP/1.0 gets an answer with its length, and the connection closes after it."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, chat()).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        answer = wire.answer()
        assert wire.closed()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_the_client_is_told_to_go_on_only_where_its_body_is_wanted(visit: Visit) -> None:
    """`Expect: 100-continue` is answered 100 where the body will be read, and with the refusal at once otherwise."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, b"", "Expect: 100-continue", f"Content-Length: {LENGTH}"))
        assert wire.answer().status_code == 100
        wire.send(GOOD)
        assert wire.answer().status_code == 200
    with visit.wire() as wire:  # RFC 9110, section 10.1.1: not one of HTTP/1.0
        wire.send(chat_request(visit.key, GOOD, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        assert wire.answer().status_code == 200
    with visit.wire() as wire:
        wire.send(chat_request("vst_wrong", b"", "Expect: 100-continue", f"Content-Length: {LENGTH}"))
        answer = wire.answer()
        assert wire.closed()
    del visit.engine.asked[:]
    visit.refused(answer, 401, "invalid_api_key")


def test_only_the_allowed_hosts_are_answered(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With `allowed_hosts` set, any other Host is refused, so that no name of an attacker's leads here."""
    allowed = {"allowed_hosts": ["llm.example", "[::1]"]}
    with House(tmp_path_factory.mktemp("hosts"), [engine], server=allowed) as house:
        for host, status in {
            "llm.example": 200, "LLM.example:8443": 200, "[::1]:80": 200,
            "localhost": 400, "llm.example.evil": 400, "x.llm.example": 400, "[::2]": 400, "llm.example.": 400,
        }.items():  # fmt: skip
            with Wire(house.port) as wire:
                wire.send(request("GET", "/v1/models", f"Authorization: Bearer {house.key}", host=host))
                assert wire.answer().status_code == status, host
