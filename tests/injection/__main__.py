"""`make audit-faults`: every fault at every place, with a table for docs/audit.md."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from injection.runs import CALLS, FAULTS, Fault, Result, history, run

WHEN = ("1", "2", "3", "4", "6", "9", "14", "20", "1+", "5+")


def main() -> int:
    """The exit status: 1 if a record was lost."""
    logging.disable()
    faults = [Fault(call, kind, when) for call in CALLS for kind in FAULTS for when in WHEN]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        before = history(Path(folder) / "before")
        running = pool.map(lambda pair: run(before, Path(folder) / str(pair[0]), pair[1]), enumerate(faults))
        with click.progressbar(running, length=len(faults), label="runs", file=sys.stderr) as bar:
            results = list(bar)
    for each in results:
        for name in each.lost:
            click.echo(f"LOST by {each.fault}: {name}", err=True)
    click.echo("| system call | runs | killed | refused to open | records acknowledged | records lost |")
    click.echo("| --- | --- | --- | --- | --- | --- |")
    for call in CALLS:
        click.echo(_row(call.partition(",")[0], [each for each in results if each.fault.call == call]))
    click.echo(_row("all", results))
    return int(any(each.lost for each in results))


def _row(name: str, results: list[Result]) -> str:
    statuses = Counter(each.status for each in results)
    acknowledged, lost = sum(each.acknowledged for each in results), sum(len(each.lost) for each in results)
    cells = (name, len(results), statuses[-9] + statuses[137], statuses[3], f"{acknowledged:,}", lost)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
