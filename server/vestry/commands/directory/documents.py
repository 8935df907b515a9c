"""List, show, set and remove documents: the four commands that tenants, projects and users have alike."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from vestry.admin.actor import Match
from vestry.admin.documents import Kept, Where
from vestry.admin.pages import PAGE, paged
from vestry.administration import ChangeRefused, Office, change, known, look
from vestry.audit.records import rfc3339
from vestry.commands.common import settings_of
from vestry.commands.directory.bodies import body_of, composed, given
from vestry.commands.directory.common import Listing, match_of, safe, tell, told
from vestry.declaring.text import as_yaml
from vestry.errors import Conflict, NotFound, PreconditionFailed
from vestry.types import Kind


class Place(Struct, frozen=True):
    """Which document a command is about; `tenant` None is the only one that there is."""

    kind: Kind
    name: str
    tenant: str | None = None

    async def where(self, office: Office) -> Where:
        """Raises ChangeRefused where there is no such tenant."""
        if self.kind in {Kind.TENANT, Kind.POLICY}:
            return Where(self.kind, "", self.name)
        return Where(self.kind, await office.tenant(self.tenant), self.name)


def described(kept: Kept) -> dict[str, Any]:
    """A document as JSON."""
    document = kept.document
    said: dict[str, Any] = {"kind": document.kind.value, "name": document.name}
    if document.tenant:
        said["tenant"] = document.tenant
    if kept.declared:
        return {**said, "declared": True, "version": None, "body": document.body}
    times = {"created": rfc3339(document.created), "updated": rfc3339(document.updated)}
    damaged = {"damaged": damage} if (damage := kept.damage) else {}
    return {**said, "declared": False, "version": document.version, **times, **damaged, "body": document.body}


def show(config: Path | None, place: Place, *, as_json: bool) -> None:
    """Print one."""
    settings = settings_of(config)
    with told():
        kept = look(settings, lambda office: _read(office, place))
    said = "declared in the settings" if kept.declared else f"version {kept.document.version}"
    where = Where(kept.document.kind, kept.document.tenant, kept.document.name)
    text = f"# {safe(where.title)}, {said}\n{as_yaml(kept.document.body)}"
    click.echo(json.dumps(described(kept), indent=2) if as_json else text.rstrip("\n"))


async def _missing(office: Office, where: Where) -> str:
    if where.kind == Kind.POLICY:
        return "There is no policy in the directory."
    if where.kind == Kind.TENANT:
        return f"There is no tenant `{where.name}`. {known(where.name, await office.tenants())}"
    page = await office.documents.page(office.actor, where.kind, where.tenant, "", PAGE)
    names = [each.document.name for each in page]
    return f"There is no {where.kind} `{where.name}` of the tenant `{where.tenant}`. {known(where.name, names)}"


def put(
    config: Path | None,
    place: Place,
    /,
    *,
    unset: tuple[str, ...] = (),
    file: Path | None,
    if_version: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write one: the whole of it from a file, or what is there with what the options of its form change."""
    settings = settings_of(config)
    if file is not None and (given(options) or unset):
        raise click.UsageError("Give the whole with --file, or its parts with options; not both.")
    whole = None if file is None else body_of(file)

    async def body_in(office: Office, where: Where) -> tuple[Kept | None, dict[str, Any]]:
        before = await _before(office, where)
        return before, composed(
            {} if before is None else before.document.body, options, unset
        ) if whole is None else whole

    async def judge(office: Office) -> None:
        """Refuse what can be refused before a store is made."""
        where = await place.where(office)
        office.documents.judged(office.actor, where, (await body_in(office, where))[1])

    async def write(office: Office) -> Kept:
        where = await place.where(office)
        before, body = await body_in(office, where)
        match = match_of(if_version)
        if if_version is None and whole is None:  # what the options change is what was read
            match = match_of(0 if before is None else before.document.version)
        try:
            return await office.documents.put(office.actor, where, body, match)
        except PreconditionFailed:
            raise ChangeRefused(await _changed(office, where)) from None

    with told():
        look(settings, judge)
        kept = change(settings, write)
    document = kept.document
    done = "made" if kept.new else "changed"
    where = Where(document.kind, document.tenant, document.name)
    said = f"{where.title}: {done if kept.changed else 'is so already'} (version {document.version})"
    tell({**described(kept), "changed": kept.changed}, said, as_json=as_json)


async def _before(office: Office, where: Where) -> Kept | None:
    try:
        kept = await office.documents.read(office.actor, where)
    except NotFound:
        return None
    if kept.declared:
        raise Conflict(f"The {where.title} is declared in the settings, and changed only there.")
    return kept


async def _changed(office: Office, where: Where) -> str:
    try:
        kept = await office.documents.read(office.actor, where)
    except NotFound:
        return f"Nothing was changed: there is no {where.title} any more."
    return f"Nothing was changed: the {where.title} has version {kept.document.version} now. Read it again."


def remove(config: Path | None, place: Place, *, if_version: int | None, as_json: bool) -> None:
    """Remove one."""
    settings = settings_of(config)

    async def take(office: Office) -> Where:
        where = await place.where(office)
        match = Match(any_version=True) if if_version is None else Match((if_version,))
        try:
            await office.documents.remove(office.actor, where, match)
        except NotFound:
            raise ChangeRefused(await _missing(office, where)) from None
        except PreconditionFailed:
            raise ChangeRefused(await _changed(office, where)) from None
        except Conflict as refusal:
            raise Conflict(f"The {where.title} was not removed. {refusal.reason}") from None
        return where

    with told():
        look(settings, lambda office: _read(office, place))
        where = change(settings, take)
    made = {"kind": where.kind.value, "name": where.name, **({"tenant": where.tenant} if where.tenant else {})}
    tell({**made, "removed": True}, f"{where.title}: removed", as_json=as_json)


async def _read(office: Office, place: Place) -> Kept:
    where = await place.where(office)
    try:
        return await office.documents.read(office.actor, where)
    except NotFound:
        raise ChangeRefused(await _missing(office, where)) from None


Cell = Callable[[dict[str, Any]], str]


def listing(
    config: Path | None, kind: Kind, tenant: str | None, columns: Mapping[str, Cell], *, otherwise: str, as_json: bool
) -> None:
    """Print all of a tenant, or all that there are."""
    settings = settings_of(config)

    async def go(office: Office) -> None:
        home = None if tenant is None else await office.tenant(tenant)
        shown = Listing(columns, as_json=as_json)

        def page(after: str) -> Awaitable[list[Kept]]:
            return office.documents.page(office.actor, kind, home, after, PAGE)

        async for kept in paged(page, lambda each: f"{each.document.tenant}/{each.document.name}"):
            shown.row(described(kept))
        shown.end(otherwise)

    with told():
        look(settings, go)


def body_cell(name: str, otherwise: str = "-") -> Cell:
    """A cell with a part of the body."""

    def cell(row: dict[str, Any]) -> str:
        value = row["body"].get(name)
        if value in (None, "", [], ()):
            return otherwise
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return cell


def field_cell(name: str) -> Cell:
    """A cell with what is known of the document."""
    return lambda row: "-" if row.get(name) is None else str(row[name])


def state_cell(row: dict[str, Any]) -> str:
    """Whether it works."""
    if "damaged" in row:
        return "damaged"
    return "disabled" if row["body"].get("disabled") else "active"


def from_cell(row: dict[str, Any]) -> str:
    """Where it is declared."""
    return "settings" if row["declared"] else "directory"
