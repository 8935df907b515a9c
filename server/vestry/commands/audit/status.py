"""`vestry audit status`: how the audit logs are, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.audit.condition import Condition, as_json, condition, listed, text
from vestry.audit.reading import origins
from vestry.commands.audit.common import DIRECTORY, directory_of, logs_of, told
from vestry.regular import is_folder


@click.command("status", short_help="Show how the audit logs are, and what is wrong.")
@DIRECTORY
@click.option("--json", "json_wanted", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def command(config: Path | None, directory: Path | None, json_wanted: bool) -> None:
    """Show each log's size, its newest checkpoint, what is not covered by it yet, calls in progress, and whether the
    engines' own counters agree with it; then, in words, what is wrong.

    It reads files only, beside a running server or on a copy, and takes no time on a long log. It proves nothing: that
    is what `vestry audit verify` does.

    Exit status: 0 if nothing is wrong, 1 if something is, 2 if there is no log.

    \b
    Examples:
      vestry audit status
      vestry audit status --directory /mnt/copy/audit --json
    """
    with told():
        where = directory_of(config, directory)
        known = listed(where) if is_folder(where) else []
        logs = {} if known and not origins(where) else logs_of(where)
        conditions = [condition(home, origin) for origin, home in logs.items()]
        missing = set(known) - set(logs)
        conditions += [Condition(name, faults=["it stands in the registry, but it is missing"]) for name in missing]
    conditions.sort(key=lambda each: each.origin)
    click.echo(as_json(conditions) if json_wanted else text(conditions))
    if any(each.faults for each in conditions):
        raise click.exceptions.Exit(1)
