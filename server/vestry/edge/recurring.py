"""A head that comes again: clients send the same one with every call on a connection, but for the body's length.

The parser judges it the first time. A request that has the very same bytes but for the digits of its `Content-Length`,
and that comes whole in one piece, is not parsed again: of the same bytes the parser would say the same. Whatever else
comes goes to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})\r\n", re.IGNORECASE)
NAME = b"content-length"
MOST = 8_192
"""Bytes of a head that is kept: it stays as long as its connection."""
UNUSUAL = (b"transfer-encoding", b"expect", b"upgrade")


Said: TypeAlias = tuple[str, str, str, str, str | None, bool]
"""What a head says of its sender: address, user agent, the client's id of the request, trace context; the credential,
and whether that is ambiguous."""


class Recurring(Struct):
    """A head that was parsed: its bytes around the length, and what came of them. `said` is set by who reads it."""

    before: bytes
    after: bytes
    scope: dict[str, Any]
    fields: Mapping[bytes, bytes]
    place: int
    said: Said | None = None

    def again(self, data: bytes) -> tuple[dict[str, Any], dict[bytes, bytes], bytes] | None:
        """Scope, fields and body of a request that has this head and is whole; None for any other."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        begin = len(before)
        end = data.find(after, begin, begin + len(after) + 10)
        length = data[begin:end]
        if end < 0 or not length.isdigit():
            return None
        body = data[end + len(after) :]
        if len(body) != int(length):
            return None
        headers = self.scope["headers"].copy()
        headers[self.place] = NAME, length
        return {**self.scope, "headers": headers, "state": {}}, {**self.fields, NAME: length}, body


def recurring(data: bytes, scope: dict[str, Any], fields: Mapping[bytes, bytes]) -> Recurring | None:
    """What is known of the head of a request, which `data` is the whole of; None for one that is not usual."""
    headers, length = scope["headers"], fields.get(NAME)
    if length is None or scope["http_version"] != "1.1" or len(headers) != len(fields):
        return None
    head = data.find(b"\r\n\r\n") + 4  # the parser passes over line ends behind a body: those are no part of one
    if head > MOST or len(data) - head != int(length) or any(name in fields for name in UNUSUAL):
        return None
    found = LENGTH.search(data, 0, head)
    if found is None:
        return None
    place = headers.index((NAME, length))
    return Recurring(data[: found.start(1)], data[found.end(1) : head], scope, fields, place)
