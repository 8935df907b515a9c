"""`vestry audit index`: the index beside the log."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.audit.canonical import printable
from vestry.audit.finding.index import IndexUnusable, opened
from vestry.audit.finding.walk import Walker
from vestry.commands.audit.looking import place_of, told, where
from vestry.commands.unusable import Unusable
from vestry.models.progress import Progress


@click.command("index", short_help="Bring the index beside the log up to date, or make it anew.")
@click.option("--rebuild", is_flag=True, help="Make it anew from the log.")
@click.option("--origin", multiple=True, help="Which log; may be repeated. Left out: all.")
@where
@click.pass_obj
def command(
    config: Path | None, *, rebuild: bool, origin: tuple[str, ...], directory: Path | None, copy: Path | None
) -> None:
    """Bring the index that `show` and `export` look into up to date.

    They do so by themselves when they are used, so this is for a log that is long already, or an index that is not
    trusted. The index holds nothing that is not in the log, and can be deleted at any time.
    """
    place = place_of(config, directory, copy, frozenset(origin))
    progress = Progress()
    for name, home in place.logs.items():
        path = place.index(name)
        try:
            with told():
                walker = Walker(home)
                with opened(walker, path, rebuild=rebuild) as index:
                    if due := index.due():
                        with progress.bar(f"indexing {name}", due) as bar:
                            index.grow(bar.advance)
                    said = f"{name}: {index.end} of {walker.end()} records are in {path}; the rest is read."
        except IndexUnusable as error:
            raise Unusable(f"{str(error)[0].upper()}{str(error)[1:]}.") from None
        click.echo(printable(said))
