"""What pages and messages name is there: metrics, settings, routes of the administration, commands."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from support.cli import every_command
from vestry.audit.fields import RecordType
from vestry.roles import Permission

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), REFERENCE / "errors.md", REFERENCE / "fields.md"])
CODE = re.compile(r"`([^`\n]+)`")
CODES = {page: CODE.findall(page.read_text(encoding="utf-8")) for page in PAGES}
COMMANDS = dict(every_command())


def rows(page: str) -> set[str]:
    """The names in the first columns of a reference's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", (REFERENCE / page).read_text(encoding="utf-8"), re.MULTILINE))


def paths(values: Any, above: str = "") -> Iterator[str]:
    """The names of the chart's values, joined by dots."""
    for name, value in values.items() if isinstance(values, dict) else ():
        yield f"{above}{name}"
        yield from paths(value, f"{above}{name}.")


SETTINGS = {name.replace("[]", "").replace(".NAME", "") for name in rows("settings.md")}
SECTIONS = {name.partition(".")[0] for name in SETTINGS if "." in name}
OTHERS = {*RecordType, *Permission, *paths(yaml.safe_load((ROOT / "helm/vestry/values.yaml").read_text()))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_pages(page: Path) -> None:
    """Every metric, every setting with its section, and every route of `/admin/v1` in a page's code."""
    routes = [
        re.sub(r"{\w+}", "[^/]+", path) for path in json.loads((REFERENCE / "admin-api.json").read_text())["paths"]
    ]
    metrics, strange = rows("metrics.md"), []
    for code in CODES[page]:
        strange += [each for each in re.findall(r"\bvestry_[a-z]+_\w+", code) if each not in metrics]
        strange += [
            each
            for each in re.findall(r"^[a-z]+(?:\.[a-z_]+)+$(?<!\.py)", code)
            if each.partition(".")[0] in SECTIONS
            and not {each, each.removeprefix("settings.")} & (SETTINGS | OTHERS)
            and not any(known.startswith(f"{each}.") for known in SETTINGS)
        ]
        strange += [
            each
            for each in re.findall(r"/admin/v1/[\w/-]+", code)
            if not any(re.fullmatch(route, each) for route in routes)
        ]
    assert strange == []


def test_commands_in_messages() -> None:
    """Where the program's own words name a command, it is one, with these options."""
    seen, strange = 0, []
    for path in (ROOT / "server" / "vestry").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for first, second, rest in re.findall(r"`vestry ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?([^`\n]*)`", node.value):
                if first == "origins":  # how the registry of logs begins
                    continue
                command = COMMANDS.get(f"vestry {first}")
                if isinstance(command, click.Group) and second:
                    command = command.get_command(click.Context(command), second)
                known = {each for option in command.params for each in option.opts} if command else set()
                seen += 1
                if command is None or not set(re.findall(r"--[a-z-]+", rest)) <= known | {"--help"}:
                    strange.append(f"{path.name}: vestry {first} {second}{rest}")
    assert strange == []
    assert seen > 50
