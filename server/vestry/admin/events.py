"""The records of changes: who changed what, from what, to what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vestry.admin.actor import Actor
from vestry.audit.fields import RecordType
from vestry.audit.records import Records, rfc3339_or_none
from vestry.roles import named
from vestry.seams import Record
from vestry.types import Key, Kind

CHANGES = {
    Kind.TENANT: RecordType.TENANT_CHANGE,
    Kind.PROJECT: RecordType.PROJECT_CHANGE,
    Kind.USER: RecordType.USER_CHANGE,
    Kind.POLICY: RecordType.POLICY_CHANGE,
}
Write = Callable[[Record], Awaitable[None]]
"""Makes one record durable. Raises a Refusal where it cannot."""


class Events:
    """Writes them; each is durable when its method returns."""

    def __init__(self, records: Records, write: Write) -> None:
        self._records, self._write = records, write

    async def document(
        self,
        actor: Actor,
        kind: Kind,
        tenant: str,
        name: str,
        *,
        bodies: tuple[dict[str, Any] | None, dict[str, Any] | None],
    ) -> None:
        """`bodies` are those before and after; None where there was or will be none."""
        before, after = bodies
        change = "create" if before is None else "remove" if after is None else "update"
        await self.say(CHANGES[kind], actor, change=change, tenant=tenant or None, name=name, old=before, new=after)

    async def key_made(self, actor: Actor, key: Key, *, reason: str = "") -> None:
        await self.say(
            RecordType.KEY_CREATE,
            actor,
            **_key(key),
            models=None if key.models is None else sorted(key.models),
            expires=rfc3339_or_none(key.expires),
            new=described(key),
            reason=reason,
        )

    async def key_changed(self, actor: Actor, change: str, before: Key, after: Key, *, reason: str = "") -> None:
        await self.say(
            RecordType.KEY_CHANGE,
            actor,
            **_key(before),
            change=change,
            old=described(before),
            new=described(after),
            reason=reason,
        )

    async def key_revoked(self, actor: Actor, key: Key, *, reason: str = "") -> None:
        await self.say(RecordType.KEY_REVOKE, actor, **_key(key), reason=reason)

    async def say(self, kind: RecordType, actor: Actor, **details: Any) -> None:
        """Any other: such as the three steps of a break-glass, with who is given which role, and why."""
        await self._write(self._records.event(kind, **actor.described(), **details))


def _key(key: Key) -> dict[str, Any]:
    return {"tenant": key.tenant, "subject": key.owner, "key_id": key.id, "role": named(key.roles)}


def described(key: Key) -> dict[str, Any]:
    """What a key may do, as JSON: for records, and for whoever compares two states of it."""
    found: dict[str, Any] = {
        "owner": key.owner,
        "roles": sorted(map(str, key.roles)),
        "project": key.project,
        "models": None if key.models is None else sorted(key.models),
        "routes": None if key.routes is None else sorted(key.routes),
        "sources": [str(each) for each in key.sources],
        "concurrency": key.limits.concurrency,
        "requests_per_minute": key.limits.requests_per_minute,
        "expires": rfc3339_or_none(key.expires),
        "frozen": rfc3339_or_none(key.frozen),
        "revoked": rfc3339_or_none(key.revoked),
        "replaces": key.replaces,
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}
