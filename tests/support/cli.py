"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

from support import forks
from vestry.cli import main


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of ours."""
    return {name: value for name, value in environ.items() if not name.startswith("VESTRY_")}


def shown(text: str) -> list[dict[str, Any]]:
    """The lines of JSON that a command printed."""
    return [json.loads(line) for line in text.splitlines()]


def every_command(command: click.Command = main, path: str = "vestry") -> Iterator[tuple[str, click.Command]]:
    """Each command with the words that call it, imported; groups among them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, f"{path} {name}"
            yield from every_command(inner, f"{path} {name}")


class Cli:
    """Runs `vestry` with a state directory of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.variables = {"VESTRY_STATE": str(state)}

    def __call__(self, *arguments: str, **variables: str) -> Result:
        """In this process."""
        hidden: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("VESTRY_"))
        return CliRunner().invoke(main, list(arguments), env={**hidden, **self.variables, **variables})

    def apart(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own."""
        environment = {**clean(os.environ), **self.variables, **variables}
        return forks.run(["-m", "vestry", *arguments], env=environment)

    def ok(self, *arguments: str, **variables: str) -> str:
        """What a command that must work prints on standard output."""
        result = self(*arguments, **variables)
        assert result.exit_code == 0, result.output
        return result.stdout
