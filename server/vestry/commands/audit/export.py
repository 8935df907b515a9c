"""`vestry audit export`: records for other systems, as a file or a stream."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from vestry.audit.export.formats import FORMATS, Render
from vestry.audit.finding.search import Found
from vestry.commands.audit.looking import Reading, filter_of, options, place_of, told
from vestry.models.progress import Progress


@click.command("export", short_help="Export records as JSON Lines, OCSF or CEF.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="jsonl", show_default=True, help="Format.")
@options
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write to this new file, readable for you alone. Left out, or -: standard output.",
)
@click.pass_obj
def command(
    config: Path | None,
    /,
    *,
    form: str,
    directory: Path | None,
    copy: Path | None,
    no_index: bool,
    output: Path | None,
    **asked: Any,
) -> None:
    """Export records of the audit log, one a line, oldest first.

    jsonl is the records themselves; ocsf is OCSF 1.8.0 (API Activity and others, with the AI operation profile); cef
    is ArcSight's Common Event Format. The options are those of `vestry audit show`, and the export is recorded in the
    log as well. To send records on as they are written, see the setting `audit.exports`.

    \b
    Examples:
      vestry audit export --since 2027-01-01 --until 2027-02-01 --output january.jsonl
      vestry audit export --format ocsf --tenant radiology | gzip > radiology.ocsf.gz
    """
    wanted = filter_of(asked)
    place = place_of(config, directory, copy, wanted.origins)
    output = None if str(output) == "-" else output
    if output is not None and os.path.lexists(output):
        raise click.BadParameter(f"{output} is there already", param_hint="--output")
    reading = Reading(place, wanted, use_index=not no_index, progress=Progress())
    records = reading.begin(f"audit export --format {form}")
    if output is None:
        _write(records, FORMATS[form], sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f".vestry-{secrets.token_hex(8)}")
    try:
        with _tidied(draft):
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                count = _write(records, FORMATS[form], file)
                file.flush()
                os.fsync(file.fileno())
            _put(draft, output)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}.") from None
    click.echo(f"{count} records are in {output}.", err=True)


@contextlib.contextmanager
def _tidied(draft: Path) -> Iterator[None]:
    """Records are left under no other name than the one that was asked for, though SIGTERM comes, or SIGHUP: the end of
    a terminal or of its connection, which nohup ignores.
    """
    ending = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    before = {each: signal.signal(each, lambda number, _frame: sys.exit(128 + number)) for each in ending}
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
        for each, way in before.items():
            signal.signal(each, way)


def _put(draft: Path, output: Path) -> None:
    """Give a whole file its name, if nothing has it. Raises OSError."""
    try:
        os.link(draft, output)  # unlike a rename, it takes nothing away
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, as of most memory sticks: the name is taken first
        os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            draft.replace(output)
        except OSError:
            output.unlink()  # it is empty, and would keep the name from the next try
            raise


def _write(records: Iterable[Found], render: Render, file: IO[bytes]) -> int:
    count = 0
    with told():
        for found in records:
            file.write(render(found.leaf) + b"\n")
            count += 1
    return count
