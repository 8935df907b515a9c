"""`vestry audit erase`: destroy what is kept of a person."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from vestry.audit.canonical import printable
from vestry.audit.records import microseconds_of, rfc3339
from vestry.commands.common import settings_of
from vestry.composition.custody import Refused, erase


def _time(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """A time as records have it."""
    if value is None:
        return None
    said = "write a date as 2027-01-31 (its beginning, in UTC) or a time as 2027-01-31T18:00:00Z"
    try:
        moment = datetime.fromisoformat(value)
        if len(value) == len("2027-01-31"):
            moment = moment.replace(tzinfo=UTC)
        if moment.tzinfo is None:
            raise click.BadParameter(said)
        return rfc3339(microseconds_of(moment.astimezone(UTC).isoformat()))
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(said) from None


@click.command("erase", short_help="Destroy what is kept of a person's prompts and answers.")
@click.option("--subject", required=True, help="Whose: the key's owner, or whom a token or certificate names.")
@click.option("--tenant", help="Only in this tenant. Left out: in every one.")
@click.option("--before", metavar="TIME", callback=_time, help="Only what was kept before this time.")
@click.option("--reason", required=True, help="Why: it stands in the record of the erasure.")
@click.pass_obj
def command(config: Path | None, *, subject: str, tenant: str | None, before: str | None, reason: str) -> None:
    """Destroy the keys, plain texts and salts of what is kept of a subject, so that nobody can open it any more.

    That, and why, is recorded first. The records of the calls themselves stay, and the log still verifies; `vestry
    audit open` says of them that their content was erased. The server may run meanwhile. What is under legal hold
    (`audit.holds`) is refused. If this was broken off, run it again: it ends what was begun. Exit status: 0 done,
    1 refused, or a damaged file may keep more.

    \b
    Example:
      vestry audit erase --subject alice --tenant radiology --reason 'request of 31 January, GDPR art. 17'
    """
    settings = settings_of(config)
    for name, value in (("--subject", subject), ("--reason", reason)):
        if not value.strip():
            raise click.UsageError(f"{name} is empty")
    try:
        done = erase(settings, settings.audit_directory, subject=subject, tenant=tenant, before=before, reason=reason)
    except Refused as fault:
        raise click.ClickException(str(fault)) from None
    if done.count:
        click.echo(printable(f"{done.count} content{'s' * (done.count != 1)} of `{subject}` erased."))
    else:
        click.echo(printable(f"Nothing is kept of `{subject}`, or it was erased before."))
    for name in done.alike:
        said = f"Something is kept of `{name}`, which differs in case, spaces or accents alone: it was left."
        click.echo(printable(said), err=True)
    for sentence in done.damaged:
        click.echo(sentence, err=True)
    if done.damaged:
        raise click.exceptions.Exit(1)
