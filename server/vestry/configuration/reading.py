"""Reading the settings: one YAML file, then the environment, then every fault at once.

`VESTRY_SERVER__PORT=9000` overrides `server.port`: section and field are joined by two underscores, and the value is
read as YAML. In the name of a tenant or a model, write `_` for every character that is not a letter or a digit.
A section that is written with nothing under it has its defaults.

`load` reads; `inspect` looks at the files and addresses that the settings name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vestry.configuration.strict_yaml import Document, Trail, parse
from vestry.faults import ConfigurationError, Fault, meant
from vestry.settings.copies import BUCKET, KEYS, PROFILE, REGION, VKEY
from vestry.settings.section import COMMANDS, LABEL, NAME, ORIGIN, Section
from vestry.settings.shape import kinds_of, optional, place_of, section_of, table_of
from vestry.settings.tree import Settings

PREFIX = "VESTRY_"
OTHER_VARIABLES = frozenset({"VESTRY_CONFIG", "VESTRY_API_KEY"})
OTHER_PREFIXES = ("VESTRY_TEST_", "VESTRY_BENCH_")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
LARGEST_FILE = 262_144
SERVICE_LINK = re.compile(r"VESTRY_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

_PATTERNS = {
    VKEY: "write a witness's public key as NAME+HASH+KEY",
    BUCKET: "write 3 to 63 of a-z, 0-9, `.` and `-`, as buckets are named",
    KEYS: "write names of A-Z, a-z, 0-9, `.`, `_` and `-`, each with a slash behind it",
    REGION: "write a region such as eu-central-1",
    PROFILE: "write 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`",
    LABEL: "write 1 to 63 of a-z, 0-9 and `-`, beginning with a letter or digit",
    COMMANDS: "write `cli`, or up to 59 of a-z, 0-9, `.` and `-`, and then `-cli`",
    ORIGIN: "write 1 to 63 of a-z, 0-9, `.`, `/` and `-`, beginning with a letter or digit",
    NAME: "write 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `/` and `-`, beginning with a letter or digit",
}
_KINDS = {
    "int_type": "this must be a whole number",
    "int_from_float": "this must be a whole number",
    "int_parsing_size": "this number is too large",
    "float_type": "this must be a number",
    "string_type": "this must be text; put it in quotes",
    "path_type": "this must be a path",
    "tuple_type": "this must be a list",
    "dict_type": "this must be a mapping (`name: value` lines)",
    "model_type": "this must be a mapping (`name: value` lines)",
}


class Places:
    """Where each setting was written: a line of the file, or a variable."""

    def __init__(self, file: str, lines: dict[Trail, int], variables: dict[Trail, str]):
        self._file, self._lines, self._variables = file, lines, variables

    def of(self, trail: Trail) -> str:
        """`vestry.yaml:12 server.port`, or `environment VESTRY_SERVER__PORT`; the nearest place that is known."""
        for end in range(len(trail), 0, -1):
            if name := self._variables.get(trail[:end]):
                inner = dotted(trail[end:])
                return f"environment {name}" + (f" {inner}" if inner else "")
            if line := self._lines.get(trail[:end]):
                return f"{self._file}:{line} {dotted(trail)}"
        return f"{self._file} {dotted(trail)}".strip() or "settings"

    def override(self, trail: Trail, variable: str) -> None:
        """A variable's value stands at this place now, with everything below it."""
        self._variables[trail] = variable
        for known in [each for each in self._lines if each[: len(trail)] == trail]:
            del self._lines[known]


class Reading(Struct, frozen=True):
    """Settings, and where they were written."""

    settings: Settings
    places: Places


