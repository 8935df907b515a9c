"""`vestry audit show`: find records, and show them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from vestry.audit.canonical import clean, cut
from vestry.audit.finding.search import Found
from vestry.audit.scan import LogDamaged
from vestry.commands.audit.looking import MOST, Reading, filter_of, options, place_of, told
from vestry.models.progress import Progress

FOLLOW_SECONDS = 0.5
_SHOWN = (
    "tenant", "subject", "actor", "key_id", "role", "source", "model", "method", "route", "stream", "status", "ending",
    "code", "reason", "cause", "prompt_tokens", "completion_tokens", "finish_reasons", "duration_us", "replica",
    "total", "version", "command", "filter", "records", "request_id",
)  # fmt: skip
_WIDTH = 160


@click.command("show", short_help="Find records, and show them.")
@options
@click.option("--limit", type=click.IntRange(1, MOST), help="Only the newest so many.")
@click.option("--reverse", is_flag=True, help="Newest first.")
@click.option("--json", "as_json", is_flag=True, help="The records as they stand in the log, one a line.")
@click.option("--follow", is_flag=True, help="Go on showing records as they come. Ctrl-C ends it.")
@click.pass_obj
def command(
    config: Path | None,
    /,
    *,
    directory: Path | None,
    copy: Path | None,
    no_index: bool,
    limit: int | None,
    reverse: bool,
    as_json: bool,
    follow: bool,
    **asked: Any,
) -> None:
    """Find records in the audit log, and show them, newest last.

    Options of the same name are alternatives, different ones narrow each other. Every record that is shown was read
    from the log itself; an index beside the log only says where to look. That you read the log is recorded in it
    first (`log.read`); if it cannot be, nothing is shown. `show` does not verify the log.

    \b
    Examples:
      vestry audit show --since 24h --tenant radiology --outcome failed
      vestry audit show --request-id 0198c0de-7f3a --json
      vestry audit show --type refusal --code invalid_api_key --limit 20
      vestry audit show --copy /mnt/evidence/audit --since 2027-01-01 --until 2027-02-01
    """
    if follow and reverse:
        raise click.UsageError("--follow shows what comes last at the end: leave --reverse out.")
    wanted = filter_of(asked)
    place = place_of(config, directory, copy, wanted.origins)
    reading = Reading(place, wanted, use_index=not no_index, progress=Progress())
    name = "audit show --follow" if follow else "audit show"
    _print(reading.begin(name, limit=limit, newest_first=reverse), as_json=as_json)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # how it ends
            while True:
                time.sleep(FOLLOW_SECONDS)
                _print(reading.following(), as_json=as_json)


def _print(records: Iterable[Found], *, as_json: bool) -> None:
    with told():
        for found in records:
            click.echo(found.leaf if as_json else line_of(found))


def line_of(found: Found) -> str:
    """A record as a line for people: time, place, type, and what matters of the rest. Printable, whatever it holds.

    Raises LogDamaged: a filter has not looked at all of it.
    """
    try:
        record = msgspec.json.decode(found.leaf)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LogDamaged(f"Record {found.index} of `{found.origin}` is damaged: it is no record ({error}).") from error
    shown = [f"{name}={_text(record[name])}" for name in _SHOWN if name in record]
    place = f"{found.origin}#{found.index}"
    return f"{clean(record['time'], _WIDTH)}  {place:<16}  {clean(record['type'], _WIDTH):<16}  {' '.join(shown)}"


def _text(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    shown = cut(text, _WIDTH) if text.isprintable() else clean(text, _WIDTH)
    return f'"{shown}"' if " " in shown else shown
