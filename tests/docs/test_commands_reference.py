"""Every command is documented, and the reference pages are those that the code makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from support.cli import every_command

ROOT = Path(__file__).resolve().parents[2]


COMMANDS = dict(every_command())


def shown_of(kind: type) -> str:
    """How Python's own docstring of a type would begin as an option's help."""
    return " ".join((kind.__doc__ or "").split())[:20]


def test_the_pages_do_not_lag() -> None:
    """Every page, and every part of one, that is made from the code is as the generator writes it now."""
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help(path: str) -> None:
    """A command says in a line and in a paragraph what it does; each option says what it is for, in words of ours: a
    field of a body that has none of its own showed what Python says of `str` or `int`.
    """
    command = COMMANDS[path]
    assert command.help
    assert command.get_short_help_str(limit=200).endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert not any(shown_of(each) in option.help for each in (str, int, tuple, list, dict)), option.help


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_stands_on_the_page(path: str) -> None:
    """The reference has a heading for each command."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert page.count(f"\n## {path}\n") == 1
