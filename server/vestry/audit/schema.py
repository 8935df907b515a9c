"""The JSON Schema (draft 2020-12) of every record, derived from the table of fields.

`python -m vestry.audit.schema` prints it; `docs/reference/audit-records.json` is that output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vestry.audit import fields
from vestry.audit.fields import FIELDS, RecordType


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
    """The document as it stands in the reference."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