def dotted(trail: Trail) -> str:
    """`tenants.radiology.models[1]`."""
    text = ""
    for step in trail:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings; without a file, the defaults and the environment. Raises ConfigurationError, and nothing else."""
    return read(path, environ).settings


def read(path: Path | None, environ: Mapping[str, str]) -> Reading:
    """As `load`, with the places of everything."""
    faults: list[Fault] = []
    document = Document(None, {}, []) if path is None else _file(path, faults)
    places = Places(str(path) if path else "", document.lines, {})
    faults += [Fault(f"{path}:{flaw.line}", flaw.what, flaw.mend) for flaw in document.flaws]
    raw = {} if document.value is None else document.value
    if not isinstance(raw, dict):
        faults.append(Fault(f"{path}:1", "the file is not a mapping", "Write sections such as `server:`"))
        raw = {}
    unreadable = tuple(f"{fault.place} " for fault in faults)
    for variable in sorted(environ, key=lambda name: (name.count("__"), name)):
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not variable.startswith(OTHER_PREFIXES):
            faults += _overlay(raw, places, variable, environ[variable])
    _complete(raw, Settings)
    found = _validated(raw, places)
    if isinstance(found, Settings) and not faults:
        return Reading(found, places)
    judged = [] if isinstance(found, Settings) else found
    raise ConfigurationError(faults + [fault for fault in judged if not fault.place.startswith(unreadable)])


def digest(settings: Settings) -> str:
    """`sha256:` and the hex digest of the settings' canonical JSON. They hold no secret, only names of files."""
    tree = _canonical(settings.model_dump(mode="json"))
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: Any) -> Any:
    """The value with 8.0 written as 8, so that a default and the same number in a file have one digest."""
    match value:
        case dict():
            return {key: _canonical(each) for key, each in value.items()}
        case list():
            return [_canonical(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _spelled(value: Any, words: dict[str, Any]) -> Any:
    """A schema in which lists of words stand where they are used."""
    if isinstance(value, list):
        return [_spelled(each, words) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("$ref") in words:
        return {"type": "string", "enum": words[value["$ref"]]["enum"]}
    return {name: _spelled(each, words) for name, each in value.items()}


def schema() -> str:
    """The JSON Schema (draft 2020-12) of the settings file, as it stands in `docs/settings.schema.json`."""
    tree = Settings.model_json_schema()
    words = {
        f"#/$defs/{name}": tree["$defs"].pop(name) for name in list(tree["$defs"]) if "enum" in tree["$defs"][name]
    }
    tree = _spelled(tree, words)
    for section in (tree, *tree["$defs"].values()):
        for field in section["properties"].values():
            if "$ref" in field:
                field.update(_or_nothing(field.pop("$ref")))
            for pattern, entry in field.get("patternProperties", {}).items():
                field["patternProperties"][pattern] = _or_nothing(entry["$ref"])
                field["additionalProperties"] = False
    return json.dumps({"$schema": DIALECT, **tree}, indent=2, ensure_ascii=False) + "\n"


def _or_nothing(reference: str) -> dict[str, Any]:
    """A section, or nothing under its name: then it has its defaults."""
    return {"anyOf": [{"$ref": reference}, {"type": "null"}]}


# The file.


def _file(path: Path, faults: list[Fault]) -> Document:
    """What the file holds; what keeps it from being read joins the faults."""
    nothing = Document(None, {}, [])
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        faults.append(Fault(str(path), f"the file cannot be read ({why})", "Name a settings file with --config"))
        return nothing
    if len(content) > LARGEST_FILE:
        faults.append(Fault(str(path), f"the file is larger than {LARGEST_FILE} bytes", "Settings are not this large"))
        return nothing
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.append(Fault(f"{path}:{line}", "the file is not UTF-8 text", "Save it as UTF-8"))
        return nothing
    document = parse(text)
    if document.value is None and not document.flaws:
        mend = "Write a section, such as `server:`, or leave --config out for the defaults"
        faults.append(Fault(str(path), "the file is empty", mend))
    return document


def _complete(raw: Any, section: type[Section]) -> None:
    """Give every section that was written with nothing under it an empty mapping, in place."""
    for name, field in section.model_fields.items():
        if not isinstance(raw, dict) or name not in raw:
            continue
        inner, table = section_of(field), table_of(field)
        if inner is not None:
            if raw[name] is None and not optional(field):
                raw[name] = {}
            _complete(raw[name], inner)
        elif table is not None and isinstance(entries := raw[name], dict):
            for key, value in entries.items():
                entries[key] = {} if value is None else value
                _complete(entries[key], table)


# The environment.


def _overlay(raw: dict[str, Any], places: Places, variable: str, text: str) -> list[Fault]:
    """Put one variable's value where its name says."""
    place = f"environment {variable}"
    try:
        trail = _trail(variable, raw)
    except _Unknown as unknown:
        if "__" not in variable and SERVICE_LINK.fullmatch(variable):
            mend = f"Set `enableServiceLinks: false` in the pod. {unknown.mend}"
            return [Fault(place, "there is no such setting; Kubernetes sets such names for Services", mend)]
        return [Fault(place, unknown.what, unknown.mend)]
    document = parse(text)
    if document.flaws:
        return [Fault(place, flaw.what, flaw.mend) for flaw in document.flaws]
    target = raw
    for step in trail[:-1]:
        if target.get(step) is None:
            target[step] = {}
        target = target[step]
        if not isinstance(target, dict):
            return []  # what stands there is a fault of its own
    target[trail[-1]] = document.value
    places.override(tuple(trail), variable)
    return []


class _Unknown(Exception):  # noqa: N818 - caught where it becomes a fault
    def __init__(self, what: str, mend: str):
        super().__init__(what)
        self.what, self.mend = what, mend


def _trail(variable: str, raw: dict[str, Any]) -> list[str]:
    """Where in the settings a variable's value belongs. Seeds the tables it passes with their default entries."""
    steps = variable[len(PREFIX) :].lower().split("__")
    section: type[Section] | None = Settings
    trail: list[str] = []
    level: Any = raw
    while steps:
        name = steps.pop(0)
        field = section.model_fields.get(name) if section is not None else None
        if section is None or field is None:
            close = difflib.get_close_matches(variable[:128], _variables(Settings), n=1, cutoff=0.85)
            mend = f"Did you mean {close[0]}?" if close else "Remove it"
            raise _Unknown("there is no such setting", mend)
        trail.append(name)
        section, table = section_of(field), table_of(field)
        if table is not None and isinstance(level, dict):
            level.setdefault(name, {key: {} for key in field.get_default(call_default_factory=True)})
        level = level.get(name) if isinstance(level, dict) else None
        if table is not None and steps:
            entry = _entry(steps.pop(0), level, trail)
            trail.append(entry)
            section, level = table, level.get(entry)
    return trail


def _entry(step: str, table: Any, trail: list[str]) -> str:
    """The name of a tenant or model that a variable spells with `_`."""
    names = [str(name) for name in table] if isinstance(table, dict) else []
    fitting = [name for name in names if re.sub(r"[^a-z0-9]", "_", name.lower()) == step]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        said = f"it could be any of {_listed(fitting)}"
        raise _Unknown(said, "Write it in the file, or set the whole mapping at once")
    mend = f"Known: {_listed(names)}. A new one goes into the file, or into {_variable(*trail)} as a mapping"
    raise _Unknown(f"there is nothing of that name among `{'.'.join(trail)}`", mend)


def _variables(section: type[Section], *trail: str) -> list[str]:
    """The variable of every setting in this section and those below, but for tenants and models."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        inner = section_of(field)
        found += [_variable(*trail, name), *(_variables(inner, *trail, name) if inner is not None else [])]
    return found


def _variable(*steps: str) -> str:
    return PREFIX + "__".join(re.sub(r"[^A-Z0-9]", "_", step.upper()) for step in steps)


# Faults.


def _validated(raw: dict[str, Any], places: Places) -> Settings | list[Fault]:
    """The settings, or why not. JSON in between makes pydantic strict: no text for a number, no number for a truth."""
    unknown = _unknown_models(raw, places)
    try:
        return Settings.model_validate_json(json.dumps(raw, allow_nan=False), strict=True)
    except ValidationError as error:
        found = [_fault(each, places) for each in error.errors() if each["type"] != "unknown_models"]
        return found + unknown


def _unknown_models(raw: dict[str, Any], places: Places) -> list[Fault]:
    """Tenants' models that are not served: the check of `Settings`, with places, and with other faults beside it."""
    models, tenants = raw.get("models"), raw.get("tenants")
    if not isinstance(tenants, dict) or not isinstance(models, dict | None):
        return []
    known = list(models) if isinstance(models, dict) else list(Settings().models)
    found = []
    for tenant, grant in tenants.items():
        listed = grant.get("models") if isinstance(grant, dict) else None
        for index, name in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(name, str) and name != "*" and name not in known:
                place = places.of(("tenants", tenant, "models", index))
                what = f"tenant `{tenant}` may use `{_short(name)}`, which is not among `models`"
                found.append(Fault(place, what, meant(name, known, f"Known: {_listed(known)}, and `*` for all")))
    return found


def _fault(error: ErrorDetails, places: Places) -> Fault:
    """One of pydantic's errors, in our words."""
    place = place_of(Settings, tuple(step for step in error["loc"] if step != "[key]"))
    field, trail = place.field, place.trail
    kind, context = error["type"], error.get("ctx", {})
    mend = _described(_name(trail, behind="[key]" in error["loc"]), place.about)
    match kind:
        case "extra_forbidden":
            what, mend = "there is no such setting", meant(str(trail[-1]), place.names, "Remove it")
        case "no_auditor":
            trail = ("tenants", context["tenant"], "content")
            what = f"content of tenant `{context['tenant']}` is `sealed`, but there is no auditor's key to seal it to"
            mend = "Make one elsewhere with `vestry audit keygen`, and put its public half into `audit.auditor`"
        case "missing":
            what, mend = f"`{trail[-1]}` is missing", f"Add it. {mend}"
        case "string_pattern_mismatch":
            what = f"this is not such a name: {_PATTERNS.get(context['pattern'], 'it does not match the pattern')}"
        case "literal_error":
            what = f"this must be {context['expected']}"
        case "union_tag_invalid" | "union_tag_not_found":
            what = (
                f"`kind` must be one of {', '.join(f'`{each}`' for each in kinds_of(field) if each) if field else ''}"
            )
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign, bound = next(iter(context.items()))
            words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            what = f"this must be {words[sign]} {bound:.12g}"
        case "value_error":
            what = str(context["error"])
        case _:
            what = _KINDS.get(kind, error["msg"])
    return Fault(places.of(trail), what, mend)


def _name(trail: Trail, *, behind: bool) -> str:
    """The setting's name: that of the list, for an item; that before the last, where the last is a key of a table."""
    names = [str(step) for step in trail if isinstance(step, str)]
    return (names[:-1] if behind else names)[-1] if names else ""


def _described(name: str, about: str) -> str:
    """What a setting is, from its docstring."""
    return f"About `{name}`: {' '.join(about.split()).rstrip('.')}" if about else "See docs/reference/settings.md"


def _listed(names: list[str]) -> str:
    shown = [f"`{_short(name)}`" for name in names[:20]] + ["…"] * (len(names) > 20)
    return ", ".join(shown) or "none"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
