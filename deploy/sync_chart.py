#!/usr/bin/env python3
"""Carry into the chart what the chart has from elsewhere, since Helm reads nothing outside a chart's folder.

    python deploy/sync_chart.py [--check]

- `files/dashboard.json`: the Grafana dashboard, from `deploy/grafana/vestry.json`.
- `files/alerts.yaml`: the alert rules, from `deploy/prometheus/alerts.yaml`.
- `files/vestry_guard.py`: the guard in front of each engine, from the package.
- `files/catalog.json`: vLLM's arguments and environment for each catalog entry, as `vestry engine` would start it.
- `values.schema.json`: the part for `settings` from the program's settings tree, less what the chart decides
  itself; the part for vLLM's arguments from the list of those that may be set; the parts for Kubernetes' own
  types from Kubernetes' schemas, closed.

With `--check` nothing is written; the exit status is 1 if a file differs, and its name is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from vestry.models import catalog, environment, launch
from vestry.models.arguments import SWITCHES, TUNABLE, VALUE
from vestry.models.catalog import Device, Entry
from vestry.models.chosen import Chosen
from vestry.models.environment import Stamp
from vestry.settings.tree import Engine, Model, Settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "vestry"
DASHBOARD = ROOT / "deploy" / "grafana" / "vestry.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ADDRESS = "10.255.255.254"
SHUTDOWN_SECONDS = 54_321
NAME = "name-of-the-model"
KUBERNETES = "v1.37.0-local-strict"
BORROWED = {
    "Affinity": "io.k8s.api.core.v1.Affinity",
    "Toleration": "io.k8s.api.core.v1.Toleration",
    "NetworkPolicyPeer": "io.k8s.api.networking.v1.NetworkPolicyPeer",
}
BORROWED_NAMES = ("settings", "engineArguments", "kubernetes.")
DECIDED_BY_THE_CHART = {
    "Settings": {"state", "secrets", "models"},
    "Server": {"host", "port", "ops_host", "ops_port", "admin_host", "admin_port", "tls"},
    "Audit": {"directory", "origin", "commands"},
    "Store": {"url", "password", "ca", "certificate", "key"},
}
READ_BY_THE_CHART = {"Settings": ["server"], "Server": ["drain_seconds"]}
"""What its templates read themselves: a value that is left empty would be none to them, not the program's default."""

Schema = dict[str, Any]


def settings_schema() -> Schema:
    """The schemas of the settings that the values may hold, by the names that they have under `$defs`."""
    whole = Settings.model_json_schema()
    parts: Schema = {"Settings": whole, **whole.pop("$defs")}
    for name, decided in DECIDED_BY_THE_CHART.items():
        for field in decided:
            del parts[name]["properties"][field]
    for name, read in READ_BY_THE_CHART.items():
        parts[name]["required"] = read
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
    dropped = {"title", "default", "format", "discriminator"} | ({"description"} if names else set())
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


def arguments_schema() -> Schema:
    """The schema of vLLM's arguments that may be set, without their dashes; a switch is `true`."""
    value = {"type": ["string", "number"], "pattern": f"^{VALUE.pattern}$", "minimum": 0}  # as the pattern has no sign
    names = sorted(name.removeprefix("--") for name in TUNABLE)
    shaped = {name: {"const": True} if f"--{name}" in SWITCHES else value for name in names}
    return {"engineArguments": {"type": "object", "additionalProperties": False, "properties": shaped}}


def engines() -> Schema:
    """How each catalog entry's engine is started, with marks where the chart fills something in.

    `@MODEL@` is the name that clients use, `@CONTEXT@` the context's length, `@SHUTDOWN@` seconds; `$(POD_IP)` is
    for Kubernetes. The model's files are in /model, the guard in /guard, caches in /cache.
    """
    entries: Schema = {}
    surroundings: Schema = {}
    for entry in catalog.entries().values():
        devices: Schema = {}
        for device in entry.devices:
            arguments, surroundings = _started(entry, device)
            devices[device] = arguments
        entries[entry.name] = {"context": entry.context_length, "devices": devices}
    return {"entries": entries, "environment": surroundings}


def _started(entry: Entry, device: Device) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment, as the program itself plans them, in a state directory made for this."""
    with tempfile.TemporaryDirectory() as folder:
        state, model = Path(folder) / "state", Path(folder) / "model"
        for each in (state / "engine" / "bin", model):
            each.mkdir(parents=True)
        (state / "engine" / "bin" / "python").touch(mode=0o755)
        stamp = Stamp("vllm", "0", "0", device, "0", "0")
        (state / "engine" / environment.STAMP).write_bytes(msgspec.json.encode(stamp))
        for name in ("config.json", "model.safetensors"):
            (model / name).write_text("{}")
        engine = Engine(host=ADDRESS, port=8000, shutdown_seconds=SHUTDOWN_SECONDS)
        chosen = Chosen(NAME, Model(catalog=entry.name, path=model, engine=engine), entry)
        plan = launch.plan(Settings(state=state), chosen, "", {}, elsewhere=True)
        marks = {
            os.fspath(model): "/model",
            os.fspath(state / "cache"): "/cache",
            os.fspath(launch.GUARD): "/guard",
            NAME: "@MODEL@",
            ADDRESS: "$(POD_IP)",
            str(SHUTDOWN_SECONDS): "@SHUTDOWN@",
        }
        arguments = [_marked(each, marks) for each in plan.argv[1 + len(launch.PROGRAM) :]]
        arguments[arguments.index("--max-model-len") + 1] = "@CONTEXT@"
        dropped = {"PATH", launch.KEY, *launch.UNCOMPILED}  # the last is for CPUs alone: the template has it
        kept = {name: text for name, text in plan.environment.items() if name not in dropped}
        return arguments, {name: _marked(text, marks) for name, text in sorted(kept.items())}


def _marked(text: str, marks: dict[str, str]) -> str:
    for found, mark in marks.items():
        text = text.replace(found, mark)
    return text


def values_schema() -> str:
    """`values.schema.json` with the borrowed parts as they are now; the rest is written by hand, in the file."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {name: part for name, part in schema["$defs"].items() if not name.startswith(BORROWED_NAMES)}
    schema["$defs"] = own | dict(sorted((settings_schema() | arguments_schema() | kubernetes_schema()).items()))
    return _text(schema)


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def wanted() -> dict[Path, str]:
    """What each file should hold."""
    return {
        CHART / "values.schema.json": values_schema(),
        CHART / "files" / "catalog.json": _text(engines()),
        CHART / "files" / "dashboard.json": DASHBOARD.read_text(),
        CHART / "files" / "alerts.yaml": ALERTS.read_text(),
        CHART / "files" / "vestry_guard.py": (launch.GUARD / "vestry_guard.py").read_text(),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Carry into the chart what it has from elsewhere.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something differs")
    check = parser.parse_args(arguments).check
    stale = [(path, text) for path, text in wanted().items() if not path.is_file() or path.read_text() != text]
    for path, text in stale:
        sys.stdout.write(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
