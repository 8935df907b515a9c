"""`vestry audit reconcile`: what all logs together say of each engine, against what it counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vestry.audit.canonical import clean, printable
from vestry.audit.condition import NAME_CHARACTERS, said
from vestry.audit.reading import LogReader
from vestry.audit.reconciling import Sum, sums
from vestry.commands.audit.common import DIRECTORY, directory_of, logs_of, told
from vestry.models.progress import Progress


@click.command("reconcile", short_help="Add up the logs, and compare them with the engines' counters.")
@DIRECTORY
@click.option("--json", "json_wanted", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def command(config: Path | None, directory: Path | None, json_wanted: bool) -> None:
    """Add up the calls in all logs of a directory, by engine, and compare the sums with what each engine counted.

    This is the whole view where several servers use the same engines (`audit.engines_shared`): put copies of their
    audit directories' logs into one directory. What the engines counted stands in the logs' `log.reconciled` records;
    the time between the first and the last of these is compared.

    Exit status: 0 if the records explain the engines' work, 1 if not, 2 if there is nothing to compare.

    \b
    Example:
      vestry audit reconcile --directory /mnt/copies
    """
    with told():
        homes = list(logs_of(directory_of(config, directory)).values())
        total = sum((head.size if (head := LogReader(home).head()) is not None else 0) for home in homes)
        with Progress().bar("reading the logs", 2 * total) as bar:
            found = sums(homes, bar.advance)
    if not found:
        raise click.UsageError("No log holds a reading of an engine's counters, so there is nothing to compare.")
    click.echo(json.dumps([_plain(each) for each in found], indent=2) if json_wanted else _text(found))
    if any(any(each.unexplained) for each in found):
        raise click.exceptions.Exit(1)


def _text(found: list[Sum]) -> str:
    blocks = []
    for each in found:
        restarts = f"; it was started anew {each.restarts} times" if each.restarts else ""
        lines = [
            f"{clean(each.replica, NAME_CHARACTERS)}, from {each.since} to {each.until}{restarts}:",
            f"  the engine counted   {said(each.engine)}",
            f"  the logs explain     {said(each.recorded.least)} at least",
            f"                       {said(each.recorded.most)} at most",
        ]
        if any(each.unexplained):
            lines.append(f"  NO RECORD EXPLAINS   {said(each.unexplained)}")
        if any(each.uncounted):
            lines.append(f"  it did not count     {said(each.uncounted)}")
        blocks.append("\n".join(lines))
    return printable("\n".join(blocks))


def _plain(each: Sum) -> dict[str, Any]:
    return {
        "replica": each.replica,
        "since": each.since,
        "until": each.until,
        "restarts": each.restarts,
        "engine": each.engine._asdict(),
        "least": each.recorded.least._asdict(),
        "most": each.recorded.most._asdict(),
        "unexplained": each.unexplained._asdict(),
        "uncounted": each.uncounted._asdict(),
    }
