"""`vestry keys`: make, see, change and end API keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from vestry.adapters.key_format import well_formed
from vestry.admin.pages import PAGE, paged
from vestry.administration import ChangeRefused, Office, look, make_key
from vestry.audit.records import rfc3339_or_none
from vestry.commands.common import settings_of
from vestry.commands.directory.common import Listing, as_json, as_json_of_new, made_once, safe, told
from vestry.commands.directory.completing import a_key, a_model, a_project, a_tenant
from vestry.commands.directory.showing import COLUMNS, STATES, described, lines, models_of
from vestry.commands.directory.times import SPAN, day, expiry
from vestry.composition.store import key_with
from vestry.errors import NotFound
from vestry.roles import Role
from vestry.types import Key

SORTED = 10_000
"""So many keys at most are put in order before they are shown."""
SPANNED = "vestry.expires-as-a-span"
ROUTES = ("chat.completions", "completions", "models", "model")
ENDED = frozenset({"revoked", "expired"})


def _expiry(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """As `expiry`; whether it was a span is noted."""
    context.meta[SPANNED] = SPAN.fullmatch(value or "") is not None
    return expiry(context, option, value)


@click.command("create", short_help="Make a key, and show it once.")
@click.option("--owner", required=True, help="Who holds the key: a person or a program.")
@click.option(
    "--tenant",
    shell_complete=a_tenant,
    help="Tenant that the key belongs to. May be left out where there is only one.",
)
@click.option("--project", shell_complete=a_project, help="Project of the tenant that its calls belong to.")
@click.option(
    "--model",
    "models",
    multiple=True,
    shell_complete=a_model,
    help="Model that the key may use; may be repeated. Default: all.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    type=click.Choice(ROUTES),
    help="Route that the key may be used for; may be repeated. Default: all.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NETWORK",
    help="Address or network (10.0.0.0/8) that it may be used from; may be repeated. Default: any.",
)
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
    "roles",
    multiple=True,
    type=click.Choice([each.value for each in Role]),
    default=["user"],
    show_default=True,
    help="What its holder is here; may be repeated. docs/roles.md says what each may do.",
)
@made_once
@as_json_of_new
@click.pass_context
def create(
    context: click.Context,
    /,
    *,
    tenant: str | None,
    expires: int | None,
    idempotency_key: str,
    as_json: bool,
    **asked: Any,
) -> None:
    """Make a key and print it, alone, on standard output. It cannot be shown again.

    Without --concurrency and --requests-per-minute the tenant's bounds for keys hold. Days are days in UTC.

    \b
    Examples:
      KEY=$(vestry keys create --owner alice --tenant radiology --expires 90d)
      vestry keys create --owner triage-bot --model smollm2-135m-instruct --requests-per-minute 60
      vestry keys create --owner night-batch --project reports --route chat.completions --source 10.20.0.0/16
    """
    settings = settings_of(context.obj)
    if idempotency_key and context.meta[SPANNED]:
        raise click.UsageError(
            "With --idempotency-key give --expires as a day or a time: a span is another time when it is asked again."
        )
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
    for name in ("models", "routes"):
        body[name] = body[name] or None
    with told():
        body["expires"] = rfc3339_or_none(expires)
        secret, key = make_key(settings, tenant, body, token=idempotency_key)
    if as_json:
        click.echo(json.dumps({"key": secret, **described(key, [key.tenant])}, indent=2))
        return
    if secret is None:
        click.echo(
            f"{key.id} was made with this token before: {safe(key.owner)}, of the tenant {key.tenant}. "
            "It was shown then.",
            err=True,
        )
        return
    click.echo(secret)
    click.echo(
        f"{key.id} is the key of {key.owner} in the tenant {key.tenant}. Models: {models_of(key)}. "
        f"Expires: {day(key.expires)}.\n"
        f"This is the only time it is shown. To revoke it: vestry keys revoke {key.id}",
        err=True,
    )


@click.command("list", short_help="List keys, without their secrets.")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired keys as well.")
@click.option("--tenant", shell_complete=a_tenant, help="Only those of this tenant.")
@click.option("--owner", help="Only those of this owner.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only those in this state; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def listed(
    config: Path | None,
    /,
    *,
    everything: bool,
    tenant: str | None,
    owner: str | None,
    states: tuple[str, ...],
    as_json: bool,
) -> None:
    """List the keys that work, oldest first; where there are more than ten thousand, by their ids.

    A key whose tenant is neither in the settings nor in the directory is listed with the state `no-tenant`: it does
    not work.

    \b
    Examples:
      vestry keys list
      vestry keys list --all --json
      vestry keys list --tenant radiology --state frozen
    """
    settings = settings_of(config)

    def wanted(row: dict[str, Any]) -> bool:
        chosen = row["state"] in states if states else everything or row["state"] not in ENDED
        return chosen and owner in {None, row["owner"]}

    async def go(office: Office) -> None:
        tenants = await office.tenants()
        home = None if tenant is None or await _is_key_tenant(office, tenant) else await office.tenant(tenant)
        shown = Listing(COLUMNS, as_json=as_json)
        held: list[Key] = []
        pages = paged(lambda after: office.keys.page(office.actor, home or tenant, after, PAGE), lambda key: key.id)
        async for key in pages:
            if not wanted(described(key, tenants)):
                continue
            if len(held) < SORTED:
                held.append(key)
                continue
            for each in (*held, key) if not shown.rows else (key,):
                shown.row(described(each, tenants))
        if not shown.rows:
            for each in sorted(held, key=lambda key: (key.created, key.id)):
                shown.row(described(each, tenants))
        shown.end("There are no keys to show. Make one with: vestry keys create --owner NAME")

    with told():
        look(settings, go)


async def _is_key_tenant(office: Office, tenant: str) -> bool:
    """Whether there are keys of a tenant, be it there or not: keys outlive a tenant of the settings."""
    return bool(await office.keys.page(office.actor, tenant, "", 1))


@click.command("show", short_help="Show a key, without its secret.")
@click.argument("key_id", shell_complete=a_key)
@as_json
@click.pass_obj
def show(config: Path | None, key_id: str, as_json: bool) -> None:
    """Show what is known of a key, by its id.

    \b
    Examples:
      vestry keys show key_8CzYx2m1QkT0bW4E
      vestry keys show key_8CzYx2m1QkT0bW4E --json
    """
    _shown(config, key_id, as_json=as_json)


@click.command("identify", short_help="Say whose a key is.")
@click.argument("key", required=False)
@as_json
@click.pass_obj
def identify(config: Path | None, key: str | None, as_json: bool) -> None:
    """Say which key a text is, be it revoked or expired. The text is not printed, and nothing is changed.

    Without an argument the key is asked for, or read from standard input: what stands in a command line can be seen by
    others on this machine, and stays in the shell's history.

    \b
    Examples:
      vestry keys identify < found.txt
      vestry keys identify --json < found.txt
    """
    if key is None:
        asks = sys.stdin.isatty()
        key = click.prompt("Key", hide_input=True, err=True) if asks else _found(sys.stdin.buffer)
    text = str(key).strip()
    if not well_formed(text):
        raise click.ClickException("This is no key: give it alone and whole, `vst_` and 49 letters and digits.")

    async def find(office: Office) -> str:
        found = await key_with(office.directory, text)
        if found is None:
            raise ChangeRefused("There is no such key here.")
        return found.id

    settings = settings_of(config)
    with told():
        found = look(settings, find)
    _shown(config, found, as_json=as_json)


def _found(stream: BinaryIO) -> str:
    """The beginning of what was found, in whatever encoding: a key is plain ASCII."""
    return stream.read(4096).decode("ascii", errors="replace")


def _shown(config: Path | None, key_id: str, *, as_json: bool) -> None:
    settings = settings_of(config)

    async def read(office: Office) -> tuple[Key, list[str]]:
        try:
            return await office.keys.read(office.actor, key_id), await office.tenants()
        except NotFound:
            raise ChangeRefused("No key has this id.") from None

    with told():
        key, tenants = look(settings, read)
    row = described(key, tenants)
    click.echo(json.dumps(row, indent=2) if as_json else lines(row))
