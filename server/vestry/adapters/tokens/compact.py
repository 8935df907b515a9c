"""A JWT taken apart, before anything in it is believed (RFC 7515, section 3.1; RFC 8725).

Only the compact form is read, its base64url strictly: without padding, line ends or spare bits, so that one token has
one text.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from msgspec import Struct

LONGEST = 16_384
HEADER_BYTES = 2048
KID = 256
DEEPEST = 16
FORM = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}")
FOREIGN = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"})
"""Headers that bring a key along, or change what the others mean: nothing that is signed for us has one."""
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


class BadToken(Exception):  # noqa: N818 - caught where it becomes a refusal
    """This is no token that can be believed. `str()` says why, for the operator."""


class Compact(Struct, frozen=True):
    """A token's parts. Nothing is verified yet."""

    text: str
    algorithm: str
    kid: str | None
    typ: str
    claims: dict[str, Any]


def take_apart(text: str) -> Compact:
    """The parts of a token. Raises BadToken."""
    if len(text) > LONGEST or not FORM.fullmatch(text):
        raise BadToken("it has not the form of a signed JWT")
    first, second, third = text.split(".")
    if len(first) > HEADER_BYTES:
        raise BadToken("its header is too large")
    _decoded(third)
    header, claims = _object(_decoded(first)), _object(_decoded(second))
    if found := FOREIGN & header.keys():
        raise BadToken(f"its header has `{min(found)}`")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or not isinstance(typ, str) or typ.lower() not in TYPES:
        raise BadToken("its header is not that of an access token")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= KID):
        raise BadToken("its `kid` is no short text")
    return Compact(text, algorithm, kid, typ.lower(), claims)


def _decoded(part: str) -> bytes:
    try:
        found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise BadToken("a part of it is no base64url") from None
    if base64.urlsafe_b64encode(found).rstrip(b"=") != part.encode():
        raise BadToken("a part of it has spare bits")
    return found


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadToken("a part of it is no JSON object") from None
    if not isinstance(found, dict) or not _shallow(found, DEEPEST):
        raise BadToken("a part of it is no flat JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _shallow(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_shallow(each, depth - 1) for each in inner)
