"""What the server says of itself and of its callers: who am I, which roles there are, how it is, how to ask."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from vestry import __version__
from vestry.audit.condition import Condition, as_json, condition, listed
from vestry.audit.reading import NoLog, origins
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import ROOT, Reply, Row
from vestry.roles import HOUSE, TABLE, Permission, Role


async def _whoami(_office: Office, ask: Ask) -> Reply:
    own = ask.actor.known
    return Reply(
        shapes.Me(
            tenant=own.tenant,
            subject=own.subject,
            credential=own.key_id,
            via=own.via.value,
            issuer=own.issuer,
            project=own.project,
            roles=tuple(sorted(own.roles)),
            permissions=tuple(sorted(own.permissions)),
            whole_house=tuple(sorted(each for each in own.permissions if own.may(each, ""))),
            break_glass=own.broken_glass,
        )
    )


async def _roles(_office: Office, _ask: Ask) -> Reply:
    data = tuple(
        shapes.RoleShown(role=role, whole_house=role in HOUSE, permissions=tuple(sorted(TABLE[role]))) for role in Role
    )
    return Reply(shapes.RolesShown(data=data, has_more=False))


async def _state(office: Office, ask: Ask) -> Reply:
    ask.actor.whole_house(Permission.STATE_READ)
    logs = await asyncio.get_running_loop().run_in_executor(office.threads, _logs, office)
    missing = office.missing()
    replicas = tuple(
        shapes.Replica(model=model, replica=name, healthy=healthy, outstanding=outstanding)
        for model, name, healthy, outstanding in office.replicas()
    )
    return Reply(
        shapes.State(
            version=__version__,
            ready=not missing,
            missing=missing,
            replicas=replicas,
            logs=logs,
            break_glass=office.house().broken(office.records.wall()),
        )
    )


def _logs(office: Office) -> tuple[dict[str, Any], ...]:
    """As `vestry audit status` has them."""
    found: list[Condition] = []
    there = set(origins(office.log))
    for origin in sorted(there | set(listed(office.log))):
        try:
            found.append(condition(office.log / origin, origin))
        except NoLog:
            found.append(Condition(origin, faults=["it stands in the registry, but it is missing"]))
    return tuple(msgspec.json.decode(as_json(found)))


async def _openapi(office: Office, _ask: Ask) -> Reply:
    return Reply(office.openapi)


ROWS: tuple[Row, ...] = (
    Row(
        method="GET", path=f"{ROOT}/whoami", name="admin.whoami", permission=Permission.MODELS_READ, handler=_whoami,
        summary="Who you are here, and what you may do", answer=shapes.Me,
    ),
    Row(
        method="GET", path=f"{ROOT}/roles", name="admin.roles", permission=Permission.MODELS_READ, handler=_roles,
        summary="The roles, and what each may do", answer=shapes.RolesShown,
    ),
    Row(
        method="GET", path=f"{ROOT}/state", name="admin.state", permission=Permission.STATE_READ, handler=_state,
        summary="How the server, its engines and its logs are", answer=shapes.State,
    ),
    Row(
        method="GET", path=f"{ROOT}/openapi.json", name="admin.openapi", permission=Permission.MODELS_READ,
        handler=_openapi, summary="This description", answer=shapes.Document,
    ),
)  # fmt: skip
