"""API keys: made, changed, frozen, replaced and revoked, each change judged, recorded, then done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from vestry.adapters.key_format import derived_id, mint, mint_id
from vestry.adapters.memory import wall
from vestry.admin import models
from vestry.admin.actor import Actor, Match, own_end, within_bounds, within_house
from vestry.admin.bodies import KeyBody, judge
from vestry.admin.events import Events, described
from vestry.admin.names import is_seen
from vestry.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from vestry.roles import Permission, permissions
from vestry.seams import Change, Directory
from vestry.settings.tree import Settings
from vestry.types import Key, Kind

LONGEST_OVERLAP_SECONDS = 30 * 86_400
SECOND = 1_000_000


class Keys:
    """What the administration does with keys. `clock` gives microseconds since the epoch."""

    def __init__(
        self, directory: Directory, events: Events, settings: Settings, clock: Callable[[], int] = wall
    ) -> None:
        self._directory, self._events, self._settings, self._clock = directory, events, settings, clock

    # Reading.

    async def read(self, actor: Actor, key_id: str) -> Key:
        """One key. Raises NotFound for what there is not, and for what is another tenant's."""
        actor.permit(Permission.KEYS_READ)
        key = await self._directory.key(key_id)
        if key is None:
            raise NotFound
        actor.require(Permission.KEYS_READ, key.tenant)
        return key

    async def page(self, actor: Actor, tenant: str | None, after: str, limit: int) -> list[Key]:
        """At most `limit` keys, by id, which come after `after`. `tenant` None is every one that the actor may read."""
        own = actor.reach(Permission.KEYS_READ)
        if own is not None and tenant is not None and tenant != own:
            raise NotFound
        return await self._directory.keys(tenant or own, after, limit)

    # Changing.

    async def make(
        self, actor: Actor, tenant: str, body: Mapping[str, Any], *, token: str = ""
    ) -> tuple[str | None, Key]:
        """Make a key: its text, which cannot be had again, and what is kept of it.

        Asked again with the same `token` (`Idempotency-Key`) it is the key that was made then, without its text; if
        something else is asked for with it, Conflict is raised. Other Refusals as in `Documents.put`.
        """
        actor.require(Permission.KEYS_WRITE, tenant)
        wanted = judge(KeyBody, body)
        _seen(wanted.owner)
        key = wanted.key(_id(actor, tenant, token), tenant, self._clock(), actor.name)
        within_bounds(actor, key)
        models.served(actor, key.models or (), self._settings)
        async with self._directory.changing() as change:
            if token and (made := await change.key(key.id)) is not None:
                return None, _same(made, key)
            await self._within_life(change, actor, key)
            secret = mint()
            await self._belongs(change, actor, key)
            kept = await change.add_key(key, secret)
            await self._events.key_made(actor, kept)
        return secret, kept

    async def change(self, actor: Actor, key_id: str, body: Mapping[str, Any], match: Match) -> tuple[Key, bool]:
        """Give a key other rights or bounds: the body is the whole of them. Whether anything was changed."""
        async with self._directory.changing() as change:
            found = await self._found(change, actor, key_id, Permission.KEYS_WRITE)
            wanted = judge(KeyBody, body)
            if wanted.owner != found.owner:
                _seen(wanted.owner)
            asked = wanted.key(key_id, found.tenant, self._clock(), found.made_by)
            key = replace(
                asked,
                created=found.created,
                revoked=found.revoked,
                frozen=found.frozen,
                last_used=found.last_used,
                replaces=found.replaces,
                version=found.version,
            )
            if key == found:
                return found, False
            match.judge(found.version)
            _alive(found)
            _keeps_its_owner(actor, found, key)
            _comes_to_approve_nothing(actor, found, key)
            within_bounds(actor, found)
            within_bounds(actor, key)
            await self._within_life(change, actor, key)
            models.served(actor, key.models or (), self._settings)
            await self._belongs(change, actor, key)
            kept = await change.put_key(key)
            await self._events.key_changed(actor, "update", found, kept)
        return kept, True

    async def freeze(self, actor: Actor, key_id: str, *, frozen: bool, reason: str = "") -> tuple[Key, bool]:
        """Refuse a key until it is thawed, or thaw it. Whether anything was changed."""
        async with self._directory.changing() as change:
            return await self.freeze_in(change, actor, key_id, frozen=frozen, reason=reason)

    async def freeze_in(
        self, change: Change, actor: Actor, key_id: str, *, frozen: bool, reason: str = ""
    ) -> tuple[Key, bool]:
        """`freeze`, within a transaction."""
        found = await self._found(change, actor, key_id, Permission.KEYS_FREEZE)
        within_house(actor, found, Permission.KEYS_FREEZE)
        if (found.frozen is not None) == frozen:
            return found, False
        _alive(found)
        kept = await change.put_key(replace(found, frozen=self._clock() if frozen else None))
        await self._events.key_changed(actor, "freeze" if frozen else "thaw", found, kept, reason=reason)
        return kept, True

    async def revoke(self, actor: Actor, key_id: str, *, reason: str = "") -> tuple[Key, bool]:
        """Refuse a key for ever. Whether it was not revoked before."""
        async with self._directory.changing() as change:
            return await self.revoke_in(change, actor, key_id, reason=reason)

    async def revoke_in(self, change: Change, actor: Actor, key_id: str, *, reason: str = "") -> tuple[Key, bool]:
        """`revoke`, within a transaction."""
        found = await self._found(change, actor, key_id, Permission.KEYS_WRITE)
        within_house(actor, found, Permission.KEYS_WRITE)
        if found.revoked is not None:
            return found, False
        kept = await change.put_key(replace(found, revoked=self._clock()))
        await self._events.key_revoked(actor, found, reason=reason)
        return kept, True

    async def rotate(
        self, actor: Actor, key_id: str, *, overlap_seconds: int, token: str = "", reason: str = ""
    ) -> tuple[str | None, Key]:
        """Make a key that takes over from another, with the same rights; the old one works for so long on. One that is
        frozen has a frozen one take over: nobody gets past a freeze by replacing the key.

        The new one's text and what is kept of it; `token` as in `make`.
        """
        if not 0 <= overlap_seconds <= LONGEST_OVERLAP_SECONDS:
            raise InvalidRequest("The overlap is from 0 seconds to 30 days.", param="overlap_seconds")
        async with self._directory.changing() as change:
            found = await self._found(change, actor, key_id, Permission.KEYS_WRITE)
            new_id = _id(actor, key_id, token)
            if token and (made := await change.key(new_id)) is not None:
                return None, made
            _alive(found)
            within_bounds(actor, found)
            await self._within_life(change, actor, found)
            now = self._clock()
            until = now + max(1, overlap_seconds * SECOND)
            if found.state(now) == "expired":
                raise Conflict("The key has expired: make a new one.")
            secret = mint()
            new = replace(
                found,
                id=new_id,
                created=now,
                replaces=found.id,
                made_by=actor.name,
                last_used=None,
                version=1,
            )
            kept = await change.add_key(new, secret)
            old = await change.put_key(replace(found, expires=min(until, found.expires or until)))
            await self._events.key_made(actor, kept, reason=reason)
            await self._events.key_changed(actor, "replace", found, old, reason=reason)
        return secret, kept

    async def _found(self, change: Change, actor: Actor, key_id: str, permission: Permission) -> Key:
        actor.permit(permission)
        found = await change.key(key_id)
        if found is None:
            raise NotFound
        actor.require(permission, found.tenant)
        return found

    @staticmethod
    async def _within_life(change: Change, actor: Actor, key: Key) -> None:
        """A key that ends makes none that lives longer: it would go on by it. Raises PermissionDenied."""
        end = await own_end(change, actor)
        if end is not None and (key.expires is None or key.expires > end):
            raise PermissionDenied("Your own key expires sooner.", param="expires")

    async def _belongs(self, change: Change, actor: Actor, key: Key) -> None:
        """What the key names is there: its tenant, its project; and its models are the tenant's."""
        wanted = key.models or frozenset()
        allowed = await models.of_tenant(change, key.tenant, self._settings)
        await models.theirs(change, actor, key.tenant, wanted, self._settings)
        if models.ALL not in allowed and not wanted <= frozenset(allowed):
            raise InvalidRequest("The tenant may not use one of the models.", param="models")
        if key.project and await change.read(Kind.PROJECT, key.tenant, key.project) is None:
            raise InvalidRequest("The tenant has no such project.", param="project")


