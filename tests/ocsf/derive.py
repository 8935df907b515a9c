"""Derives `schema.json` from the OCSF schema as its own server exports it. Not run by the tests.

    pip install ocsf-json-schema==1.2.0    # holds the exports of schema.ocsf.io
    python tests/ocsf/derive.py

Only what the export maps to is kept: its classes, with every object that they reach. Titles are left out. Attributes
of profiles that are not named here are not part of it, so an event that has one does not validate.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

VERSION = "1.8.0"
CLASSES: dict[str, tuple[int, list[str]]] = {
    "api_activity": (6003, ["ai_operation", "trace"]),
    "application_lifecycle": (6002, []),
    "entity_management": (3004, []),
    "event_log_actvity": (1008, []),  # OCSF's own spelling
    "base_event": (0, []),
}
NOTICE = (
    "Derived from the Open Cybersecurity Schema Framework (https://github.com/ocsf/ocsf-schema), version 1.8.0, "
    "Copyright OCSF a Series of LF Projects, LLC, Apache License 2.0. Changed: only some classes, as JSON Schema, "
    "without titles."
)


def without_titles(value: Any) -> Any:
    """A JSON Schema without its annotations; a property may have the name `title` all the same."""
    if isinstance(value, list):
        return [without_titles(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_titles(each) for key, each in value.items() if key != "title" or not isinstance(each, str | None)
    }


def main() -> None:
    """Write schema.json beside this file."""
    package = importlib.import_module("ocsf_json_schema")
    exported = json.loads((Path(str(package.__file__)).parent / "ocsf" / f"{VERSION}.json").read_text("utf-8"))
    maker = package.OcsfJsonSchemaEmbedded(exported)
    found: dict[str, Any] = {"notice": NOTICE, "version": VERSION, "classes": {}, "objects": {}}
    for name, (uid, profiles) in CLASSES.items():
        schema = without_titles(maker.get_class_schema(name, profiles))
        objects = schema.pop("$defs")
        del schema["$id"], schema["$schema"]
        found["classes"][str(uid)] = schema
        for each, shape in objects.items():
            known = found["objects"].setdefault(each, shape)
            assert known == shape, f"{each} differs between profiles"
    lines = json.dumps(found, sort_keys=True, separators=(",", ":")).replace(',"', ',\n"')
    (Path(__file__).parent / "schema.json").write_text(f"{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
