"""Tenants, and the projects and users in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vestry.admin.bodies import Project, User
from vestry.admin.documents import Kept, Where
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import CHANGED, PAGED, ROOT, Handler, Reply, Row
from vestry.roles import Permission
from vestry.settings.section import Section
from vestry.settings.tree import Tenant
from vestry.types import Kind

Shape = Callable[[Kept], Section]
_NAMES = {Kind.TENANT: "tenant", Kind.PROJECT: "project", Kind.USER: "user"}
SHAPES: dict[Kind, Shape] = {Kind.TENANT: shapes.tenant, Kind.PROJECT: shapes.project, Kind.USER: shapes.user}


def _where(ask: Ask, kind: Kind) -> Where:
    if kind == Kind.TENANT:
        return Where(kind, "", ask.part("tenant"))
    return Where(kind, ask.part("tenant"), ask.part(_NAMES[kind]))


def listing(kind: Kind, page: Callable[..., Section]) -> Handler:
    """Lists documents of a kind; those of a tenant, where it is one's."""

    async def handler(office: Office, ask: Ask) -> Reply:
        after, limit = ask.page()
        tenant: str | None = None
        if kind != Kind.TENANT:
            tenant = ask.part("tenant")
            await office.documents.read(ask.actor, Where(Kind.TENANT, "", tenant))
        place = f"{tenant or ''}/{after}"
        found, more = shapes.cut(await office.documents.page(ask.actor, kind, tenant, place, limit + 1), limit)
        data = tuple(SHAPES[kind](each) for each in found)
        return Reply(page(data=data, has_more=more, next=found[-1].document.name if more else None))

    return handler


def reading(kind: Kind) -> Handler:
    """Shows one document."""

    async def handler(office: Office, ask: Ask) -> Reply:
        kept = await office.documents.read(ask.actor, _where(ask, kind))
        return Reply(SHAPES[kind](kept), version=kept.document.version)

    return handler


def writing(kind: Kind) -> Handler:
    """Writes one whole document."""

    async def handler(office: Office, ask: Ask) -> Reply:
        where, match = _where(ask, kind), ask.match()
        kept = await office.documents.put(ask.actor, where, await ask.body(), match)
        status = 201 if kept.new else 200
        return Reply(SHAPES[kind](kept), status, version=kept.document.version, recorded=kept.changed)

    return handler


def removing(kind: Kind) -> Handler:
    """Removes one document."""

    async def handler(office: Office, ask: Ask) -> Reply:
        await office.documents.remove(ask.actor, _where(ask, kind), ask.match())
        return Reply(status=204, recorded=True)

    return handler


def rows(
    kind: Kind,
    forms: tuple[type[Section], type[Section], type[Section]],
    permissions: tuple[Permission, Permission],
    example: dict[str, Any],
) -> tuple[Row, ...]:
    """The four routes of a kind: list, read, write, remove. `forms` are those of the body, one answer and a list."""
    form, shown, page = forms
    name = _NAMES[kind]
    above = f"{ROOT}/tenants" if kind == Kind.TENANT else f"{ROOT}/tenants/{{tenant}}/{name}s"
    one, called = f"{above}/{{{name}}}", f"admin.{name}s"
    read, write = permissions
    return (
        Row(
            method="GET", path=above, name=f"{called}.list", permission=read, handler=listing(kind, page),
            summary=f"List {name}s", answer=page, query=PAGED,
        ),
        Row(
            method="GET", path=one, name=f"{called}.read", permission=read, handler=reading(kind),
            summary=f"Read a {name}", answer=shown, versioned=True,
        ),
        Row(
            method="PUT", path=one, name=f"{called}.write", permission=write, handler=writing(kind),
            summary=f"Make a {name}, or write it anew", answer=shown, statuses=(200, 201), body=form, example=example,
            matched=True, versioned=True, refusals=CHANGED,
        ),
        Row(
            method="DELETE", path=one, name=f"{called}.remove", permission=write, handler=removing(kind),
            summary=f"Remove a {name}", statuses=(204,), matched=True, refusals=CHANGED,
        ),
    )  # fmt: skip


ROWS: tuple[Row, ...] = (
    *rows(
        Kind.TENANT, (Tenant, shapes.TenantShown, shapes.Tenants),
        (Permission.TENANTS_READ, Permission.TENANTS_WRITE), {"models": ["*"], "concurrency": 32},
    ),
    *rows(
        Kind.PROJECT, (Project, shapes.ProjectShown, shapes.Projects),
        (Permission.PROJECTS_READ, Permission.PROJECTS_WRITE), {"description": "Discharge letters", "concurrency": 8},
    ),
    *rows(
        Kind.USER, (User, shapes.UserShown, shapes.Users),
        (Permission.USERS_READ, Permission.USERS_WRITE), {"roles": ["tenant-admin"]},
    ),
)  # fmt: skip
