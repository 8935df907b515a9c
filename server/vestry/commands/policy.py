"""`vestry policy`: the rules in force, and what they say of a call."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from vestry.admin.names import is_name
from vestry.administration import Office, known, look
from vestry.commands.common import settings_of
from vestry.commands.directory.common import told
from vestry.composition.identity import supposed_holder, supposed_id
from vestry.explaining import Caller, Explanation, bounds_of, explain, moment_of, supposed
from vestry.house import ROUTES, House
from vestry.models.catalog import ModelError
from vestry.models.chosen import served
from vestry.policy import Compiled
from vestry.roles import Role
from vestry.settings.tree import Settings
from vestry.types import Call, Document, Head, Key, Kind, Principal, Via


@click.command("rules", short_help="List the rules in force, in their order.")
@click.option("--tenant", help="Only those that can be for this tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def rules(config: Path | None, *, tenant: str | None, as_json: bool) -> None:
    """List the rules: those of the settings first, then those of the directory. The first that is for a call decides.

    \b
    Example:
      vestry policy rules --tenant radiology
    """
    house = _House.of(settings_of(config)).house
    found = _rules(house, tenant)
    if as_json:
        click.echo(json.dumps([_described(rule) for rule in found], indent=2))
        return
    for number, rule in enumerate(found, 1):
        said = ", ".join(f"{name}={value}" for name, value in _described(rule).items() if name not in _HEADS)
        click.echo(f"{number}. {rule.name} ({rule.origin}): {'allow' if rule.allow else 'deny'} {said}".rstrip())
    if not found:
        click.echo("There are no rules: tenants and keys decide.", err=True)


@click.command("explain", short_help="Say what would become of a call, and why.")
@click.option("--tenant", help="Tenant of the caller. May be left out with --key.")
@click.option("--key", "key_id", help="Public id of a key (key_...): its owner, roles, bounds and state are taken.")
@click.option("--subject", default="somebody", show_default=True, help="Whom the token or certificate names.")
@click.option("--role", "roles", multiple=True, type=click.Choice([role.value for role in Role]), help="Role. [user]")
@click.option("--project", default="", help="Project of the caller.")
@click.option("--issuer", default="", help="Name of the issuer in the settings whose token is shown.")
@click.option("--certificate", default="", metavar="NAME", help="A name of the certificate that is shown, as DNS:host.")
@click.option("--model", required=True, help="Model that is asked for.")
@click.option("--route", type=click.Choice(ROUTES), default=ROUTES[0], show_default=True, help="Route of the API.")
@click.option("--at", metavar="TIME", help="When, as 2027-01-31T18:00:00Z. Default: now.")
@click.option("--from", "source", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="From where.")
@click.option("--max-tokens", type=click.IntRange(1), help="Most tokens that the call asks for.")
@click.option("--n", "choices", type=click.IntRange(1), default=1, show_default=True, help="Answers it asks for.")
@click.option("--tools", is_flag=True, help="The call has tools.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.pass_obj
def explain_(config: Path | None, /, *, as_json: bool, **asked: Any) -> None:
    """Say which rule would decide on a call, with every question that is asked on the way.

    Nothing is called, and nothing recorded. Exit status 0: it would be allowed; 1: it would not.

    \b
    Examples:
      vestry policy explain --tenant radiology --model phi-3 --from 10.1.2.3 --at 2027-01-31T23:00:00Z
      vestry policy explain --key key_8CzYx2m1QkT0bW4E --model phi-3 --max-tokens 4096
    """
    settings = settings_of(config)
    if holder := _certified(asked, settings):
        asked |= {"tenant": holder.tenant, "subject": holder.subject}
    seen = _House.of(settings, asked["key_id"], asked["tenant"], asked["subject"])
    try:
        models = {model.name: model for model in served(settings)}
    except ModelError as fault:
        raise click.ClickException(str(fault)) from None
    found = explain(_caller(asked, seen, settings, holder), *_supposed(asked), models, seen.house)
    click.echo(
        json.dumps(asdict(found) | {"steps": list(map(asdict, found.steps))}, indent=2) if as_json else _told(found)
    )
    if not found.allowed:
        raise click.exceptions.Exit(1)


_HEADS = ("name", "effect", "origin")


class _House(Struct, frozen=True):
    """The house as it stands, and a key of it, or a user."""

    house: House
    key: Key | None = None
    user: Document | None = None

    @classmethod
    def of(cls, settings: Settings, key_id: str | None = None, tenant: str | None = None, subject: str = "") -> _House:
        async def found(office: Office) -> _House:
            directory = office.directory
            house = House.of(settings, await directory.standing())
            if key_id is not None:
                return cls(house, key=await directory.key(key_id))
            if tenant is None or not (is_name(Kind.TENANT, tenant) and is_name(Kind.USER, subject)):
                return cls(house)
            return cls(house, user=await directory.read(Kind.USER, tenant, subject))

        seen = _looked(settings, found)
        if key_id is not None and seen.key is None:
            raise click.UsageError("No key has this id.")
        return seen


def _looked(settings: Settings, found: Callable[[Office], Awaitable[_House]]) -> _House:
    try:
        with told():
            return look(settings, found)
    except ValueError as error:
        raise click.ClickException(f"The directory holds a document that cannot be used: {error}") from None


def _certified(asked: dict[str, Any], settings: Settings) -> Principal | None:
    """The holder of the certificate that is shown; None where none is."""
    if not asked["certificate"]:
        return None
    holder = supposed_holder(settings.identity, asked["certificate"])
    if holder is None or asked["tenant"] not in {None, holder.tenant}:
        raise click.UsageError("The settings have nobody of this tenant by the name in --certificate.")
    return holder


def _caller(asked: dict[str, Any], seen: _House, settings: Settings, holder: Principal | None) -> Caller:
    tenant, issuer = asked["tenant"], asked["issuer"]
    if seen.key is not None:
        if tenant not in {None, seen.key.tenant}:
            raise click.UsageError(f"The key is of the tenant {seen.key.tenant}.")
        return Caller.by(seen.key)
    if holder is not None:
        return Caller(holder, user=seen.user)
    if tenant is None:
        raise click.UsageError("Name the caller's --tenant, a --key or a --certificate.")
    key_id = supposed_id(settings.identity, issuer, tenant, asked["subject"]) if issuer else ""
    if key_id is None:
        raise click.UsageError(f"There is no issuer of this name. {known(issuer, sorted(settings.identity.names))}")
    roles = frozenset(map(Role, asked["roles"])) or frozenset({Role.USER})
    principal = Principal(
        key_id,
        tenant,
        asked["subject"],
        roles,
        project=asked["project"],
        via=Via.TOKEN if issuer else Via.KEY,
        issuer=issuer,
    )
    return Caller(principal, user=seen.user)


def _supposed(asked: dict[str, Any]) -> tuple[Head, Call]:
    try:
        moment = datetime.now(UTC) if asked["at"] is None else datetime.fromisoformat(asked["at"])
    except ValueError:
        raise click.UsageError("--at is a time as 2027-01-31T18:00:00Z.") from None
    if moment.tzinfo is None:
        raise click.UsageError("--at needs its offset from UTC, as in 2027-01-31T18:00:00Z.")
    try:
        wall = moment_of(moment)
    except ValueError as fault:
        raise click.UsageError(f"--at: {fault}.") from None
    try:
        ip_address(asked["source"])
    except ValueError:
        raise click.UsageError("--from is an IP address.") from None
    given = {name: asked[name] for name in ("route", "source", "model", "choices", "max_tokens", "tools")}
    return supposed(wall=wall, **given)


def _rules(house: House, tenant: str | None) -> list[Compiled]:
    """The rules in their order."""
    if tenant is not None and tenant not in house.tenants:
        raise click.UsageError("There is no such tenant.")
    return list(house.rules if tenant is None else house.rulings[tenant].rules)


def _described(rule: Compiled) -> dict[str, Any]:
    """A rule as JSON: what it asks for, and its bounds."""
    asked = {name: getattr(rule, name) for name in ("tenants", "projects", "roles", "subjects", "keys", "issuers")}
    asked |= {name: getattr(rule, name) for name in ("models", "routes")}
    found: dict[str, Any] = {name: sorted(map(str, value)) for name, value in asked.items() if value is not None}
    if rule.sources:
        found["sources"] = [str(each) for each in rule.sources]
    if rule.hours:
        found["hours"] = [str(each) for each in rule.hours]
    head = {"name": rule.name, "effect": "allow" if rule.allow else "deny", "origin": rule.origin}
    return {**head, **found, **bounds_of(rule)}


def _told(found: Explanation) -> str:
    lines = [f"{_step(step.asked, step.rule, step.origin)}: {step.answer}" for step in found.steps]
    verdict = f"allowed by {found.rule}" if found.allowed else f"refused with {found.status}: {found.message}"
    by = f" (rule {found.rule})" if not found.allowed and found.rule else ""
    bounds = [f"{name}: {value}" for name, value in found.bounds.items()]
    return "\n".join([*lines, f"=> {verdict}{by}", *_listed("bounds", bounds)])


def _step(asked: str, rule: str, origin: str) -> str:
    return f"rule {rule} ({origin})" if rule else asked


def _listed(name: str, values: Iterable[str]) -> list[str]:
    said = ", ".join(values)
    return [f"   {name}: {said}"] if said else []
