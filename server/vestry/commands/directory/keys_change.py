"""`vestry keys update|freeze|thaw|rotate|revoke`: what becomes of keys that there are."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vestry.admin.bodies import KeyBody
from vestry.admin.events import described as body_of_key
from vestry.administration import ChangeRefused, Office, change, exists
from vestry.audit.records import rfc3339_or_none
from vestry.commands.common import settings_of
from vestry.commands.directory.bodies import body_of, composed, from_file, given, options_of
from vestry.commands.directory.common import as_json, as_json_of_new, if_version, made_once, match_of, safe, told
from vestry.commands.directory.completing import a_key
from vestry.commands.directory.showing import described
from vestry.commands.directory.times import day, expiry, span
from vestry.composition.store import key_with
from vestry.errors import NotFound, PreconditionFailed, Refusal
from vestry.settings.tree import Settings
from vestry.types import Key

WORDS = {
    "revoked": ("revoked", "was revoked before"),
    "frozen": ("frozen", "was frozen before"),
    "thawed": ("thawed", "was not frozen"),
}
T = TypeVar("T")
Act = Callable[[Office, str], Awaitable[tuple[Key, bool]]]
several = click.argument("keys", metavar="KEY_ID...", nargs=-1, required=True, shell_complete=a_key)
why = click.option("--reason", default="", help="Why, for the record.")
report = click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")


@click.command("revoke", short_help="Revoke keys, at once.")
@several
@why
@report
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
    _each(
        config, keys, lambda office, key_id: office.keys.revoke(office.actor, key_id, reason=reason), "revoked", as_json
    )


@click.command("freeze", short_help="Refuse keys until they are thawed.")
@several
@why
@report
@click.pass_obj
def freeze(config: Path | None, keys: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Refuse keys from the next call on, until they are thawed: for one that may have leaked, or is not to be used now.

    A key itself (vst_...) may be given instead of its id.

    \b
    Examples:
      vestry keys freeze key_8CzYx2m1QkT0bW4E --reason "looks odd"
    """

    def act(office: Office, key_id: str) -> Awaitable[tuple[Key, bool]]:
        return office.keys.freeze(office.actor, key_id, frozen=True, reason=reason)

    _each(config, keys, act, "frozen", as_json)


