"""Bounds on what a client may ask the engine to compile: regular expressions, JSON schemas, grammars.

Engines compile these into automata. Size, depth and nesting of repeats decide what that costs, so they are
bounded here, before an engine sees them.
"""

from __future__ import annotations

import re
from re import _constants as opcodes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import msgspec

from vestry.errors import InvalidRequest

MAX_DEPTH = 32
MAX_PATTERN = 2048
MAX_REPEAT = 1000
MAX_STATES = 10_000
MAX_COUNT = 100_000
MAX_ITEMS = 1_000_000
UNBOUNDED = opcodes.MAXREPEAT
REPEATS = {opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, opcodes.POSSESSIVE_REPEAT}
REFUSED = {opcodes.GROUPREF, opcodes.GROUPREF_EXISTS, opcodes.ASSERT, opcodes.ASSERT_NOT}
REFERENCES = {"$ref", "$dynamicRef", "$recursiveRef"}
ITEMS = {"minItems", "maxItems", "minContains", "maxContains"}
COUNTS = ITEMS | {"minLength", "maxLength", "minProperties", "maxProperties"}


def check_pattern(pattern: str, param: str) -> None:
    """Refuse an expression that is not one, or that is costly: a repeat inside an unbounded repeat, counted repeats
    of more than 1,000 or that make more than 10,000 states, look-around, back-references. Raises InvalidRequest."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(f"The regular expression is longer than {MAX_PATTERN} characters.", param=param)
    try:
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        raise InvalidRequest("The regular expression is not valid.", param=param) from None
    if _states(tree, param, inside_unbounded=False) > MAX_STATES:
        raise InvalidRequest("The regular expression is too large with its repeats written out.", param=param)


def _states(tree: Any, param: str, *, inside_unbounded: bool) -> int:
    """How many positions the expression has once its counted repeats are written out."""
    total = 0
    for opcode, argument in tree:
        if opcode in REFUSED:
            raise InvalidRequest("The regular expression may not look around or refer back.", param=param)
        if opcode in REPEATS:
            least, greatest, inner = argument
            unbounded = greatest is UNBOUNDED
            if inside_unbounded and greatest not in (1, least):
                raise InvalidRequest("The regular expression repeats a repeat without bound.", param=param)
            times = int(least) + 1 if unbounded else int(greatest)
            if times > MAX_REPEAT + unbounded:
                raise InvalidRequest(f"The regular expression repeats more than {MAX_REPEAT} times.", param=param)
            total += times * _states(inner, param, inside_unbounded=inside_unbounded or unbounded)
        else:
            inner = _inner_trees(argument)
            total += sum(_states(each, param, inside_unbounded=inside_unbounded) for each in inner) if inner else 1
    return total


def _inner_trees(argument: Any) -> list[Any]:
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [found for each in argument for found in _inner_trees(each)]
    return []


def check_schema(schema: Any, param: str, greatest: int) -> int:
    """Refuse a JSON schema that is too large, too deep, that refers outside itself, or whose patterns or counts are
    costly. `greatest` is its size in bytes; returns the one it has. Raises InvalidRequest.
    """
    size = len(msgspec.json.encode(schema))
    if size > greatest:
        raise InvalidRequest("The schema is too large.", param=param)
    check_depth(schema, param)
    _check_schema(schema, param, 1)
    return size


def _check_schema(schema: Any, param: str, items: float) -> None:
    """Look everywhere, at keywords and data alike: a reference may lead into what looks like data."""
    if isinstance(schema, list):
        for each in schema:
            _check_schema(each, param, items)
    elif isinstance(schema, dict):
        items *= max((_count(schema[name], name, param) for name in ITEMS if name in schema), default=1)
        if items > MAX_ITEMS:
            raise InvalidRequest("The schema asks for lists of lists that are too long.", param=param)
        for key, value in schema.items():
            _check_keyword(key, value, param)
            _check_schema(value, param, items)


def _check_keyword(key: str, value: Any, param: str) -> None:
    if key == "pattern" and isinstance(value, str):
        check_pattern(value, param)
    elif key == "patternProperties" and isinstance(value, dict):
        for pattern in value:
            check_pattern(pattern, param)
    elif key in REFERENCES and isinstance(value, str) and not value.startswith("#"):
        raise InvalidRequest("The schema refers to something outside itself.", param=param)
    elif key in COUNTS:
        _count(value, key, param)


def _count(value: Any, name: str, param: str) -> float:
    """The value of a counting keyword; at least 1, which is also what stands for one that is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 1
    if not 0 <= value <= MAX_COUNT:
        raise InvalidRequest(f"`{name}` in a schema may be at most {MAX_COUNT}.", param=param)
    return max(value, 1)


def check_depth(value: Any, param: str, *, left: int = MAX_DEPTH) -> None:
    """Refuse JSON nested deeper than 32 levels. Raises InvalidRequest."""
    if isinstance(value, (dict, list)):
        if left == 0:
            raise InvalidRequest(f"The value is nested deeper than {MAX_DEPTH} levels.", param=param)
        for each in value.values() if isinstance(value, dict) else value:
            check_depth(each, param, left=left - 1)
