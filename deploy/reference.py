"""The reference pages about settings, with their JSON Schema, and commands. `docs.py` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click

from vestry.cli import main as root
from vestry.configuration.reading import schema

WIDTH = 100

EXAMPLE = """\
state: /var/lib/vestry

server:
  host: 0.0.0.0
  port: 8443
  allowed_hosts: [llm.hospital.example]
  tls:
    certificate: /etc/vestry/tls.crt
    key: /etc/vestry/tls.key

tenants:
  radiology:
    models: [smollm2-135m-instruct]
    requests_per_minute: 600
  research:

models:
  smollm2-135m-instruct:
    engine:
      port: 8100
  triage:
    catalog: llama-3-8b-instruct
    replicas:
      - url: http://10.20.0.11:8000
      - url: http://10.20.0.12:8000
"""

SETTINGS_HEAD = f"""\
# Settings

<!-- Made by deploy/docs.py from server/vestry/settings/tree.py. Change it there. -->

Settings come from one YAML file, named with `--config` or `VESTRY_CONFIG`, and from the environment, which wins.
Without either, the defaults below hold. `vestry check` reads them as the server does and names every fault with its
place and the mend. [`settings.schema.json`](../settings.schema.json) is the file's JSON Schema, for editors.

```yaml
{EXAMPLE}```

- **Environment.** `VESTRY_SERVER__PORT=9000` sets `server.port`: `VESTRY_`, then section and field in capitals, joined
  by two underscores. The value is read as YAML, so lists and mappings can be given too:
  `VESTRY_SERVER__ALLOWED_HOSTS='[a.example, b.example]'`. In the name of a tenant or a model, write `_` for every
  character that is not a letter or a digit: `VESTRY_TENANTS__RADIOLOGY__CONCURRENCY=8`. A variable can change a tenant
  or model that is in the file; a new one goes into the file. A name beginning with `VESTRY_` that is no setting is a
  fault, but for `VESTRY_CONFIG`, `VESTRY_API_KEY` and names beginning with `VESTRY_TEST_` or `VESTRY_BENCH_`. In
  Kubernetes, set `enableServiceLinks: false`, or a Service named `vestry` puts such names there.
- **Types are strict.** A number is no text, and `yes` is no truth value: YAML is read by the core schema of YAML 1.2.
  Anchors, aliases, tags, merge keys, duplicate keys and a second document are faults. A section written with nothing
  under it has its defaults.
- **Relative paths** start at the directory in which the program was started.
- **Secrets are never in the settings**, only the names of files that hold them. Such a file must belong to the user
  that runs the server, or to root, and nobody else may read it (one that belongs to root may be readable by its group).
"""

COMMANDS_HEAD = """\
# Commands

<!-- Made by deploy/docs.py from the commands themselves. Change them there. -->

Every command prints this help with `--help`. Settings come from `--config FILE`, given before the command, and from
`VESTRY_...` variables ([settings](settings.md)). Results go to standard output, explanations and errors to standard
error.
"""


def settings_page() -> str:
    """`docs/reference/settings.md`."""
    tree = json.loads(schema())
    parts = [SETTINGS_HEAD, *_sections(tree, tree, "")]
    return "\n".join(parts)


def _sections(tree: dict[str, Any], node: dict[str, Any], prefix: str) -> Iterator[str]:
    """A heading and a table for this section, then those below it."""
    inner: list[tuple[str, dict[str, Any]]] = []
    rows: list[str] = []
    for name, field in node["properties"].items():
        below, path = _below(tree, field, f"{prefix}{name}")
        if below is not None:
            inner.append((path, below))
        if below is None or field.get("description"):
            cells = (
                f"`{prefix}{name}`",
                _kind(tree, field),
                _default(node, name, field),
                _flat(field.get("description", "")),
            )
            rows.append(f"| {' | '.join(cells)} |")
    title = f"`{prefix.rstrip('.')}`" if prefix else "At the top"
    about = _flat(node.get("description", "")) if prefix else ""
    yield f"## {title}\n" + (f"\n{about}\n" if about else "")
    if rows:
        yield "\n".join(["| setting | kind | default | meaning |", "|---|---|---|---|", *rows, ""])
    for path, below in inner:
        for kind, each in _kinds(tree, below):
            yield from _sections(tree, each, f"{path.removesuffix('[]')}[{kind}]." if kind else f"{path}.")


def _below(tree: dict[str, Any], field: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, str]:
    """The section that stands in a field, and how its own fields are written."""
    for form in (field, *field.get("anyOf", ())):
        if "$ref" in form:
            return _resolved(tree, form["$ref"]), path
        if "$ref" in form.get("items", {}):
            return _resolved(tree, form["items"]["$ref"]), f"{path}[]"
        if "oneOf" in form.get("items", {}):
            return form["items"], f"{path}[]"
        for entry in form.get("patternProperties", {}).values():
            return _below(tree, entry, f"{path}.NAME")
    return None, path


def _kinds(tree: dict[str, Any], below: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The section that stands below; of a list's items of several kinds, each with its kind."""
    if "oneOf" not in below:
        yield "", below
    for kind, reference in below.get("discriminator", {}).get("mapping", {}).items():
        yield kind, _resolved(tree, reference)


def _resolved(tree: dict[str, Any], reference: str) -> dict[str, Any]:
    found: dict[str, Any] = tree["$defs"][reference.rpartition("/")[2]]
    return found


def _kind(tree: dict[str, Any], field: dict[str, Any]) -> str:
    forms = [form for form in field.get("anyOf", [field]) if form.get("type") != "null"]
    form = forms[0]
    if form.keys() & {"const", "enum"}:
        return f"`{form['const']}`" if "const" in form else "one of " + ", ".join(f"`{each}`" for each in form["enum"])
    match form.get("type"):
        case "integer" | "number":
            return {"integer": "whole number", "number": "number"}[form["type"]] + _range(form)
        case "array":
            return f"list of {_kind(tree, form['items'])}"
        case "object" | "boolean" as plain:
            return {"object": "mapping", "boolean": "`true` or `false`"}[plain]
        case "string":
            return "path" if form.get("format") == "path" else "name" if "pattern" in form else "text"
    return "section"


def _range(form: dict[str, Any]) -> str:
    least, most, above = form.get("minimum"), form.get("maximum"), form.get("exclusiveMinimum")
    low = f"{least:g}" if least is not None and least < 1e6 else least
    return f" {low} to {most:.12g}" if least is not None else f" above {above:g}, to {most:.12g}"


def _default(node: dict[str, Any], name: str, field: dict[str, Any]) -> str:
    if name in node.get("required", ()):
        return "required"
    value = field.get("default")
    return "" if value is None or isinstance(value, dict) else f"`{json.dumps(value)}`"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands_page() -> str:
    """`docs/reference/commands.md`."""
    return "\n".join([COMMANDS_HEAD, *_commands(root, "vestry", None)])


def _commands(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command,
        parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                yield from _commands(found, each, context)


PAGES: dict[str, Callable[[], str]] = {
    "settings.schema.json": schema,
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
}
