"""What the commands on the directory share: how they fail, the options that all have, tables and lists."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from vestry.adapters.directory.faults import DirectoryFault
from vestry.admin.actor import Match
from vestry.admin.pages import PAGE
from vestry.administration import ChangeRefused
from vestry.commands.common import BadSettings
from vestry.commands.unusable import Unusable
from vestry.errors import InvalidRequest, Refusal
from vestry.faults import ConfigurationError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
as_json_of_new = click.option("--json", "as_json", is_flag=True, help="Print the key and what is known of it as JSON.")
made_once = click.option(
    "--idempotency-key",
    metavar="TOKEN",
    default="",
    help="Asked again with the same token, the key that was made then is told, without its text.",
)
if_version = click.option(
    "--if-version",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if this is its version still; 0: only if there is none yet.",
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong in here ends the command with its sentence: status 2 for faulty settings, secrets and bodies,
    else 1.
    """
    try:
        yield
    except ConfigurationError as error:
        raise BadSettings(error.faults) from None
    except ChangeRefused as error:
        raise click.ClickException(str(error)) from None
    except DirectoryFault as error:
        raise click.ClickException(f"{error.why}.") from None
    except InvalidRequest as refusal:
        raise Unusable(refusal.reason) from None
    except Refusal as refusal:
        raise click.ClickException(refusal.reason) from None


def match_of(version: int | None) -> Match:
    """What `--if-version` asks for."""
    if version is None:
        return Match(any_version=True)
    return Match((version,)) if version else Match(new=True)


class Listing:
    """Prints rows as they come: a table, whose columns are as wide as the first page needs; or a JSON array."""

    def __init__(self, columns: Mapping[str, Callable[[dict[str, Any]], str]], *, as_json: bool) -> None:
        self._columns, self._as_json = columns, as_json
        self._held: list[list[str]] = [list(columns)]
        self._widths: list[int] = []
        self.rows = 0

    def row(self, row: dict[str, Any]) -> None:
        """One more."""
        self.rows += 1
        if self._as_json:
            text = json.dumps(row, indent=2).replace("\n", "\n  ")
            click.echo(("[\n  " if self.rows == 1 else ",\n  ") + text, nl=False)
            return
        self._held.append([safe(cell(row)) for cell in self._columns.values()])
        if len(self._held) > PAGE:
            self._flush()

    def end(self, otherwise: str) -> None:
        """No more. `otherwise` is said on standard error where there were none."""
        if self._as_json:
            click.echo("\n]" if self.rows else "[]")
        elif self.rows:
            self._flush()
        else:
            click.echo(otherwise, err=True)

    def _flush(self) -> None:
        if not self._widths:
            self._widths = [max(len(line[column]) for line in self._held) for column in range(len(self._columns))]
        for line in self._held:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)).rstrip())
        self._held = []


def safe(text: str) -> str:
    """A text for a terminal: what cannot be printed is shown as U+FFFD."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def tell(made: dict[str, Any], said: str, *, as_json: bool) -> None:
    """Say what was done, in words or as JSON."""
    click.echo(json.dumps(made, indent=2) if as_json else safe(said))
