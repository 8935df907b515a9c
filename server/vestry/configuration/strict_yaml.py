"""A strict reading of YAML: one document of plain mappings, lists and scalars, with the line of everything.

What it leaves out, it refuses with a reason: duplicate keys, aliases and anchors (a small file could grow
without bound), tags, several documents, keys that are not plain text, control characters, deep nesting.
Scalars are read by the core schema of YAML 1.2 (section 10.3.2), so that `no` is text and `12:30` is not a
number; infinities and NaN are text too, since no setting takes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct

DEPTH = 16

Trail = tuple[str | int, ...]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_PREFIXED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Flaw(Struct, frozen=True):
    """Something that is not read here, on a line (from 1)."""

    line: int
    what: str
    mend: str


class Document(Struct, frozen=True):
    """`value` is None for an empty text. `lines` holds the line of every key and list item, by its path."""

    value: Any
    lines: dict[Trail, int]
    flaws: list[Flaw]


class _Unreadable(Exception):  # noqa: N818 - carries a flaw to the one place that catches it
    def __init__(self, flaw: Flaw):
        super().__init__(flaw.what)
        self.flaw = flaw


def scalar(text: str) -> str | int | float | bool | None:
    """A plain (unquoted) scalar's value by the core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        value = float(text)
        return text if value in (float("inf"), float("-inf")) else value
    return text


def parse(text: str) -> Document:
    """Read a text. Raises nothing: what cannot be read is among the flaws."""
    builder = _Builder(text)
    try:
        value = builder.document()
    except _Unreadable as stop:
        return Document(None, builder.lines, [*builder.flaws, stop.flaw])
    return Document(value, builder.lines, builder.flaws)


def parse_all(text: str) -> Iterator[Document]:
    """Read a text of several documents, one after the other; lines are counted from the text's begin.

    Raises nothing; what comes behind a text that is no YAML is not read.
    """
    builder = _Builder(text)
    try:
        yield from builder.documents()
    except _Unreadable as stop:
        yield Document(None, builder.lines, [*builder.flaws, stop.flaw])


class _Builder:
    """Builds the value from the parser's events; recursion is bounded by DEPTH."""

    def __init__(self, text: str):
        self._events = _events(text)
        self.lines: dict[Trail, int] = {}
        self.flaws: list[Flaw] = []

    def document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._flaw(following, "a second document begins here", "Keep one document: remove the `---` line")
        return value

    def documents(self) -> Iterator[Document]:
        next(self._events)  # the stream's start
        while not isinstance(next(self._events), yaml.StreamEndEvent):
            self.lines, self.flaws = {}, []
            value = self._value(next(self._events), ())
            next(self._events)  # the document's end
            yield Document(value, self.lines, self.flaws)

    def _value(self, event: yaml.Event, path: Trail) -> Any:
        if isinstance(event, yaml.AliasEvent):
            self._flaw(event, "aliases (`*name`) are not read here", "Write the value out")
            return None
        self._plain(event)
        if isinstance(event, yaml.ScalarEvent):
            if _CONTROL.search(event.value):
                self._flaw(event, "the value holds a control character", "Remove it")
                return None
            return scalar(event.value) if event.style is None else event.value
        if len(path) >= DEPTH:
            raise _Unreadable(Flaw(_line(event), f"nested more than {DEPTH} levels deep", "Settings are not this deep"))
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _mapping(self, path: Trail) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            inner = (*path, key)
            if key in found:
                first = self.lines[inner]
                self._flaw(event, f"`{key}` stands here a second time; the first is on line {first}", "Remove one")
            else:
                self.lines[inner] = _line(event)
            found[key] = self._value(next(self._events), inner)
        return found

    def _key(self, event: yaml.Event) -> str:
        if isinstance(event, yaml.AliasEvent) or not isinstance(event, yaml.ScalarEvent):
            raise _Unreadable(Flaw(_line(event), "a key must be a plain name", "Write `name: value`"))
        self._plain(event)
        if not event.value.isprintable() or len(event.value) > 256:
            said = "a key holds unprintable characters, or more than 256"
            raise _Unreadable(Flaw(_line(event), said, "Write `name: value`"))
        if event.value == "<<" and event.style is None:
            self._flaw(event, "merge keys (`<<`) are not read here", "Write the values out")
        return str(event.value)

    def _sequence(self, path: Trail) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            inner = (*path, len(found))
            self.lines[inner] = _line(event)
            found.append(self._value(event, inner))
        return found

    def _plain(self, event: Any) -> None:
        if event.anchor is not None:
            self._flaw(event, "anchors (`&name`) are not read here", "Remove it")
        if event.tag is not None:
            self._flaw(event, "tags (`!name`) are not read here", "Remove it; put quotes around what should be text")

    def _flaw(self, event: yaml.Event, what: str, mend: str) -> None:
        self.flaws.append(Flaw(_line(event), what, mend))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _events(text: str) -> Iterator[yaml.Event]:
    """The parser's events; every way in which it can fail becomes one flaw."""
    try:
        yield from yaml.parse(text, yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Unreadable(Flaw(line, "the text holds a character that YAML does not allow", "Remove it")) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = f"this is not YAML: {error.problem or error.context}"
        line = mark.line + 1 if mark else 1
        raise _Unreadable(Flaw(line, said, "Look at this line and the one before it")) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape or version number beyond all bounds
        raise _Unreadable(Flaw(1, "this is not YAML", "Look for odd escapes, and quote them")) from error
