"""`vestry keys`: make, list and revoke API keys."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import click

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.memory import wall
from vestry.administration import ChangeRefused, create_key, existing_keys, identified, revoke_key
from vestry.audit.records import rfc3339
from vestry.commands.common import BadSettings, settings_of
from vestry.faults import ConfigurationError
from vestry.roles import named
from vestry.settings import Settings
from vestry.types import Key, Limits

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LONGEST = timedelta(days=36_525)
ROLES = ("user", "admin")


def _expiry(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """A time to come, in microseconds since the epoch; None for `never`."""
    if value is None or value == "never":
        return None
    moment = datetime.now(UTC)
    try:
        until = _until(value, moment)
    except (ValueError, OverflowError):
        said = "write 12h, 90d, 26w, a date as 2027-01-31, a time as 2027-01-31T18:00:00Z, or never"
        raise click.BadParameter(said) from None
    if until <= moment:
        raise click.BadParameter("that time has passed")
    if until > moment + _LONGEST:
        raise click.BadParameter("that is more than a hundred years away; write never")
    return round(until.timestamp() * 1_000_000)


def _until(text: str, moment: datetime) -> datetime:
    """Raises ValueError for what is no time, OverflowError for one beyond the calendar."""
    if span := re.fullmatch(r"([0-9]{1,6})([hdw])", text):
        return moment + int(span[1]) * _UNITS[span[2]]
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return datetime.combine(datetime.fromisoformat(text), time(), UTC) + timedelta(days=1)
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    return found


@click.group("keys", short_help="Make, list and revoke API keys.")
def command() -> None:
    """Make, list and revoke API keys.

    A key belongs to a person or program (its owner) in a tenant of the settings. Only a keyed hash of it is stored,
    so it is shown once, when it is made. Every change is written to the audit log before it takes effect; a running
    server acts on it with its next call.

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option or faulty settings.
    """


@command.command("create", short_help="Make a key, and show it once.")
@click.option("--owner", required=True, help="Who holds the key: a person or a program.")
@click.option("--tenant", help="Tenant that the key belongs to. May be left out where there is only one.")
@click.option("--model", "models", multiple=True, help="Model that the key may use; may be repeated. Default: all.")
@click.option(
    "--expires",
    metavar="WHEN",
    callback=_expiry,
    help="12h, 90d, 26w, a last day (2027-01-31), a time, or never (the default).",
)
@click.option("--concurrency", type=click.IntRange(1, 100_000), help="Calls in progress at once.")
@click.option("--requests-per-minute", type=click.IntRange(1, 10_000_000), help="Calls begun in a minute.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="user",
    show_default=True,
    help="`admin` is for administration; to the API both are alike.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the key and what is known of it as JSON.")
@click.pass_obj
def create(
    config: Path | None,
    *,
    owner: str,
    tenant: str | None,
    models: tuple[str, ...],
    expires: int | None,
    concurrency: int | None,
    requests_per_minute: int | None,
    role: str,
    as_json: bool,
) -> None:
    """Make a key and print it, alone, on standard output. It cannot be shown again.

    Without --concurrency and --requests-per-minute the tenant's bounds for keys hold. Days are days in UTC.

    \b
    Examples:
      KEY=$(vestry keys create --owner alice --tenant radiology --expires 90d)
      vestry keys create --owner triage-bot --model smollm2-135m-instruct --requests-per-minute 60
    """
    settings = settings_of(config)
    with told():
        secret, key = create_key(
            settings,
            owner=owner,
            tenant=tenant,
            role=role,
            models=models or None,
            limits=Limits(concurrency, requests_per_minute),
            expires=expires,
        )
    if as_json:
        click.echo(json.dumps({"key": secret, **_described(key, settings)}, indent=2))
        return
    click.echo(secret)
    click.echo(
        f"{key.id} is the key of {key.owner} in the tenant {key.tenant}. Models: {_models(key)}. "
        f"Expires: {_day(key.expires)}.\n"
        f"This is the only time it is shown. To revoke it: vestry keys revoke {key.id}",
        err=True,
    )


@command.command("list", short_help="List keys, without their secrets.")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired keys as well.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def show(config: Path | None, everything: bool, as_json: bool) -> None:
    """List the keys that work, oldest first.

    A key whose tenant is no longer in the settings is listed with the state `no-tenant`: it does not work.

    \b
    Examples:
      vestry keys list
      vestry keys list --all --json
    """
    settings = settings_of(config)
    with told():
        rows = [_described(key, settings) for key in existing_keys(settings)]
    shown = [row for row in rows if everything or row["state"] not in {"revoked", "expired"}]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    if not shown:
        click.echo("There are no keys to show. Make one with: vestry keys create --owner NAME", err=True)
        return
    click.echo(_table(shown))


@command.command("revoke", short_help="Revoke keys, at once.")
@click.argument("keys", metavar="KEY_ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.pass_obj
def revoke(config: Path | None, keys: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Revoke keys by their ids. A running server refuses them from its next call on.

    A key that turned up where it should not be may be given itself (vst_...) instead of its id. Ids that there are
    not do not keep the others from being revoked; the exit status is then 1.

    \b
    Examples:
      vestry keys revoke key_8CzYx2m1QkT0bW4E
      vestry keys revoke key_8CzYx2m1QkT0bW4E --reason "laptop lost"
    """
    settings = settings_of(config)
    with told():
        known = {key.id: key for key in existing_keys(settings)}
        ids = dict.fromkeys(_id_of(settings, given) for given in keys)
        done = [_revoked(settings, key_id, known, reason) for key_id in ids]
    if as_json:
        click.echo(json.dumps(done, indent=2))
    for row in done:
        if "why" in row:
            click.echo(f"Error: {row['why']}", err=True)
        elif not as_json or row["result"] == "unknown":
            said = {"revoked": "revoked", "already": "was revoked before", "unknown": "no key has this id"}
            click.echo(f"{row['id']}: {said[row['result']]}", err=row["result"] == "unknown")
    if any(row["result"] in {"unknown", "refused"} for row in done):
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong in here ends the command with its sentence: status 2 for settings and secrets, else 1."""
    try:
        yield
    except ConfigurationError as error:
        raise BadSettings(error.faults) from None
    except ChangeRefused as error:
        raise click.ClickException(str(error)) from None
    except DirectoryFault as error:
        raise click.ClickException(f"{error.why}.") from None


def _revoked(settings: Settings, key_id: str, known: dict[str, Key], reason: str) -> dict[str, str]:
    """What came of one id. A refusal does not keep the others from being revoked."""
    if key_id not in known:
        return {"id": key_id, "result": "unknown"}
    try:
        return {"id": key_id, "result": "revoked" if revoke_key(settings, key_id, reason=reason) else "already"}
    except ChangeRefused as error:
        return {"id": key_id, "result": "refused", "why": str(error)}


def _id_of(settings: Settings, given: str) -> str:
    """The id of what may be a key itself, which is never printed."""
    if given.startswith("vst_"):
        key = identified(settings, given)
        return "(an unknown key)" if key is None else key.id
    return given if len(given) <= 64 and given.isprintable() else "(not an id)"


def _described(key: Key, settings: Settings) -> dict[str, Any]:
    state = key.state(wall())
    return {
        "id": key.id,
        "owner": key.owner,
        "tenant": key.tenant,
        "role": named(key.roles),
        "models": None if key.models is None else sorted(key.models),
        "concurrency": key.limits.concurrency,
        "requests_per_minute": key.limits.requests_per_minute,
        "state": "no-tenant" if state == "active" and key.tenant not in settings.tenants else state,
        "created": rfc3339(key.created),
        "expires": None if key.expires is None else rfc3339(key.expires),
        "revoked": None if key.revoked is None else rfc3339(key.revoked),
    }


def _models(key: Key) -> str:
    return "all of the tenant's" if key.models is None else ", ".join(sorted(key.models))


def _day(time: int | None) -> str:
    return "never" if time is None else f"{datetime.fromtimestamp(time / 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"


def _table(rows: list[dict[str, Any]]) -> str:
    heads = ("id", "owner", "tenant", "role", "models", "state", "expires")
    cells = [[head.upper() for head in heads]]
    for row in rows:
        shown = {**row, "models": ",".join(row["models"] or ["*"]), "expires": (row["expires"] or "never")[:16]}
        cells.append([str(shown[head]) for head in heads])
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
