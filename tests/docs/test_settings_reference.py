"""Every setting is documented, and the documents are those that the code makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from vestry.configuration.reading import load, schema
from vestry.settings.section import Section, about
from vestry.settings.shape import items_of, kinds_of, section_of, table_of
from vestry.settings.tree import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def every_field(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and description of every setting that is no section."""
    for name, field in section.model_fields.items():
        inner = section_of(field)
        table, items = table_of(field), items_of(field)
        if inner is not None:
            yield from every_field(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", about(section).get(name, "")
        if table is not None:
            yield from every_field(table, f"{prefix}{name}.NAME.")
        if items is not None:
            yield from every_field(items, f"{prefix}{name}[].")
        for kind, each in kinds_of(field).items():
            yield from every_field(each, f"{prefix}{name}[{kind}].")


FIELDS = dict(every_field(Settings))


def test_every_setting_says_what_it_is() -> None:
    """No setting is without a docstring: help, schema, page and faults take their words from it."""
    assert [name for name, description in FIELDS.items() if not description.endswith(".")] == []
    assert len(FIELDS) > 50


def test_the_schema_is_the_one_of_the_code() -> None:
    """docs/settings.schema.json does not lag: `make docs` writes it."""
    assert (DOCS / "settings.schema.json").read_text(encoding="utf-8") == schema()


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_stands_on_the_page(name: str) -> None:
    """The reference has a row for each setting, with its description."""
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert " ".join(FIELDS[name].split()) in rows[0]


def test_the_example_is_valid(tmp_path: Path) -> None:
    """The file that the page shows loads, and fits the schema."""
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "vestry.yaml"
    path.write_text(example)
    assert load(path, {}).server.tls is not None
    jsonschema.Draft202012Validator(yaml.safe_load(schema())).validate(yaml.safe_load(example))
