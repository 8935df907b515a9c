"""An offer of HTTP/2 in clear text is passed over: Java's own client makes it with every call over plain HTTP."""

from __future__ import annotations

import json

import httpx
import pytest

from fakes.engine import FakeEngine
from support.house import House, chat
from support.wire import Wire, chat_request, chunked, request

OFFER = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


def sent(house: House, *pieces: bytes) -> httpx.Response:
    """The answer to these bytes, sent one piece after another."""
    with Wire(house.port) as wire:
        for piece in pieces:
            wire.send(piece)
        return wire.answer()


def test_a_call_with_an_offer_is_a_call(house: House, engine: FakeEngine) -> None:
    """In one piece, cut anywhere, and in chunks: the answer is the engine's, and the engine got the body whole."""
    raw = chat_request(house.key, chat(), *OFFER)
    head = raw.index(b"\r\n\r\n") + 4
    for pieces in ((raw,), (raw[:head], raw[head:]), (raw[: head - 1], raw[head - 1 :]), (raw[:60], raw[60:])):
        answer = sent(house, *pieces)
        assert (answer.status_code, answer.json()["object"]) == (200, "chat.completion")
    body = json.dumps(chat()).encode()
    lines = (
        f"Authorization: Bearer {house.key}",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        *OFFER,
    )
    answer = sent(house, request("POST", "/v1/chat/completions", *lines), chunked(body[:9], body[9:]))
    assert answer.status_code == 200
    assert len(engine.calls) == 5
    assert len({call.body for call in engine.calls}) == 1


def test_byte_by_byte(house: House) -> None:
    """No check depends on how the bytes arrive."""
    raw = chat_request(house.key, chat(), *OFFER)
    assert sent(house, *(raw[place : place + 1] for place in range(len(raw)))).status_code == 200


def test_the_connection_goes_on(house: House) -> None:
    """Calls with and without an offer take turns on one connection; the client's wish to close it is kept."""
    call = chat_request(house.key, chat(), *OFFER)
    with Wire(house.port) as wire:
        for raw in (call, chat_request(house.key, chat()), call):
            wire.send(raw)
            answer = wire.answer()
            assert (answer.status_code, answer.headers.get("connection")) == (200, None)
        wire.send(chat_request(house.key, chat(), "Connection: close, Upgrade", "Upgrade: h2c"))
        answer = wire.answer()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert wire.closed()


LONG = (
    "Authorization: Bearer {key}",
    "Content-Type: application/json",
    "Content-Length: 99999999",
)


@pytest.mark.parametrize("name", ["no key", "too long a body", "another host"])
def test_refusals_are_the_same(name: str, house: House, engine: FakeEngine) -> None:
    """With an offer or without: the same status and code."""

    def raw(*more: str) -> bytes:
        if name == "no key":
            return chat_request("vst_wrong", chat(), *more)
        if name == "too long a body":
            lines = [line.format(key=house.key) for line in LONG]
            return request("POST", "/v1/chat/completions", *lines, *more)
        return request("GET", "/v1/models", *more, host="local host")

    plain, offered = sent(house, raw()), sent(house, raw(*OFFER))
    assert (plain.status_code, plain.json()["error"]) == (offered.status_code, offered.json()["error"])
    assert plain.status_code >= 400
    assert engine.calls == []
