"""Canonical JSON: the same bytes as an independent implementation, refusals, and cutting."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from vestry.audit.canonical import LEAF_BYTES, SAFE_INTEGER, NotCanonical, clean, cut, encode, leaf

KEYS = st.text(st.characters(max_codepoint=0x7F), max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = st.none() | st.booleans() | st.integers(-SAFE_INTEGER, SAFE_INTEGER) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(KEYS, VALUES, max_size=12))
def test_agrees_with_rfc8785(record: dict[str, Any]) -> None:
    """Every record that may be stored has the bytes that another implementation of RFC 8785 gives it."""
    assert encode(record) == rfc8785.dumps(record)


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(0x20))),
        '"\\/',
        "\x7f\x80\x9f\xad",
        "\u2028\u2029\u202e\ufeff",
        "\ufffe\uffff\ue000",
        "\U0001f600\U0010ffff",
        "e\u0301 \u00e9",
        "</script>&'",
    ],
    ids=["controls", "escaped", "DEL and C1", "separators", "nonCharacters", "astral", "not normalised", "HTML"],
)
def test_agrees_on_strange_text(text: str) -> None:
    """Characters that JSON writers treat differently come out as RFC 8785 section 3.2.2.2 says."""
    encoded = encode({"text": text, text[:0] + "key": 1})
    assert encoded == rfc8785.dumps({"text": text, "key": 1})
    assert b"\n" not in encoded
    assert json.loads(encoded)["text"] == text


def test_keys_are_sorted() -> None:
    """Keys come in the order of their bytes, at every depth."""
    assert encode({"b": 1, "a": {"z": None, "B": True}, "aa": []}) == b'{"a":{"B":true,"z":null},"aa":[],"b":1}'


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"temperature": 0.5}, "`temperature` is a float, which a record cannot hold: store it as decimal text"),
        ({"a": {"deep": [1.0]}}, "`deep[]` is a float"),
        ({"nan": float("nan")}, "is a float"),
        ({"seed": SAFE_INTEGER + 1}, "`seed` is an integer beyond"),
        ({"seed": [-SAFE_INTEGER - 1]}, "`seed[]` is an integer beyond"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"a": ["\udfff"]}, "lone surrogate"),
        ({"é": 1}, "not ASCII"),
        ({"a": {"é": 1}}, "a key in `a` is not ASCII"),
        ({1: "a"}, "not text"),
        ({"a": {1: "a"}}, "a key in `a` is not ASCII text"),
        ({"a": b"bytes"}, "`a` is a bytes"),
        ({"a": (1,)}, "`a` is a tuple"),
    ],
)
def test_refuses(record: dict[Any, Any], says: str) -> None:
    """What has no form that every reader agrees on is refused, in a sentence that names the field."""
    with pytest.raises(NotCanonical) as refusal:
        encode(record)
    assert says in str(refusal.value)


def test_refuses_depth() -> None:
    """Nesting is bounded, so that no reader of the log runs out of stack."""
    value: Any = 1
    for _ in range(20):
        value = [value]
    with pytest.raises(NotCanonical, match="nested deeper"):
        encode({"a": value})


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=0x61, max_codepoint=0x7A), min_size=1, max_size=8),
        st.integers(0, 80_000).map(lambda size: "\x01" * size)
        | st.integers(0, 3000).map(lambda size: ["é" * 40] * size)
        | st.integers(0, 3000).map(lambda size: {f"k{at}": "v" * 30 for at in range(size)}),
        max_size=6,
    )
)
def test_a_leaf_is_bounded(record: dict[str, Any]) -> None:
    """However long texts, lists and objects are, the leaf fits; if anything was cut, the record says so."""
    found = leaf(record)
    assert len(found) <= LEAF_BYTES
    if len(encode(record)) > LEAF_BYTES:
        assert json.loads(found)["cut"] is True
    else:
        assert found == encode(record)


def test_what_is_cut() -> None:
    """Only long texts and lists are cut; numbers and short texts of the same record stay as they are."""
    record = json.loads(leaf({"long": "x" * 70_000, "index": 7, "estimated": False, "short": "y"}))
    assert (record["index"], record["estimated"], record["short"], record["cut"]) == (7, False, "y", True)
    assert record["long"].endswith("x…[of 70000 characters]")


def test_a_leaf_that_cannot_be_cut() -> None:
    """A record with far too many fields is refused, not stored in part."""
    with pytest.raises(NotCanonical, match="65535 fit"):
        leaf({f"field{number}": "x" * 64 for number in range(2000)})


def test_cut_marks() -> None:
    """A text that is cut keeps its beginning, stays in its bound, and says how long it was."""
    assert cut("short", 64) == "short"
    assert cut("x" * 65, 64) == "x" * 45 + "…[of 65 characters]"
    assert len(cut("x" * 10**6, 64)) == 64


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("OpenAI/Python 3.54.0", "OpenAI/Python 3.54.0"),
        ("José", "José"),
        ("a\r\ndata: x", "a\\r\\ndata: x"),
        ("\x00\x7f\u2028\u202e", "\\x00\\x7f\\u2028\\u202e"),
        ("\ud800", "\\ud800"),
        ("a\\nb", "a\\\\nb"),
    ],
)
def test_clean_makes_printable(text: str, cleaned: str) -> None:
    """A stranger's text becomes printable; an escape can never be mistaken for what was sent."""
    assert clean(text, 128) == cleaned


@given(st.text(max_size=300), st.integers(32, 200))
def test_clean_is_bounded_and_storable(text: str, limit: int) -> None:
    """Whatever was sent, lone surrogates included: the result is printable, in its bound, and can be encoded."""
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()
    assert json.loads(encode({"text": cleaned})) == {"text": cleaned}


@given(st.text(max_size=20), st.text(max_size=20))
def test_clean_is_injective(one: str, other: str) -> None:
    """Two texts that differ never look the same in the record, as long as they are not cut."""
    assert (clean(one, 1000) == clean(other, 1000)) == (one == other)
