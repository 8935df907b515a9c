"""What all sections of the settings are made of."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from msgspec import Struct

from vestry.settings.section import Section, about
from vestry.settings.tree import Settings


class Bounds(Section):
    """Bounds of something."""

    least: int = 0
    """Least of it,
    in units."""
    most: int = 1
    """Most of it."""
    bare: int = 2
    """Of nothing:"""
    silent: int = 3


class Narrow(Bounds):
    """Others of the same."""

    most: int = 0
    bare: int = 0
    """Said anew."""
    text: str = ""
    """A text."""


class Other(Struct):
    """No section."""

    least: int = 0
    """Nobody asks."""


def test_what_is_said_of_fields_stands_below_them() -> None:
    """Each field's docstring, those of a class above too; said anew counts, and a field without one has none."""
    assert about(Bounds) == {"least": "Least of it,\nin units.", "most": "Most of it.", "bare": "Of nothing:"}
    assert about(Narrow) == {**about(Bounds), "bare": "Said anew.", "text": "A text."}


def test_the_schema_says_it_too() -> None:
    """In every field's description, beside all that pydantic says of it."""
    properties = Narrow.model_json_schema()["properties"]
    assert {name: field.get("description") for name, field in properties.items()} == {
        **about(Narrow),
        "silent": None,
    }
    assert properties["text"] == {"description": "A text.", "default": "", "title": "Text", "type": "string"}


def test_without_sources_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was packed without its sources works, with less to say."""

    class Lost(Section):
        """Its module is none that could be read."""

        field: int = 0
        """Said, but not found."""

    monkeypatch.setitem(sys.modules, "lost", ModuleType("lost"))
    Lost.__module__ = "lost"
    assert about(Lost) == {}
    assert "description" not in Lost.model_json_schema()["properties"]["field"]


def test_reading_settings_reads_no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only faults, helps and schemas ask what is said of settings."""
    monkeypatch.setattr("vestry.settings.section._said", None)
    assert Settings.model_validate({"log_level": "debug"}).log_level == "debug"
