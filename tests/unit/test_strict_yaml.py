"""The strict reading of YAML: plain values with their lines, and a reason for all else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vestry.configuration.strict_yaml import DEPTH, parse, scalar


def flaw(text: str) -> str:
    """The one flaw of a text, as `line: what`."""
    found = parse(text).flaws
    assert len(found) == 1, found
    assert found[0].mend
    return f"{found[0].line}: {found[0].what}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ("tRuE", "tRuE"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    """Numbers, truth and null as YAML 1.2 says; everything else is text, as are numbers beyond all bounds."""
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_values_and_lines() -> None:
    """Every key and every item has its line."""
    document = parse("# head\na: 1\nb:\n  - x\n  - {c: '2', d: [3]}\n")
    assert document.value == {"a": 1, "b": ["x", {"c": "2", "d": [3]}]}
    assert document.flaws == []
    assert document.lines == {("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "c"): 5, ("b", 1, "d"): 5} | {
        ("b", 1, "d", 0): 5
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n# nothing\n"])
def test_empty_texts_are_none(text: str) -> None:
    """A text without a value has none, and no flaw."""
    document = parse(text)
    assert document.value is None
    assert document.flaws == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "3: `a` stands here a second time; the first is on line 1"),
        ("a: 1\n'a': 2\n", "2: `a` stands here a second time; the first is on line 1"),
        ("a: &x 1\n", "1: anchors"),
        ("a: *x\n", "1: aliases"),
        ("a: !!int '1'\n", "1: tags"),
        ("a: !own {}\n", "1: tags"),
        ("a: ! x\n", "1: tags"),
        ("<<: {a: 1}\n", "1: merge keys"),
        ("? [a]\n: 1\n", "1: a key must be a plain name"),
        ("? {a: 1}\n: 1\n", "1: a key must be a plain name"),
        ("a: 1\n---\nb: 2\n", "2: a second document"),
        ('a: "\\0"\n', "1: the value holds a control character"),
        ('a: "\\ud800"\n', "1: the value holds a control character"),
        ('"a\\nb": 1\n', "1: a key holds"),
        (f"{'k' * 300}: 1\n", "1: a key holds"),
        ("a: \x01\n", "1: the text holds a character"),
        ("a: b\n\tc: d\n", "2: this is not YAML"),
        ("a: [1\n", "2: this is not YAML"),
        ("a: b: c\n", "1: this is not YAML"),
        ('a: "\\Uffffffff"\n', "1: this is not YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", "1: this is not YAML"),
        ("[" * 100 + "]" * 100, f"1: nested more than {DEPTH} levels deep"),
    ],
)
def test_what_is_not_read_is_told(text: str, said: str) -> None:
    """Each thing that is left out has its line and its reason."""
    assert said in flaw(text)


def test_an_alias_to_an_anchor_is_told_with_it() -> None:
    """Both ends of a reference are named, and the alias stands for nothing."""
    document = parse("a: &x [1]\nb: *x\n")
    assert [each.line for each in document.flaws] == [1, 2]
    assert document.value == {"a": [1], "b": None}


def test_a_bomb_of_aliases_costs_nothing() -> None:
    """Nine levels of nine references each would be 387 million items; they are flaws instead."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    document = parse("\n".join(lines))
    assert len(document.flaws) == 10 + 81
    assert len(json.dumps(document.value)) < 2000


@pytest.mark.parametrize("text", ["[" * 262_144, "{a: " * 60_000, "- " * 130_000, "? " * 130_000])
def test_depth_costs_no_stack_and_little_time(text: str) -> None:
    """A quarter of a megabyte of openings is refused without recursion, at once."""
    began = time.process_time()
    assert parse(text).flaws
    assert time.process_time() - began < 5


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.characters(codec=None), max_size=60)
    | st.text(alphabet=" \n\t-:,[]{}&*!|>'\"%@`#?ab1~", max_size=40)
)
@example("%TAG ! %ff\n--- !x\n")
@example('"\\x')
@example("? - ? -")
@example("--- |9\n")
def test_nothing_makes_it_raise(text: str) -> None:
    """Any text gives a value or flaws; both are plain and can be written as JSON."""
    document = parse(text)
    json.dumps(document.value)
    assert all(each.line >= 1 and each.what and each.mend for each in document.flaws)


names = st.text(alphabet="abcdefgh_-", min_size=1, max_size=8).filter(lambda name: scalar(name) == name)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_what_others_write_is_read(value: Any) -> None:
    """Ordinary data, written by PyYAML, comes back as it was."""
    assert parse(yaml.safe_dump(value)).value == value