def _alive(key: Key) -> None:
    if key.revoked is not None:
        raise Conflict("The key is revoked, for good: make a new one.")
    _sound(key)


def _sound(key: Key) -> None:
    if key.damaged:
        raise Conflict("What is kept of the key is damaged: revoke it, and make a new one.")


def _keeps_its_owner(actor: Actor, found: Key, key: Key) -> None:
    """Records and break-glass tell people apart by a key's owner: who changed it could be two of them.

    Raises PermissionDenied.
    """
    if actor.principal is not None and key.owner != found.owner:
        raise PermissionDenied("A key keeps its owner: make one of their own for somebody else.", param="owner")


def _comes_to_approve_nothing(actor: Actor, found: Key, key: Key) -> None:
    """Nobody knows who has a key that there is: who gave it a role that approves break-glass could be two people, too.

    Raises PermissionDenied.
    """
    approves = Permission.BREAK_GLASS_APPROVE
    if actor.principal is not None and approves in permissions(key.roles) - permissions(found.roles):
        raise PermissionDenied("A key is not given a role that approves break-glass: make a new one.", param="roles")


def _same(made: Key, asked: Key) -> Key:
    """What was made before with the same token. Raises Conflict if it is not what is asked for now: what it was made as
    nobody knows any more where it was changed or replaced since, but for its owner, whom it keeps.
    """
    _sound(made)
    alike = described(replace(made, frozen=None, revoked=None)) == described(asked)
    if not alike and (made.version == 1 or made.owner != asked.owner):
        raise Conflict("Another key was asked for with this `Idempotency-Key` before.")
    return made


def _seen(owner: str) -> None:
    if not is_seen(owner):
        raise InvalidRequest("An owner neither begins nor ends with a character that shows nothing.", param="owner")


def _id(actor: Actor, about: str, token: str) -> str:
    """A new id; for a token always the same, for this actor and what it is about."""
    if not token:
        return mint_id()
    if len(token) > 128 or not token.isascii() or not token.isprintable():
        raise InvalidRequest("An `Idempotency-Key` is up to 128 printable ASCII characters.", param="Idempotency-Key")
    return derived_id("key_", "\n".join([*actor.identity, about, token]))
