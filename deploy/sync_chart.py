#!/usr/bin/env python3
"""Carry into the chart what the chart has from elsewhere, since Helm reads nothing outside a chart's folder.

    PYTHONPATH=server python deploy/sync_chart.py [--check]

- `files/dashboard.json`: the Grafana dashboard, from `deploy/grafana/vestry.json`.
- `files/catalog.json`: vLLM's arguments and environment for each catalog entry, as `vestry engine` would start it.
- `values.schema.json`: the part for `settings` from the program's settings tree, less what the chart decides
  itself; the parts for Kubernetes' own types from Kubernetes' schemas, closed.

With `--check` nothing is written; the exit status is 1 if a file differs, and its name is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from vestry.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "vestry"
KUBERNETES = "v1.37.0-local-strict"
BORROWED = {
    "Affinity": "io.k8s.api.core.v1.Affinity",
    "Toleration": "io.k8s.api.core.v1.Toleration",
    "NetworkPolicyPeer": "io.k8s.api.networking.v1.NetworkPolicyPeer",
}
DECIDED_BY_THE_CHART = {
    "Settings": {"state", "secrets", "models"},
    "Server": {"host", "port", "ops_host", "ops_port", "tls"},
    "Audit": {"directory", "origin"},
}

Schema = dict[str, Any]


def settings_schema() -> Schema:
    """The schemas of the settings that the values may hold, by the names that they have under `$defs`."""
    whole = Settings.model_json_schema()
    parts: Schema = {"Settings": whole, **whole.pop("$defs")}
    for name, decided in DECIDED_BY_THE_CHART.items():
        for field in decided:
            del parts[name]["properties"][field]
    shaped = {f"settings.{name}": _tidy(part, "settings.") for name, part in parts.items()}
    shaped["settings"] = shaped.pop("settings.Settings")
    return _reachable("settings", shaped)


def kubernetes_schema() -> Schema:
    """The schemas of the Kubernetes types that the values may hold, without their prose."""
    path = files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES / "_definitions.json"
    definitions = json.loads(path.read_text())["$defs"]
    names = {long: f"kubernetes.{long.rsplit('.', 1)[1]}" for long in definitions}
    shaped: Schema = {}
    for long in BORROWED.values():
        for each in _reachable(long, definitions):
            shaped[names[each]] = _tidy(definitions[each], "", names)
    return shaped


def _tidy(part: Any, prefix: str, names: dict[str, str] | None = None) -> Any:
    """A schema without titles, defaults and notes, with references renamed, and closed where it lists its names."""
    if isinstance(part, list):
        return [_tidy(each, prefix, names) for each in part]
    if not isinstance(part, dict):
        return part
    dropped = {"title", "default", "format"} | ({"description"} if names else set())
    tidy: Schema = {}
    for key, value in part.items():
        if key == "properties":
            tidy[key] = {name: _tidy(each, prefix, names) for name, each in value.items()}
        elif key == "$ref":
            target = value.rsplit("/", 1)[1]
            tidy[key] = "#/$defs/" + (names[target] if names else prefix + target)
        elif key == "type" and isinstance(value, list):
            tidy[key] = next(each for each in value if each != "null")
        elif key not in dropped and not key.startswith("x-"):
            tidy[key] = _tidy(value, prefix, names)
    if tidy.keys() & {"properties", "patternProperties"}:
        tidy.setdefault("additionalProperties", False)
    return tidy


def _reachable(start: str, definitions: Schema) -> Schema:
    """The definition of this name, and all that it refers to."""
    found: Schema = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = definitions[name]
            waiting += [target.removeprefix("#/$defs/") for target in _references(definitions[name])]
    return found


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)


def values_schema() -> str:
    """`values.schema.json` with the borrowed parts as they are now; the rest is written by hand, in the file."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {name: part for name, part in schema["$defs"].items() if not name.startswith(("settings", "kubernetes."))}
    schema["$defs"] = own | dict(sorted((settings_schema() | kubernetes_schema()).items()))
    return _text(schema)


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def wanted() -> dict[Path, str]:
    """What each file should hold."""
    return {CHART / "values.schema.json": values_schema()}


def stale() -> list[Path]:
    """The files that do not hold what they should."""
    return [path for path, text in wanted().items() if not path.is_file() or path.read_text() != text]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Carry into the chart what it has from elsewhere.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something differs")
    check = parser.parse_args(arguments).check
    found = stale()
    for path in found:
        sys.stdout.write(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(wanted()[path])
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
