"""Canonical JSON (RFC 8785) of one record, and its bounds.

Rules: a record is a dict with ASCII keys whose values are str, int, bool, None, list or dict, nothing
else. Floats are refused, so that no reader has to agree with us on how a number is printed; integers stay
within what every JSON reader can hold (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2). For such records
msgspec with sorted keys writes exactly the bytes that RFC 8785 asks for; the tests prove it against an
independent implementation.

A record that is written often is a `Structure`: its fields have such types only, and stand in order, so that nothing is
left to check or to sort. That costs a fifth of what a dict does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from vestry.seams import Record, Structure

LEAF_BYTES = 65_535
"""Greatest size of one leaf: what a 16-bit length can say (C2SP tlog-tiles, entry bundles)."""
SAFE_INTEGER = 2**53 - 1
DEPTH = 16

_ENCODER = msgspec.json.Encoder(order="sorted")
_OF_STRUCTURES = msgspec.json.Encoder(order="deterministic")
"""Sorts dicts, and leaves the fields of a structure as they stand: in order."""
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CUTS = (4096, 1024, 256, 64)


def placed(record: Record, index: int, origin: str) -> Record:
    """The record with its place in the log."""
    if isinstance(record, Structure):
        record.index, record.origin = index, origin
        return record
    return {**record, "index": index, "origin": origin}


def said(record: Record, name: str) -> str:
    """The text of a field; empty where there is none."""
    value = getattr(record, name, "") if isinstance(record, Structure) else record.get(name, "")
    return value if isinstance(value, str) else ""


class NotCanonical(ValueError):  # noqa: N818 - says what the record is
    """A record that has no canonical form here. The sentence names the field."""


def encode(record: Record) -> bytes:
    """The canonical bytes of a record, without a line feed; the text holds none either.

    Raises NotCanonical for a float, an integer beyond 2**53 - 1, a key that is not ASCII text, a lone
    surrogate, a value of another type, or nesting deeper than 16.
    """
    try:
        if isinstance(record, Structure):
            return _OF_STRUCTURES.encode(record)
        for key, value in record.items():
            kind = value.__class__
            if kind is str or (kind is int and -SAFE_INTEGER <= value <= SAFE_INTEGER):
                continue
            _check(value, key, DEPTH)
        if not "".join(record).isascii():
            raise NotCanonical("a key of the record is not ASCII")
        return _ENCODER.encode(record)
    except TypeError as error:
        raise NotCanonical("a key of the record is not text") from error
    except UnicodeEncodeError as error:
        raise NotCanonical("the record holds a lone surrogate, which UTF-8 cannot say") from error


def leaf(record: Record) -> bytes:
    """The canonical bytes, at most LEAF_BYTES.

    A record that is larger has its long texts (with a mark) and lists cut, and says so with `"cut": true`.

    Raises NotCanonical as `encode` does, and for a record that is too large even when cut.
    """
    encoded = encode(record)
    if len(encoded) <= LEAF_BYTES:
        return encoded
    fields: Mapping[str, Any] = msgspec.to_builtins(record) if isinstance(record, Structure) else record
    for limit in _CUTS:
        encoded = encode({**{key: _shorten(value, limit) for key, value in fields.items()}, "cut": True})
        if len(encoded) <= LEAF_BYTES:
            return encoded
    raise NotCanonical(f"the record has {len(encoded)} bytes even with its texts cut; {LEAF_BYTES} fit")


def cut(text: str, limit: int) -> str:
    """At most `limit` characters (32 or more); a text that was cut ends with a mark that says how long it was."""
    if len(text) <= limit:
        return text
    mark = f"…[of {len(text)} characters]"
    return text[: limit - len(mark)] + mark


@lru_cache(maxsize=4096)
def clean(text: str, limit: int) -> str:
    """Text from a stranger as printable characters, at most `limit` of them.

    Whatever is not printable (controls, line separators, direction marks, lone surrogates) is written as a
    backslash escape, as in a Python literal; a text that holds a backslash is escaped too, so that an escape
    is never ambiguous.
    """
    if len(text) <= limit and text.isprintable() and "\\" not in text:
        return text
    kept = text[:limit]
    if not kept.isprintable() or "\\" in kept:
        kept = kept.encode("unicode_escape").decode("ascii")
    if len(text) <= limit and len(kept) <= limit:
        return kept
    mark = f"…[of {len(text)} characters]"
    return kept[: limit - len(mark)] + mark


def printable(text: str) -> str:
    """A text for a terminal: controls other than line feeds and tabs, and direction marks, as escapes; the rest stays.

    For sentences and reports as a whole; names from strangers in them are made `clean`, so that they make no lines.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _check(value: Any, place: str, depth: int) -> None:
    if depth == 0:
        raise NotCanonical(f"`{place}` is nested deeper than {DEPTH}")
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -SAFE_INTEGER <= value <= SAFE_INTEGER:
            raise NotCanonical(f"`{place}` is an integer beyond 2**53 - 1: store it as text")
    elif kind is list:
        for each in value:
            _check(each, f"{place}[]", depth - 1)
    elif kind is dict:
        _check_object(value, place, depth)
    else:
        mend = ": store it as decimal text" if kind is float else ""
        raise NotCanonical(f"`{place}` is a {kind.__name__}, which a record cannot hold{mend}")


def _check_object(value: dict[Any, Any], place: str, depth: int) -> None:
    for key, each in value.items():
        if key.__class__ is not str or not key.isascii():
            raise NotCanonical(f"a key in `{place}` is not ASCII text")
        _check(each, key, depth - 1)


def _shorten(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return cut(value, limit)
    if isinstance(value, list):
        return [_shorten(each, limit) for each in value[: limit // 8]]
    if isinstance(value, dict):
        return {key: _shorten(value[key], limit) for key in list(value)[: limit // 8]}
    return value
