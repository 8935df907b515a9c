"""The bounds on what engines compile: where exactly they lie."""

from __future__ import annotations

import itertools
import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestry.edge.patterns import (
    MAX_COUNT,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_PATTERN,
    MAX_PATTERNS,
    MAX_REPEAT,
    MAX_STATES,
    SchemaCheck,
    check_pattern,
)
from vestry.errors import InvalidRequest

FINE = [
    "", "a", "^[A-Z]{2}[0-9]{4}$", r"\d{4}-\d{2}-\d{2}", r"(foo|bar|baz)+", r"[^\s]+@[^\s]+\.[a-z]{2,}", "(ab)*c",
    "(a?b)*",
    "(a{3}b)*", "a{1000}", "a{0,1000}", "a{1000,}", "(?:(?:a|b)|c)?", "x" * MAX_PATTERN, "[[:alpha:]]?",
    "^[a-z0-9]+(?:-[a-z0-9]+)*$", "((a+x)+y)*", r"(?:\w+,)+", "(?:(x)a*)*", "(?P<year>[0-9]{4})",
    "(?i)yes|no", r"\"(?:[^\"\\]|\\.)*\"", f"a{{{MAX_REPEAT}}}b{{{MAX_REPEAT}}}",
]  # fmt: skip
REFUSED = [
    "(a{2,3}x)*", "(a{2,}x)*", "((xa+)+)*", "(?:(?:xa*){2})+", "(?:a+x|b)*", "(x?a+)+",
    "(a+)+", "(a*)*", "(a+b*)+", "(a{2,3})*", "(?:a+)*?", "((a|b)+)*", "a{1001}", "a{0,1001}", "a{1001,}",
    "(a{999}){999,}",
    "(a{500}){21}", "x" * (MAX_PATTERN + 1), "(", "[", "a{2,1}", "*", r"(a)\1", "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b",
    "(a)(?(1)b|c)", "(?P<a>x)(?P=a)", "a{99999999999999999999}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", FINE)
def test_ordinary_expressions_pass(pattern: str) -> None:
    """What schemas really hold is let through, up to the bounds."""
    check_pattern(pattern, "place")


@pytest.mark.parametrize("pattern", REFUSED)
def test_costly_expressions_are_refused(pattern: str) -> None:
    """One step beyond a bound is refused, and the message says neither the expression nor another place."""
    with pytest.raises(InvalidRequest) as caught:
        check_pattern(pattern, "place")
    assert caught.value.param == "place"
    assert pattern not in caught.value.reason or len(pattern) == 1


@given(pattern=st.text(alphabet="ab01(){}[]|*+?^$.\\,-:=!<>P", max_size=24))
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_what_passes_is_an_expression(pattern: str) -> None:
    """Any text is refused as it should be, or compiles; no other exception, and no warning, comes of it."""
    try:
        check_pattern(pattern, "place")
    except InvalidRequest:
        return
    with warnings.catch_warnings(action="ignore"):
        re.compile(pattern)


def check(schema: Any, *, each: int = 10_000, every: int = 20_000) -> None:
    """One schema, checked alone."""
    SchemaCheck(each, every)(schema, "place")


def nested(levels: int) -> Any:
    """Objects in objects."""
    found: Any = True
    for _ in range(levels):
        found = {"not": found}
    return found


SCHEMAS_FINE: list[Any] = [
    {}, {"type": "object"}, nested(MAX_DEPTH), {"maxLength": MAX_COUNT}, {"$ref": "#/$defs/a"}, {"$ref": "#"},
    {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}, "maxLength": {"type": "integer"}}},
    {"maxItems": 1000, "items": {"maxItems": MAX_ITEMS // 1000}}, {"maxItems": True}, {"minLength": "many"},
    {"pattern": 5}, {"patternProperties": ["(a+)+"]}, {"minItems": 0, "items": {"maxItems": MAX_COUNT}},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/a"},
]  # fmt: skip
SCHEMAS_REFUSED: list[Any] = [
    nested(MAX_DEPTH + 1), {"maxLength": MAX_COUNT + 1}, {"minLength": -1}, {"maxLength": 1e300}, {"$ref": "a"},
    {"$ref": ""}, {"$ref": "//evil.example/a"}, {"$dynamicRef": "a#b"}, {"pattern": "(a+)+"},
    {"patternProperties": {"(a+)+": {}}}, {"maxItems": 1000, "items": {"maxItems": MAX_ITEMS // 1000 + 1}},
    {"default": {"$ref": "http://evil.example"}}, {"enum": [{"pattern": "(a+)+"}]}, {"enum": ["a" * 10_000]},
    [{"$ref": "file:///a"}], {"minContains": 2, "items": {"maxItems": MAX_ITEMS // 2 + 1, "minItems": 1}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS_FINE)
def test_ordinary_schemas_pass(schema: Any) -> None:
    """Bounds are inclusive, properties may have any name, and a keyword of another type is the engine's to judge."""
    check(schema)


@pytest.mark.parametrize("schema", SCHEMAS_REFUSED)
def test_costly_schemas_are_refused(schema: Any) -> None:
    """One step beyond a bound is refused, in data as in keywords."""
    with pytest.raises(InvalidRequest) as caught:
        check(schema)
    assert caught.value.param == "place"
    assert "evil" not in caught.value.reason


def test_bounds_on_all_schemas_together() -> None:
    """Each may be fine: their bytes, and the characters of their expressions, are added up."""
    bytes_left = SchemaCheck(100, 250)
    for _ in range(2):
        bytes_left({"enum": ["a" * 80]}, "place")
    with pytest.raises(InvalidRequest):
        bytes_left({"enum": ["a" * 80]}, "third")
    patterns_left = SchemaCheck(10**6, 10**6)
    for _ in range(MAX_PATTERNS // MAX_PATTERN):
        patterns_left({"pattern": "a" * MAX_PATTERN}, "place")
    with pytest.raises(InvalidRequest):
        patterns_left({"pattern": "a"}, "last")


@given(
    parts=st.lists(st.tuples(st.integers(1, 30), st.integers(0, MAX_REPEAT), st.integers(0, MAX_REPEAT)), max_size=4)
)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_states_are_counted_as_if_written_out(parts: list[tuple[int, int, int]]) -> None:
    """A counted repeat counts as many times as it says; the bound is on the sum."""
    pattern = "".join(f"(?:{'a' * width}){{{min(low, high)},{max(low, high)}}}" for width, low, high in parts)
    states = sum(width * max(low, high) for width, low, high in parts)
    if states <= MAX_STATES:
        check_pattern(pattern, "place")
    else:
        with pytest.raises(InvalidRequest):
            check_pattern(pattern, "place")


def test_every_way_to_nest_a_repeat_is_found() -> None:
    """Whatever stands between two open repeats, the inner one is found; beside a character, `*` and `+` may stand."""
    wraps = ["({})", "(?:{})", "(?P<n>{})", "(x|{})", "({}|x)", "(x{})", "({}x)", "(({}))", "(?i:{})", "(?>{})"]
    opens = ["*", "+", "*?", "+?", "{1,}", "{5,}"]
    valid = 0
    for wrap, inner, outer in itertools.product(wraps, opens, opens):
        pattern = wrap.format("a" + inner) + outer
        try:
            re.compile(pattern)
        except re.error:
            continue
        valid += 1
        if wrap in {"(x{})", "({}x)"} and inner != "{5,}":
            check_pattern(pattern, "place")
            continue
        with pytest.raises(InvalidRequest):
            check_pattern(pattern, "place")
    assert valid > 300
