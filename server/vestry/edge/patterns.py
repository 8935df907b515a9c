"""Bounds on what a client may ask the engine to compile: regular expressions, JSON schemas, grammars.

Engines compile these into automata. Size, depth and nesting of repeats decide what that costs, so they are
bounded here, before an engine sees them.
"""

from __future__ import annotations

import re
import warnings
from re import _constants as opcodes
from re import _parser as parser
from typing import Any

import msgspec

from vestry.errors import InvalidRequest

MAX_DEPTH = 32
MAX_PATTERN = 2048
MAX_PATTERNS = 16_384
MAX_REPEAT = 1000
MAX_STATES = 10_000
MAX_COUNT = 100_000
MAX_ITEMS = 1_000_000
UNBOUNDED = opcodes.MAXREPEAT
REPEATS = {opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, opcodes.POSSESSIVE_REPEAT}
REFUSED = {opcodes.GROUPREF, opcodes.GROUPREF_EXISTS, opcodes.ASSERT, opcodes.ASSERT_NOT}
CHARACTERS = {opcodes.LITERAL, opcodes.NOT_LITERAL, opcodes.IN, opcodes.ANY}
REFERENCES = {"$ref", "$dynamicRef", "$recursiveRef"}
ITEMS = {"minItems", "maxItems", "minContains", "maxContains"}
COUNTS = ITEMS | {"minLength", "maxLength", "minProperties", "maxProperties"}


def check_pattern(pattern: str, param: str, *, alone: bool = False) -> None:
    """Refuse an expression that is not one, or that is costly: a repeat inside an unbounded repeat (but, in a schema,
    for `*` and `+` beside a character that is always there, as in `([a-z]+-)*`), counted repeats of more than 1,000 or
    that make more than 10,000 states, look-around, back-references. Raises InvalidRequest.

    `alone`: not in a schema. Of such a one xgrammar follows every way to read a text, and holds up all calls meanwhile.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(f"The regular expression is longer than {MAX_PATTERN} characters.", param=param)
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        raise InvalidRequest("The regular expression is not valid.", param=param) from None
    if _states(tree, param, alone=alone) > MAX_STATES:
        raise InvalidRequest("The regular expression is too large with its repeats written out.", param=param)


def _states(tree: Any, param: str, *, alone: bool, inside: bool = False, bare: bool = False) -> int:
    """How many positions the expression has once its counted repeats are written out. `inside`: in an unbounded repeat;
    `bare`: in one that may consist of nothing but repeats, or, `alone`, in any."""
    total = 0
    for opcode, argument in tree:
        if opcode in REFUSED:
            raise InvalidRequest("The regular expression may not look around or refer back.", param=param)
        if opcode in REPEATS:
            least, greatest, inner = argument
            unbounded = greatest is UNBOUNDED
            if bare if unbounded and least <= 1 else inside and greatest not in (1, least):
                raise InvalidRequest("The regular expression repeats a repeat without bound.", param=param)
            times = int(least) + 1 if unbounded else int(greatest)
            if times > MAX_REPEAT + unbounded:
                raise InvalidRequest(f"The regular expression repeats more than {MAX_REPEAT} times.", param=param)
            bare_in_it = (alone or not _has_character(inner)) if unbounded else bare
            total += times * _states(inner, param, alone=alone, inside=inside or unbounded, bare=bare_in_it)
        else:
            inner = _inner_trees(argument)
            states = (_states(each, param, alone=alone, inside=inside, bare=bare) for each in inner)
            total += sum(states) if inner else 1
    return total


def _has_character(tree: Any) -> bool:
    """Whether something in this sequence is exactly one character, always."""
    return any(opcode in CHARACTERS or (opcode is opcodes.SUBPATTERN and _has_character(it[-1])) for opcode, it in tree)


def _inner_trees(argument: Any) -> list[Any]:
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [found for each in argument for found in _inner_trees(each)]
    return []


class SchemaCheck:
    """Refuses JSON schemas that are too large, too deep, that refer outside themselves, or whose expressions or counts
    are costly: one after another, with bounds on each and on all of one body together. Call it with a schema and its
    place; it raises InvalidRequest.
    """

    def __init__(self, each_bytes: int, all_bytes: int) -> None:
        self._each = each_bytes
        self._left = all_bytes
        self._pattern_left = MAX_PATTERNS
        self._param = ""

    def __call__(self, schema: Any, param: str) -> None:
        self._param = param
        size = len(msgspec.json.encode(schema))
        self._left -= size
        if size > self._each or self._left < 0:
            raise InvalidRequest("The schema is too large.", param=param)
        check_depth(schema, param)
        self._look(schema, 1)

    def _look(self, schema: Any, items: float) -> None:
        """Look everywhere, at keywords and data alike: a reference may lead into what looks like data."""
        if isinstance(schema, list):
            for each in schema:
                self._look(each, items)
        elif isinstance(schema, dict):
            items *= max((self._count(schema[name], name) for name in ITEMS if name in schema), default=1)
            if items > MAX_ITEMS:
                raise InvalidRequest("The schema asks for lists of lists that are too long.", param=self._param)
            for key, value in schema.items():
                self._keyword(key, value)
                self._look(value, items)

    def _keyword(self, key: str, value: Any) -> None:
        if key == "pattern" and isinstance(value, str):
            self._pattern(value)
        elif key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                self._pattern(pattern)
        elif key in REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise InvalidRequest("The schema refers to something outside itself.", param=self._param)
        elif key in COUNTS:
            self._count(value, key)

    def _pattern(self, pattern: str) -> None:
        self._pattern_left -= len(pattern)
        if self._pattern_left < 0:
            raise InvalidRequest(
                f"The regular expressions of a request may have {MAX_PATTERNS} characters in all.", param=self._param
            )
        check_pattern(pattern, self._param)

    def _count(self, value: Any, name: str) -> float:
        """The value of a counting keyword; at least 1, which is also what stands for one that is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return 1
        if not 0 <= value <= MAX_COUNT:
            raise InvalidRequest(f"`{name}` in a schema may be at most {MAX_COUNT}.", param=self._param)
        return max(value, 1)


def check_depth(value: Any, param: str, *, left: int = MAX_DEPTH) -> None:
    """Refuse JSON nested deeper than 32 levels. Raises InvalidRequest."""
    if isinstance(value, (dict, list)):
        if left == 0:
            raise InvalidRequest(f"The value is nested deeper than {MAX_DEPTH} levels.", param=param)
        for each in value.values() if isinstance(value, dict) else value:
            check_depth(each, param, left=left - 1)
