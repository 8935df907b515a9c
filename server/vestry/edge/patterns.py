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
UNBOUNDED = opcodes.MAXREPEAT
REPEATS = {opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, opcodes.POSSESSIVE_REPEAT}
REFUSED = {opcodes.GROUPREF, opcodes.GROUPREF_EXISTS, opcodes.ASSERT, opcodes.ASSERT_NOT}


def check_pattern(pattern: str, param: str) -> None:
    """Refuse an expression that is not one, or that is costly: a repeat inside an unbounded repeat, repeats that
    multiply past 1,000, look-around, back-references. Raises InvalidRequest."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(f"The regular expression is longer than {MAX_PATTERN} characters.", param=param)
    try:
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        raise InvalidRequest("The regular expression is not valid.", param=param) from None
    _check_tree(tree, param, inside_unbounded=False, product=1)


def _check_tree(tree: Any, param: str, *, inside_unbounded: bool, product: int) -> None:
    for opcode, argument in tree:
        if opcode in REFUSED:
            raise InvalidRequest("The regular expression may not look around or refer back.", param=param)
        if opcode in REPEATS:
            least, greatest, inner = argument
            unbounded = greatest is UNBOUNDED
            if inside_unbounded and greatest not in (1, least):
                raise InvalidRequest("The regular expression repeats a repeat without bound.", param=param)
            times = product if unbounded else product * int(greatest)
            if times > MAX_REPEAT:
                raise InvalidRequest(f"The regular expression repeats more than {MAX_REPEAT} times.", param=param)
            _check_tree(inner, param, inside_unbounded=inside_unbounded or unbounded, product=times)
        else:
            for inner in _inner_trees(argument):
                _check_tree(inner, param, inside_unbounded=inside_unbounded, product=product)


def _inner_trees(argument: Any) -> list[Any]:
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [found for each in argument for found in _inner_trees(each)]
    return []


def check_schema(schema: Any, param: str, greatest: int) -> None:
    """Refuse a JSON schema that is too large, too deep, that refers outside itself, or whose patterns are costly.

    `greatest` is its size in bytes. Raises InvalidRequest.
    """
    check_depth(schema, param)
    if len(msgspec.json.encode(schema)) > greatest:
        raise InvalidRequest(f"The schema is larger than {greatest} bytes.", param=param)
    _check_schema(schema, param)


def _check_schema(schema: Any, param: str) -> None:
    if isinstance(schema, list):
        for each in schema:
            _check_schema(each, param)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key == "pattern" and isinstance(value, str):
            check_pattern(value, param)
        elif key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                check_pattern(pattern, param)
        elif key in {"$ref", "$dynamicRef"} and isinstance(value, str) and not value.startswith("#"):
            raise InvalidRequest("The schema refers to something outside itself.", param=param)
        _check_schema(value, param)


def check_depth(value: Any, param: str, *, left: int = MAX_DEPTH) -> None:
    """Refuse JSON nested deeper than 32 levels. Raises InvalidRequest."""
    if isinstance(value, (dict, list)):
        if left == 0:
            raise InvalidRequest(f"The value is nested deeper than {MAX_DEPTH} levels.", param=param)
        for each in value.values() if isinstance(value, dict) else value:
            check_depth(each, param, left=left - 1)


def check_text(value: Any, param: str | None) -> None:
    """Refuse text with a NUL character, anywhere in a decoded value. Raises InvalidRequest."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest("Text may not hold NUL characters.", param=param)
    elif isinstance(value, dict):
        for key, each in value.items():
            check_text(key, param)
            check_text(each, param)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_text(each, param)
