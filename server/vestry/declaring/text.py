"""Bodies as YAML that `strict_yaml` reads back as the same, with all fields, or with those that say something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from vestry.admin import bodies
from vestry.configuration.strict_yaml import scalar
from vestry.settings.section import Section


class _Dumper(yaml.SafeDumper):
    """Writes texts in quotes where YAML 1.2's core schema would read them as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain_text = isinstance(scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain_text else '"')


class _Lines(dict[str, Any]):
    """A mapping with a line for each of its names, whatever is below."""


def _lines(dumper: yaml.SafeDumper, value: _Lines) -> yaml.MappingNode:
    node = dumper.represent_dict(value)
    node.flow_style = False
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Lines, _lines)


def as_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """A text of whole lines, each behind so many spaces."""
    text = yaml.dump(
        _Lines(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=10_000
    )
    return "".join(" " * indent + line for line in text.splitlines(keepends=True))


def normal(form: type[Section], body: Mapping[str, Any]) -> dict[str, Any]:
    """A body with all its fields; as it is, where it has not this form."""
    try:
        return bodies.plain(form.model_validate(body))
    except ValidationError:
        return dict(body)


def slim(form: type[Section], body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without what it has by default."""
    try:
        return bodies.slim(form.model_validate(body))
    except ValidationError:
        return dict(body)