@click.command("thaw", short_help="Let frozen keys work again.")
@several
@why
@report
@click.pass_obj
def thaw(config: Path | None, keys: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Let frozen keys work again.

    \b
    Examples:
      vestry keys thaw key_8CzYx2m1QkT0bW4E
    """

    def act(office: Office, key_id: str) -> Awaitable[tuple[Key, bool]]:
        return office.keys.freeze(office.actor, key_id, frozen=False, reason=reason)

    _each(config, keys, act, "thawed", as_json)


def _each(config: Path | None, keys: tuple[str, ...], act: Act, done: str, as_json: bool) -> None:
    """Do it to each of them, and say what came of each."""
    settings = settings_of(config)

    async def do(office: Office) -> list[dict[str, str]]:
        ids = dict.fromkeys([await _id_of(office, given) for given in keys])
        return [await _done(office, key_id, act, done) for key_id in ids]

    with told():
        if exists(settings):
            rows = change(settings, do)
        else:
            rows = [{"id": key_id, "result": "unknown"} for key_id in dict.fromkeys(map(_shown, keys))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    for row in rows:
        if "why" in row:
            click.echo(f"Error: {row['why']}", err=True)
        elif not as_json or row["result"] == "unknown":
            fresh, before = WORDS[done]
            said = {done: fresh, "already": before, "unknown": "no key has this id"}
            click.echo(f"{row['id']}: {said[row['result']]}", err=row["result"] == "unknown")
    if any(row["result"] in {"unknown", "refused"} for row in rows):
        raise click.exceptions.Exit(1)


async def _done(office: Office, key_id: str, act: Act, done: str) -> dict[str, str]:
    """What came of one id. A refusal does not keep the others from being served."""
    try:
        _, changed = await act(office, key_id)
    except NotFound:
        return {"id": key_id, "result": "unknown"}
    except ChangeRefused as error:
        return {"id": key_id, "result": "refused", "why": str(error)}
    except Refusal as refusal:
        return {"id": key_id, "result": "refused", "why": f"{key_id}: {getattr(refusal, 'why', refusal.reason)}"}
    return {"id": key_id, "result": done if changed else "already"}


async def _id_of(office: Office, given: str) -> str:
    """The id of what may be a key itself, which is never printed."""
    if given.startswith("vst_"):
        key = await key_with(office.directory, given)
        return _shown(given) if key is None else key.id
    return _shown(given)


def _shown(given: str) -> str:
    if given.startswith("vst_"):
        return "(an unknown key)"
    return given if len(given) <= 64 and given.isprintable() else "(not an id)"


@click.command("rotate", short_help="Make a key that takes over from another, and show it once.")
@click.argument("key_id", shell_complete=a_key)
@click.option(
    "--overlap",
    default="24h",
    show_default=True,
    callback=span,
    help="How long the old key works on: 0s, 30m, 24h, 7d; 30 days at most.",
)
@why
@made_once
@as_json_of_new
@click.pass_obj
def rotate(
    config: Path | None, /, *, key_id: str, overlap: int, reason: str, idempotency_key: str, as_json: bool
) -> None:
    """Make a key with the same owner, rights and bounds, and print it, alone, on standard output.

    The old key works as long as --overlap says, and then expires. The new one cannot be shown again. Of a frozen key
    the new one is frozen too: thaw it when it may be used.

    \b
    Examples:
      NEW=$(vestry keys rotate key_8CzYx2m1QkT0bW4E --overlap 24h)
      vestry keys rotate key_8CzYx2m1QkT0bW4E --overlap 0s --reason "laptop lost"
    """
    settings = settings_of(config)

    async def do(office: Office) -> tuple[str | None, Key, Key]:
        await _found(office, key_id)
        secret, key = await office.keys.rotate(
            office.actor, key_id, overlap_seconds=overlap, token=idempotency_key, reason=reason
        )
        return secret, key, await _found(office, key_id)

    with told():
        secret, key, old = _known(settings, do)
    if as_json:
        click.echo(json.dumps({"key": secret, **described(key, [key.tenant])}, indent=2))
        return
    if secret is None:
        click.echo(f"{key.id} was made with this token before. It was shown then.", err=True)
        return
    click.echo(secret)
    click.echo(
        f"{key.id} takes over from {old.id}, which {_ends(old)}. Owner: {safe(key.owner)}; tenant: "
        f"{key.tenant}.\nThis is the only time it is shown.",
        err=True,
    )
    if key.frozen is not None:
        click.echo(f"It is frozen, as the old one is. When it may be used: vestry keys thaw {key.id}", err=True)


def _ends(old: Key) -> str:
    until = day(old.expires)
    return f"works until {until}" if old.frozen is None else f"is frozen, and expires at {until}"


def _expires(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A time for the body; `never` is one too, and None is no change."""
    if value in {None, "never"}:
        return value
    return rfc3339_or_none(expiry(context, option, value))


def _update_options(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Any = options_of(KeyBody)(function)
    made.__click_params__ = [each for each in made.__click_params__ if each.name != "expires"]
    return click.option(  # type: ignore[no-any-return]
        "--expires", metavar="WHEN", callback=_expires, help="12h, 90d, 26w, a last day (2027-01-31), a time, or never."
    )(made)


@click.command("update", short_help="Change what a key may do.")
@click.argument("key_id", shell_complete=a_key)
@_update_options
@from_file
@if_version
@as_json
@click.pass_obj
def update(
    config: Path | None,
    /,
    *,
    key_id: str,
    unset: tuple[str, ...],
    file: Path | None,
    if_version: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Change owner, rights or bounds of a key. What no option names stays as it is; a file is the whole of it.

    Lists are given whole: after `--model a` the key may use that model alone.

    \b
    Examples:
      vestry keys update key_8CzYx2m1QkT0bW4E --expires 90d --requests-per-minute 60
      vestry keys update key_8CzYx2m1QkT0bW4E --unset models --if-version 2
    """
    settings = settings_of(config)
    if file is not None and (given(options) or unset):
        raise click.UsageError("Give the whole with --file, or its parts with options; not both.")
    whole = None if file is None else body_of(file)
    if options.get("expires") == "never":
        options, unset = {**options, "expires": None}, (*unset, "expires")

    async def do(office: Office) -> tuple[Key, bool]:
        before = await _found(office, key_id)
        kept = {name: value for name, value in body_of_key(before).items() if name in KeyBody.model_fields}
        body = composed(kept, options, unset) if whole is None else whole
        match = match_of(before.version if if_version is None else if_version)
        try:
            return await office.keys.change(office.actor, key_id, body, match)
        except PreconditionFailed:
            said = f"Nothing was changed: the key has version {before.version}, and not {if_version}. Read it again."
            raise ChangeRefused(said) from None

    with told():
        key, changed = _known(settings, do)
    if as_json:
        click.echo(json.dumps({**described(key, [key.tenant]), "changed": changed}, indent=2))
    else:
        click.echo(f"{key.id}: {'changed' if changed else 'is so already'} (version {key.version})")


async def _found(office: Office, key_id: str) -> Key:
    try:
        return await office.keys.read(office.actor, key_id)
    except NotFound:
        raise ChangeRefused("No key has this id.") from None


def _known(settings: Settings, do: Callable[[Office], Awaitable[T]]) -> T:
    """What this comes to, in a store that there is. Raises ChangeRefused."""
    if not exists(settings):
        raise ChangeRefused("No key has this id.")
    return change(settings, do)
