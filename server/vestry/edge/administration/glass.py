"""Break-glass: asked for by one person, approved by another, ended by either."""

from __future__ import annotations

from vestry.admin import break_glass
from vestry.admin.bodies import judge
from vestry.admin.break_glass import Wish
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.keys import Why
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import PAGED, ROOT, Reply, Row
from vestry.errors import Conflict
from vestry.roles import Permission

ALL = f"{ROOT}/break-glass"
ONE = f"{ALL}/{{grant}}"


async def _list(office: Office, ask: Ask) -> Reply:
    after, limit = ask.page()
    found, more = shapes.cut(await office.break_glass.page(ask.actor, after, limit + 1), limit)
    data = tuple(_shape(each) for each in found)
    return Reply(shapes.Glasses(data=data, has_more=more, next=found[-1].id if more else None))


async def _read(office: Office, ask: Ask) -> Reply:
    return _shown(await office.break_glass.read(ask.actor, ask.part("grant")), changed=False)


async def _ask(office: Office, ask: Ask) -> Reply:
    found = await office.break_glass.ask(ask.actor, await ask.body())
    return Reply(_shape(found), 201, version=found.version, location=f"{ALL}/{found.id}", recorded=True)


async def _approve(office: Office, ask: Ask) -> Reply:
    grant_id = ask.part("grant")
    return _shown(await office.break_glass.approve(ask.actor, grant_id), changed=True)


async def _end(office: Office, ask: Ask) -> Reply:
    grant_id = ask.part("grant")
    why = judge(Why, await ask.body(optional=True))
    found, changed = await office.break_glass.end(ask.actor, grant_id, reason=why.reason)
    return _shown(found, changed=changed)


def _shape(found: break_glass.Shown) -> shapes.GlassShown:
    return shapes.GlassShown.model_validate(
        {name: getattr(found, name) for name in ("id", "version", "state", "damaged", "grant")}
    )


def _shown(found: break_glass.Shown, *, changed: bool) -> Reply:
    return Reply(_shape(found), version=found.version, recorded=changed)


ROWS: tuple[Row, ...] = (
    Row(
        method="GET", path=ALL, name="admin.break-glass.list", permission=Permission.BREAK_GLASS_APPROVE,
        handler=_list, summary="List break-glass grants", answer=shapes.Glasses, query=PAGED,
    ),
    Row(
        method="POST", path=ALL, name="admin.break-glass.ask", permission=Permission.BREAK_GLASS_ASK, handler=_ask,
        summary="Ask for a role for a while", answer=shapes.GlassShown, statuses=(201,), body=Wish,
        example={"role": "admin", "reason": "the on-call admin cannot be reached", "minutes": 60}, versioned=True,
        refusals=(Conflict,),
    ),
    Row(
        method="GET", path=ONE, name="admin.break-glass.read", permission=Permission.BREAK_GLASS_APPROVE,
        handler=_read, summary="Read a break-glass grant", answer=shapes.GlassShown, versioned=True,
    ),
    Row(
        method="POST", path=f"{ONE}/approve", name="admin.break-glass.approve",
        permission=Permission.BREAK_GLASS_APPROVE, handler=_approve, summary="Approve what another person asks for",
        answer=shapes.GlassShown, versioned=True, refusals=(Conflict,),
    ),
    Row(
        method="POST", path=f"{ONE}/end", name="admin.break-glass.end", permission=Permission.BREAK_GLASS_APPROVE,
        handler=_end, summary="End a grant, or take an ask back", answer=shapes.GlassShown, body=Why, bodiless=True,
        example={"reason": "done"}, versioned=True,
    ),
)  # fmt: skip
