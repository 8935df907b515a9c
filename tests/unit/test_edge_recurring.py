"""A head that comes again: what is read of it without the parser is what the parser said of it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest

from support.wire import chat_request
from vestry.edge.recurring import recurring

BODY = b'{"model":"small"}'
USUAL = chat_request("key", BODY, "Content-Length: 17", "User-Agent: a")


class Parsed:
    """What the parser makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.version = parser.get_http_version()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True

    @property
    def scope(self) -> dict[str, Any]:
        return {"http_version": self.version, "headers": self.headers, "path": "/v1", "state": {}}

    @property
    def fields(self) -> dict[bytes, bytes]:
        return dict(self.headers)


def known(data: bytes) -> Any:
    first = Parsed(data)
    return recurring(data, first.scope, first.fields)


@pytest.mark.parametrize("body", [BODY, b"{}", b"", b"x" * 70_000, b"\r\nContent-Length: 5\r\n\r\n", USUAL])
@pytest.mark.parametrize(
    "first",
    [
        USUAL,
        chat_request("key", BODY),
        USUAL.replace(b"Content-Length: ", b"CONTENT-length:\t "),
        USUAL.replace(b"User-Agent: a", b"User-Agent: content-length: 17"),
    ],
)
def test_it_is_read_as_the_parser_reads_it(first: bytes, body: bytes) -> None:
    """With another body the scope, the fields and the body are those that the parser would give."""
    again = first.removesuffix(BODY).replace(b" 17\r\n", b" %d\r\n" % len(body)) + body
    if b"content-length: 17\r\n" in first:  # what a header's value says of lengths is no length
        again = again.replace(b"content-length: %d\r\n" % len(body), b"content-length: 17\r\n")
    expected = Parsed(again)
    assert expected.whole
    scope, fields, read = known(first).again(again)
    assert (scope, fields, read) == (expected.scope, expected.fields, expected.body)


@pytest.mark.parametrize(
    "data",
    [
        USUAL[:-1],
        USUAL + b" ",
        USUAL + USUAL,
        USUAL.removesuffix(BODY),
        USUAL[:40],
        b"\r\n" + USUAL,
        USUAL.replace(b" 17\r\n", b" +17\r\n"),
        USUAL.replace(b" 17\r\n", b" 1_7\r\n"),
        USUAL.replace(b" 17\r\n", b" \xd9\xa1\xd9\xa7\r\n"),
        USUAL.replace(b" 17\r\n", b" 17 \r\n"),
        USUAL.replace(b" 17\r\n", b" \r\n"),
        USUAL.replace(b" 17\r\n", b" 00000000017\r\n"),
        USUAL.replace(b" 17\r\n", b" 17\r\nContent-Length: 17\r\n"),
        USUAL.replace(b" 17\r\n", b" 17\r\nTransfer-Encoding: chunked\r\n"),
        USUAL.replace(b"User-Agent: a", b"User-Agent: b"),
        USUAL.replace(b"Bearer key", b"Bearer kez"),
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_whatever_differs_is_the_parsers(data: bytes) -> None:
    """A request that is not whole, or has another head or length, is not read without the parser."""
    assert known(USUAL).again(data) is None


@pytest.mark.parametrize(
    "data",
    [
        chat_request("key", BODY, "Expect: 100-continue"),
        chat_request("key", BODY, "Upgrade: h2c"),
        chat_request("key", BODY, "X-A: 1", "X-A: 2"),
        chat_request("key", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
        USUAL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
        chat_request("key", BODY, "X-A: " + "a" * 9_000),
        chat_request("key", BODY) + chat_request("key", BODY),
        chat_request("key", BODY) + b"\r\n",
        chat_request("key", b"\r\n" + BODY) + b"\r\n",
    ],
)
def test_an_unusual_head_is_parsed_each_time(data: bytes) -> None:
    """What could mean more than a body of a known length is left to the parser."""
    assert known(data) is None
