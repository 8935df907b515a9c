"""`make audit-faults`: every fault at every place, with a table for docs/audit.md."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from injection.runs import CALLS, FAULTS, Fault, History, NotStruck, Result, history, made, run

WHEN = ("1", "2", "3", "4", "6", "9", "14", "20", "1+", "5+")
MOST = 20


def main() -> int:
    """The exit status: 1 if a record was lost, 2 if a fault of the table did not strike."""
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        before = history(Path(folder) / "before")
        try:
            results = list(_runs(before, Path(folder)))
        except NotStruck as fault:
            click.echo(f"The table is wrong. {fault}", err=True)
            return 2
    for each in results:
        for name in each.lost:
            click.echo(f"LOST by {each.fault}: {name}", err=True)
    click.echo("| system call | runs | calls struck | killed | refused to open | records acknowledged | records lost |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    for call in CALLS:
        click.echo(_row(call.partition(",")[0], [each for each in results if each.fault.call == call]))
    click.echo(_row("all", results))
    return int(any(each.lost for each in results))


def _runs(before: History, folder: Path) -> Iterator[Result]:
    """Every run, after a look whether each call is made as often as the table says. Raises NotStruck."""
    faults = [Fault(call, kind, when) for call in CALLS for kind in FAULTS for when in WHEN]
    with ThreadPoolExecutor(2) as pool:
        counts = pool.map(lambda call: made(before, folder / call.partition(",")[0], call), CALLS)
        for call, count in zip(CALLS, counts, strict=True):
            if count < MOST:
                raise NotStruck(f"{call} is made {count} times where nothing fails, not {MOST} times.")
        running = pool.map(lambda pair: run(before, folder / str(pair[0]), pair[1]), enumerate(faults))
        with click.progressbar(running, length=len(faults), label="runs", file=sys.stderr) as bar:
            yield from bar


def _row(name: str, results: list[Result]) -> str:
    statuses = Counter(each.status for each in results)
    struck, acknowledged = sum(each.struck for each in results), sum(each.acknowledged for each in results)
    lost = sum(len(each.lost) for each in results)
    cells = (name, len(results), f"{struck:,}", statuses[-9] + statuses[137], statuses[3], f"{acknowledged:,}", lost)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
