"""The reference of the record, derived from the table of fields: a JSON Schema (draft 2020-12), and a page.

`python -m vestry.audit.schema json` prints `docs/reference/audit-records.json`, `… page` prints `audit-records.md`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vestry.audit import fields
from vestry.audit.fields import FIELDS, Field, RecordType


def document() -> dict[str, Any]:
    """The schema: one definition a field, one closed object a record type."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of Vestry's audit log",
        "description": "One line of a segment. Closed: a field that is not listed for a type never stands there.",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in RecordType],
        "$defs": {
            **{f"field.{field.name}": {"description": field.meaning, **field.form} for field in FIELDS},
            **{kind.value: _shape(kind) for kind in RecordType},
        },
    }


def _shape(kind: RecordType) -> dict[str, Any]:
    names = [field.name for field in FIELDS if field.name in fields.allowed(kind)]
    properties: dict[str, Any] = {name: {"$ref": f"#/$defs/field.{name}"} for name in names}
    properties["type"] = {"const": kind.value}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in names if name in fields.required(kind)],
        "additionalProperties": False,
    }


def text() -> str:
    """The schema as it stands in the reference."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """The table of fields for people, in Markdown."""
    rows = [f"| `{field.name}` | {field.meaning} | {_places(field)} |" for field in FIELDS]
    return _PAGE + "\n".join(rows) + "\n"


_PAGE = """\
# Fields of an audit record

Made by `python -m vestry.audit.schema page` from the program's own table; as a JSON Schema, the same is
[audit-records.json](audit-records.json). [The record](../audit.md) says what it is for. A field without a value
is left out.

| field | meaning | in |
|---|---|---|
"""


def _places(field: Field) -> str:
    always, maybe = _names(field.always), _names(field.maybe)
    return "; ".join([*([always] if always else []), *([f"possibly {maybe}"] if maybe else [])])


def _names(kinds: frozenset[RecordType]) -> str:
    if kinds == fields.ALL:
        return "every record"
    return ", ".join(f"`{kind}`" for kind in RecordType if kind in kinds)


if __name__ == "__main__":
    sys.stdout.write({"json": text, "page": page}[sys.argv[1]]())
