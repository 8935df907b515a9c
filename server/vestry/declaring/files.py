"""Reads what files declare: every fault at once, with its line and the mend.

A file is YAML (`strict_yaml`) of one or several documents, each a mapping:

    tenants:
      radiology:                 # the fields of a tenant; of one that the settings declare none, but what is below it
        models: [scan]
        projects: {triage: {models: [scan]}}
        users: {alice@hospital.example: {roles: [tenant-admin]}}
    policy: {...}
    keys: {key_8CzYx2m1QkT0bW4E: frozen}     # or active, or revoked: a file never holds a key

What a body leaves out has its default. Nothing may be declared twice, in one file or in several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from msgspec import Struct, field
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vestry.admin.batch import KeyState
from vestry.admin.documents import FORMS, Where, misfits_of
from vestry.admin.names import is_name
from vestry.configuration.strict_yaml import Document, Trail, parse_all
from vestry.faults import Fault, meant
from vestry.settings.tree import Settings
from vestry.types import Kind

PARTS = {"projects": Kind.PROJECT, "users": Kind.USER}
KEY_ID = re.compile(r"key_[0-9A-Za-z]{1,64}")
KEY_STATES: tuple[KeyState, ...] = get_args(KeyState)
MAPPING = "Write `name: value` lines"
NAMES = {
    Kind.TENANT: "Write 1 to 63 of a-z, 0-9 and `-`, beginning with a letter or digit",
    Kind.PROJECT: "Write 1 to 63 of a-z, 0-9 and `-`, beginning with a letter or digit",
    Kind.USER: "Write 1 to 128 printable characters, with no space at either end",
}


class Entry(Struct, frozen=True):
    """A document as it shall be. `place` is `file:line what`."""

    where: Where
    body: dict[str, Any]
    place: str


class KeyEntry(Struct, frozen=True):
    """A key's state as it shall be."""

    key_id: str
    state: KeyState
    place: str


class Declared(Struct, frozen=True):
    """What all files say. Tenants of the settings stand in `named`, where something of theirs is declared."""

    entries: dict[Where, Entry] = field(default_factory=dict)
    keys: dict[str, KeyEntry] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read(texts: Mapping[str, str], settings: Settings) -> Declared:
    """What these texts, by the names of their files, declare; and every fault of them."""
    declared = Declared()
    for file, text in texts.items():
        for document in parse_all(text):
            _Reader(file, document, settings, declared).read()
    return declared


class _Reader:
    """Reads one document."""

    def __init__(self, file: str, document: Document, settings: Settings, declared: Declared) -> None:
        self._file, self._document, self._settings, self._declared = file, document, settings, declared

    def read(self) -> None:
        document = self._document
        if document.flaws:  # what is behind them may be misread
            self._declared.faults.extend(
                Fault(f"{self._file}:{flaw.line}", flaw.what, flaw.mend) for flaw in document.flaws
            )
            return
        top = self._mapping(document.value, ())
        self._known(top, {"tenants", "policy", "keys"}, ())
        for name, body in self._mapping(top.get("tenants"), ("tenants",)).items():
            self._tenant(name, self._mapping(body, ("tenants", name)))
        if "policy" in top:
            self._entry(Where(Kind.POLICY, "", "policy"), top["policy"], ("policy",))
        for name, state in self._mapping(top.get("keys"), ("keys",)).items():
            self._key(name, state)

    def _tenant(self, name: str, body: dict[str, Any]) -> None:
        trail: Trail = ("tenants", name)
        own = {key: value for key, value in body.items() if key not in PARTS}
        if name not in self._settings.tenants:
            self._entry(Where(Kind.TENANT, "", name), own, trail)
        elif own:
            what = f"the tenant `{name}` is declared in the settings, and changed only there"
            mend = "Leave only its `projects` and `users` here"
            self._fault((*trail, next(iter(own))), what, mend)
        for part, kind in PARTS.items():
            for each, inner in self._mapping(body.get(part), (*trail, part)).items():
                self._entry(Where(kind, name, each), inner, (*trail, part, each))

    def _entry(self, where: Where, body: Any, trail: Trail) -> None:
        form = FORMS[where.kind]
        if not is_name(where.kind, where.name):
            self._fault(trail, f"this is no name of a {where.kind}", NAMES.get(where.kind, ""))
            return
        if where in self._declared.entries:
            first = self._declared.entries[where].place
            self._fault(trail, f"this stands here a second time; the first is {first}", "Remove one")
            return
        found = self._mapping(body, trail)
        self._declared.entries[where] = Entry(where, found, self._place(trail))
        try:
            judged = form.model_validate_json(json.dumps(found), strict=True)
            for misfit in misfits_of(where.name, judged, self._settings):
                self._fault((*trail, *misfit.place), misfit.what, misfit.mend)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                self._judged(each, trail, [*form.model_fields, *(PARTS if where.kind == Kind.TENANT else ())])

    def _judged(self, error: ErrorDetails, trail: Trail, names: list[str]) -> None:
        """One of pydantic's errors, in our words."""
        whole = (*trail, *(step for step in error["loc"] if step != "[key]"))
        match error["type"]:
            case "extra_forbidden":
                self._fault(whole, "there is no such field", meant(str(whole[-1]), names, "Remove it"))
            case "missing":
                self._fault(whole, f"`{whole[-1]}` is missing", "Add it")
            case "enum" | "literal_error":
                self._fault(whole, f"this must be {error['ctx']['expected']}", "Write one of them")
            case _:
                said = error["msg"].removeprefix("Value error, ")
                self._fault(whole, said[:1].lower() + said[1:], "Write what the field takes: see docs/tenants.md")

    def _key(self, name: str, state: Any) -> None:
        trail: Trail = ("keys", name)
        if not KEY_ID.fullmatch(name):
            place = f"{self._place(('keys',), line_of=trail)}"  # it may be a key itself
            mend = "Write the id that `vestry keys list` shows. Keys themselves never stand in a file"
            self._declared.faults.append(Fault(place, "this is no id of a key", mend))
        elif state not in KEY_STATES:
            mend = "Keys are made with `vestry keys create`; here they are frozen, thawed or revoked"
            self._fault(trail, "a key is `active`, `frozen` or `revoked`", mend)
        elif name in self._declared.keys:
            first = self._declared.keys[name].place
            self._fault(trail, f"this stands here a second time; the first is {first}", "Remove one")
        else:
            self._declared.keys[name] = KeyEntry(name, state, self._place(trail))

    def _mapping(self, value: Any, trail: Trail) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fault(trail, "this must be a mapping", MAPPING)
            return {}
        return value

    def _known(self, found: Mapping[str, Any], names: set[str], trail: Trail) -> None:
        for name in found:
            if name not in names:
                self._fault((*trail, name), "there is no such section", meant(name, sorted(names), "Remove it"))

    def _fault(self, trail: Trail, what: str, mend: str) -> None:
        self._declared.faults.append(Fault(self._place(trail), what, mend))

    def _place(self, trail: Trail, *, line_of: Trail | None = None) -> str:
        """`tenants.yaml:12 tenants.radiology.models`; the nearest line that is known."""
        for known in _shorter(line_of or trail):
            if line := self._document.lines.get(known):
                return f"{self._file}:{line} {dotted(trail)}".strip()
        return f"{self._file} {dotted(trail)}".strip()


def _shorter(trail: Trail) -> Iterator[Trail]:
    return (trail[:end] for end in range(len(trail), 0, -1))


def dotted(trail: Trail) -> str:
    """`tenants.radiology.models[1]`."""
    text = ""
    for step in trail:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:64]}" if text else step[:64]
    return text
