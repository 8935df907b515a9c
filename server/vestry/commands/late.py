"""Groups whose commands are imported when they are called, not before: `vestry --help` needs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


class LateGroup(click.Group):
    """A group with a table of what it may come to: click's LazyGroup, whose help and completion need only the table.

    `late` has `(module:attribute, short help)` for each name, of a module in this package. `commands` holds outlines, a
    name and its short help each: what the help lists, what the shell completes, and what a misspelt name is compared
    with. Whoever wants the commands themselves asks `list_commands` and `get_command`, as click does.
    """

    def __init__(self, *args: Any, late: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._late = late
        self.commands.update((name, click.Command(name, short_help=said)) for name, (_, said) in late.items())
        self._outline = click.Group(commands=self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now; None where there is none."""
        if cmd_name not in self._late:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._late[cmd_name][0].partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{module}:{attribute} is no command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, as `click.Group` does."""
        self._outline.format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands and options, as `click.Group` does."""
        names = [
            CompletionItem(name, help=self.commands[name].get_short_help_str())
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
