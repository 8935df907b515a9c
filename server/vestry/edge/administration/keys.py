"""API keys: made, looked at, changed, frozen, replaced, revoked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vestry.admin.bodies import KeyBody, judge
from vestry.admin.documents import Where
from vestry.admin.keys import LONGEST_OVERLAP_SECONDS
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import CHANGED, PAGED, ROOT, Handler, Reply, Row
from vestry.errors import Conflict
from vestry.roles import Permission
from vestry.settings.section import Remark, Section
from vestry.types import Key, Kind

ONE = f"{ROOT}/keys/{{key}}"
OF_TENANT = f"{ROOT}/tenants/{{tenant}}/keys"
MAKING = (Conflict,)


class Why(Section):
    """Why it is done: it stands in the record."""

    reason: Remark = ""


class Rotation(Why):
    """How a key is replaced."""

    overlap_seconds: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP_SECONDS)] = 3600
    """How long the old key works on."""


async def _every(office: Office, ask: Ask) -> Reply:
    return await _page(office, ask, None)


async def _of_tenant(office: Office, ask: Ask) -> Reply:
    tenant = ask.part("tenant")
    await office.documents.read(ask.actor, Where(Kind.TENANT, "", tenant))
    return await _page(office, ask, tenant)


async def _page(office: Office, ask: Ask, tenant: str | None) -> Reply:
    after, limit = ask.page()
    found, more = shapes.cut(await office.keys.page(ask.actor, tenant, after, limit + 1), limit)
    now = office.records.wall()
    data = tuple(shapes.key(each, now) for each in found)
    return Reply(shapes.KeysShown(data=data, has_more=more, next=found[-1].id if more else None))


async def _read(office: Office, ask: Ask) -> Reply:
    return _shown(office, await office.keys.read(ask.actor, ask.part("key")), changed=False)


async def _make(office: Office, ask: Ask) -> Reply:
    tenant, token = ask.part("tenant"), ask.token()
    return _made(office, *await office.keys.make(ask.actor, tenant, await ask.body(), token=token))


async def _change(office: Office, ask: Ask) -> Reply:
    key_id, match = ask.part("key"), ask.match()
    key, changed = await office.keys.change(ask.actor, key_id, await ask.body(), match)
    return _shown(office, key, changed=changed)


def _freeze(*, frozen: bool) -> Handler:
    async def handler(office: Office, ask: Ask) -> Reply:
        key_id = ask.part("key")
        why = judge(Why, await ask.body(optional=True))
        key, changed = await office.keys.freeze(ask.actor, key_id, frozen=frozen, reason=why.reason)
        return _shown(office, key, changed=changed)

    return handler


async def _revoke(office: Office, ask: Ask) -> Reply:
    key_id = ask.part("key")
    why = judge(Why, await ask.body(optional=True))
    key, changed = await office.keys.revoke(ask.actor, key_id, reason=why.reason)
    return _shown(office, key, changed=changed)


async def _rotate(office: Office, ask: Ask) -> Reply:
    key_id, token = ask.part("key"), ask.token()
    how = judge(Rotation, await ask.body(optional=True))
    secret, key = await office.keys.rotate(
        ask.actor, key_id, overlap_seconds=how.overlap_seconds, token=token, reason=how.reason
    )
    return _made(office, secret, key)


def _shown(office: Office, key: Key, *, changed: bool) -> Reply:
    return Reply(shapes.key(key, office.records.wall()), version=key.version, recorded=changed)


def _made(office: Office, secret: str | None, key: Key) -> Reply:
    return Reply(
        shapes.made(secret, key, office.records.wall()),
        200 if secret is None else 201,
        version=key.version,
        location=f"{ROOT}/keys/{key.id}",
        recorded=secret is not None,
    )


ROWS: tuple[Row, ...] = (
    Row(
        method="GET", path=f"{ROOT}/keys", name="admin.keys.list", permission=Permission.KEYS_READ, handler=_every,
        summary="List the keys of every tenant that you may see", answer=shapes.KeysShown, query=PAGED,
    ),
    Row(
        method="GET", path=OF_TENANT, name="admin.keys.of-tenant", permission=Permission.KEYS_READ,
        handler=_of_tenant, summary="List a tenant's keys", answer=shapes.KeysShown, query=PAGED,
    ),
    Row(
        method="POST", path=OF_TENANT, name="admin.keys.make", permission=Permission.KEYS_WRITE, handler=_make,
        summary="Make a key; its text is shown this once", answer=shapes.KeyMade, statuses=(201, 200), body=KeyBody,
        example={"owner": "discharge-letters", "requests_per_minute": 600}, tokened=True, versioned=True,
        refusals=MAKING,
    ),
    Row(
        method="GET", path=ONE, name="admin.keys.read", permission=Permission.KEYS_READ, handler=_read,
        summary="Read a key: all but its text", answer=shapes.KeyShown, versioned=True,
    ),
    Row(
        method="PUT", path=ONE, name="admin.keys.write", permission=Permission.KEYS_WRITE, handler=_change,
        summary="Give a key other rights or bounds", answer=shapes.KeyShown, body=KeyBody,
        example={"owner": "discharge-letters", "requests_per_minute": 60}, matched=True, versioned=True,
        refusals=CHANGED,
    ),
    Row(
        method="POST", path=f"{ONE}/freeze", name="admin.keys.freeze", permission=Permission.KEYS_FREEZE,
        handler=_freeze(frozen=True), summary="Refuse a key until it is thawed", answer=shapes.KeyShown, body=Why,
        bodiless=True, example={"reason": "seen in a public repository"}, versioned=True, refusals=(Conflict,),
    ),
    Row(
        method="POST", path=f"{ONE}/thaw", name="admin.keys.thaw", permission=Permission.KEYS_FREEZE,
        handler=_freeze(frozen=False), summary="Accept a frozen key again", answer=shapes.KeyShown, body=Why,
        bodiless=True, example={"reason": "a false alarm"}, versioned=True, refusals=(Conflict,),
    ),
    Row(
        method="POST", path=f"{ONE}/revoke", name="admin.keys.revoke", permission=Permission.KEYS_WRITE,
        handler=_revoke, summary="Refuse a key for ever", answer=shapes.KeyShown, body=Why, bodiless=True,
        example={"reason": "its owner has left"}, versioned=True,
    ),
    Row(
        method="POST", path=f"{ONE}/rotate", name="admin.keys.rotate", permission=Permission.KEYS_WRITE,
        handler=_rotate, summary="Make a key that takes over; its text is shown this once", answer=shapes.KeyMade,
        statuses=(201, 200), body=Rotation, bodiless=True, example={"overlap_seconds": 3600}, tokened=True,
        versioned=True, refusals=MAKING,
    ),
)  # fmt: skip
