"""One request to the administration, as its handler sees it: who asks, about what, and with which body.

Everything is read strictly: what is not known, comes twice, or has not its form is refused, and the refusal names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from vestry.admin.actor import Actor, Match
from vestry.edge.arrival import Arrival
from vestry.errors import InvalidRequest, NotFound, UnsupportedField

BODY_BYTES = 65_536
DEEPEST = 16
LONGEST_NAME = 128
LONGEST_QUERY = 24_576
LONGEST_VALUE = 512
DEFAULT_LIMIT, GREATEST_LIMIT = 100, 500


class Ask:
    """As the head of this file says. `path` are the parts of the path that vary, as they stand in it."""

    def __init__(self, arrival: Arrival, actor: Actor, path: dict[str, str], query: bytes) -> None:
        self._arrival, self.actor = arrival, actor
        self._path, self._raw_query = path, query
        self._query: dict[str, list[str]] = {}

    # The path.

    def part(self, name: str) -> str:
        """A part of the path. Raises NotFound for one that nothing can be called by."""
        try:
            found = unquote(self._path[name], errors="strict")
        except UnicodeDecodeError:
            raise NotFound from None
        if not found.isprintable() or len(found) > LONGEST_NAME:
            raise NotFound
        return found

    # The query.

    def understand(self, known: Mapping[str, int], repeated: frozenset[str]) -> None:
        """Read the query: `known` parameters, with the most characters that each may have. Raises InvalidRequest for
        what is not known, is longer, or comes twice where it may not.
        """
        if len(self._raw_query) > LONGEST_QUERY:
            raise InvalidRequest("The query is too long.")
        try:
            pairs = parse_qsl(
                self._raw_query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=256
            )
        except ValueError:
            raise InvalidRequest("The query is not text in UTF-8.") from None
        for name, value in pairs:
            if name not in known:
                raise UnsupportedField("The query has a parameter that is not known here.", param=_printable(name))
            if name in self._query and name not in repeated:
                raise InvalidRequest("It may come once.", param=name)
            if not value.isprintable() or len(value) > known[name]:
                raise InvalidRequest(f"Its value is not printable text of up to {known[name]} characters.", param=name)
            self._query.setdefault(name, []).append(value)

    def value(self, name: str) -> str | None:
        """A parameter of the query."""
        found = self._query.get(name)
        return None if found is None else found[0]

    def values(self, name: str) -> list[str]:
        """A parameter that may come several times."""
        return self._query.get(name, [])

    def page(self) -> tuple[str, int]:
        """After what, and how many. Raises InvalidRequest."""
        limit = self.value("limit")
        if limit is None:
            return self.value("after") or "", DEFAULT_LIMIT
        if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= GREATEST_LIMIT):
            raise InvalidRequest(f"It is a whole number from 1 to {GREATEST_LIMIT}.", param="limit")
        return self.value("after") or "", int(limit)

    # Headers.

    def match(self) -> Match:
        """Which version the change is for. Raises InvalidRequest."""
        return Match.read(self.header("If-Match"), self.header("If-None-Match"))

    def token(self) -> str:
        """The `Idempotency-Key`; empty where there is none. Raises InvalidRequest for an empty one."""
        found = self.header("Idempotency-Key")
        if found is not None and not found:
            raise InvalidRequest("It is not empty.", param="Idempotency-Key")
        return found or ""

    def header(self, name: str) -> str | None:
        """A header, which may come once. Raises InvalidRequest."""
        found = self._arrival.header(name.lower().encode())
        if len(found) > 1:
            raise InvalidRequest("This header may come once.", param=name)
        return found[0] if found else None

    # The body.

    async def body(self, *, optional: bool = False) -> dict[str, Any]:
        """The body, a JSON object; empty if there may be none, and is none. Raises a Refusal."""
        if optional and self._arrival.bare:
            return {}
        return parse(await self._arrival.body())


def parse(raw: bytes) -> dict[str, Any]:
    """A JSON object (RFC 8259), strictly: UTF-8, no key twice, no NaN, bounded depth. Raises InvalidRequest."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_number, parse_float=_number)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body is not valid JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body is a JSON object.")
    _look(found, 1)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest("The body has a field twice.", param=_printable(twice))
    return found


def _no_number(_text: str) -> NoReturn:
    raise InvalidRequest("The body has a number that JSON does not have.")


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise InvalidRequest("The body has a number that is too large.")
    return found


def _look(value: Any, depth: int) -> None:
    """Raises InvalidRequest for what is nested too deeply, and for text that no store can hold."""
    if depth > DEEPEST:
        raise InvalidRequest("The body is nested too deeply.")
    if isinstance(value, str):
        if "\x00" in value:
            raise InvalidRequest("Text may not hold NUL characters.")
        if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
            raise InvalidRequest("Text may not hold halves of surrogate pairs.")
    elif isinstance(value, dict):
        for name, each in value.items():
            _look(name, depth)
            _look(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _look(each, depth + 1)


def _printable(name: str) -> str:
    """A name that the client made up: bounded, and printable."""
    return ascii(name[:64])[1:-1]
