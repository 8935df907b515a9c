"""Break-glass: a role for a while, asked for by one person and approved by another, told to everybody.

The grant is bound to the credential that asked. What it lends may be used, but not given away (`actor.within`), and a
person who has something lent neither asks nor approves by it. Every step is recorded before it is done, and stands in
the process's own log as a warning.

One that somebody has changed by hand, so that it cannot be used, is shown as damaged, cannot be approved, and goes when
it is ended: nobody can tell any more whose it was, so that is an admin's, or the command line's.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from pydantic import Field, ValidationError

from vestry.adapters.memory import wall
from vestry.admin.actor import Actor
from vestry.admin.bodies import judge, plain, told
from vestry.admin.events import Events
from vestry.admin.pages import keys_of
from vestry.audit.fields import RecordType
from vestry.audit.records import microseconds_of, rfc3339
from vestry.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from vestry.glass import LONGEST_MINUTES, SECOND, Grant, Person
from vestry.roles import Permission, Role
from vestry.seams import Change, Directory
from vestry.settings.section import Remark, Section
from vestry.types import Document, Kind, Via

log = logging.getLogger("vestry")
OPEN_AT_ONCE = 64
KEPT = 1000
KEPT_SECONDS = 30 * 86_400


class Wish(Section):
    """What is asked for."""

    role: Literal["admin", "operator", "auditor"]
    """Role that the asker is to have."""
    reason: Annotated[Remark, Field(min_length=1)]
    """Why. It stands in the record, and whoever approves reads it."""
    minutes: Annotated[int, Field(ge=1, le=LONGEST_MINUTES)] = 60
    """For how long, from the approval on."""


class Shown(Struct, frozen=True):
    """A grant as those see it who may: with its id, its version and what it is at the moment. Of a damaged one there is
    why it cannot be used instead.
    """

    id: str
    version: int
    state: str
    grant: Grant | None
    damaged: str = ""


class BreakGlass:
    """The three steps, and looking at them. `clock` gives microseconds since the epoch."""

    def __init__(self, directory: Directory, events: Events, clock: Callable[[], int] = wall) -> None:
        self._directory, self._events, self._clock = directory, events, clock

    # Reading.

    async def page(self, actor: Actor, after: str, limit: int) -> list[Shown]:
        """At most `limit` of them, by id, which come after `after`."""
        actor.whole_house(Permission.BREAK_GLASS_APPROVE)
        found = await self._directory.page(Kind.BREAK_GLASS, "", f"/{after}" if after else "", limit)
        return [self._shown(each) for each in found]

    async def read(self, actor: Actor, grant_id: str) -> Shown:
        """One of them. Raises NotFound."""
        actor.whole_house(Permission.BREAK_GLASS_APPROVE)
        found = await self._directory.read(Kind.BREAK_GLASS, "", grant_id)
        if found is None:
            raise NotFound
        return self._shown(found)

    # The steps.

    async def ask(self, actor: Actor, body: Mapping[str, Any]) -> Shown:
        """Ask for a role. Raises Refusals: for a role that the asker has, and while an ask or a grant of theirs is
        open.
        """
        own = _themselves(actor, Permission.BREAK_GLASS_ASK)
        wish = judge(Wish, body)
        role = Role(wish.role)
        if not wish.reason.strip():
            raise InvalidRequest("Say why: somebody else is to approve it.", param="reason")
        person = _person(own)
        if own.principal is None or role in own.principal.roles:
            raise Conflict("You have this role.")
        now = self._clock()
        async with self._directory.changing() as change:
            await self._room(change, person, now)
            grant_id = f"bgl_{secrets.token_hex(12)}"
            grant = Grant(asker=person, role=role, reason=wish.reason, minutes=wish.minutes, asked=rfc3339(now))
            kept = await change.put(Kind.BREAK_GLASS, "", grant_id, plain(grant))
            await self._record(
                RecordType.BREAK_GLASS_ASK, actor, grant_id, grant, reason=grant.reason, minutes=grant.minutes
            )
        return self._shown(kept)

    async def approve(self, actor: Actor, grant_id: str) -> Shown:
        """Give the role, from now on. Raises PermissionDenied for the asker, whatever credential they show, and for a
        key that the asker has had a hand in.
        """
        own = _themselves(actor, Permission.BREAK_GLASS_APPROVE)
        grant = _sound(await self.read(actor, grant_id))
        if own.identity == (grant.asker.tenant, grant.asker.subject) or own.principal is None:
            raise PermissionDenied("Somebody else has to approve it.")
        await self._independent(own, grant)
        now = self._clock()
        async with self._directory.changing() as change:
            shown = await self._found(change, grant_id)
            grant = _sound(shown)
            if shown.state != "asked":
                raise Conflict(f"It cannot be approved: it is {shown.state}.")
            until = rfc3339(now + grant.minutes * 60 * SECOND)
            given = grant.model_copy(update={"approver": _person(own), "approved": rfc3339(now), "until": until})
            kept = await change.put(Kind.BREAK_GLASS, "", grant_id, plain(given))
            await self._record(RecordType.BREAK_GLASS_APPROVE, actor, grant_id, given, reason=given.reason, until=until)
        return self._shown(kept)

    async def end(self, actor: Actor, grant_id: str, *, reason: str = "") -> tuple[Shown, bool]:
        """Take the role back, or the ask. Whether it was open. For the asker, the approver, an admin, and the command
        line.
        """
        actor.whole_house(Permission.BREAK_GLASS_APPROVE)
        now = self._clock()
        async with self._directory.changing() as change:
            shown = await self._found(change, grant_id)
            if not _may_end(actor, shown.grant):
                raise PermissionDenied("It is ended by who asked, by who approved, or by an admin.")
            if shown.grant is None:
                await change.remove(Kind.BREAK_GLASS, "", grant_id)
                await self._record(RecordType.BREAK_GLASS_END, actor, grant_id, None, reason=reason or shown.damaged)
                return replace(shown, state="ended"), True
            if shown.state not in {"asked", "active"}:
                return shown, False
            ended = shown.grant.model_copy(update={"ender": _person(actor), "ended": rfc3339(now)})
            kept = await change.put(Kind.BREAK_GLASS, "", grant_id, plain(ended))
            await self._record(RecordType.BREAK_GLASS_END, actor, grant_id, ended, reason=reason)
        return self._shown(kept), True

    async def _found(self, change: Change, grant_id: str) -> Shown:
        """The grant. Raises NotFound."""
        found = await change.read(Kind.BREAK_GLASS, "", grant_id)
        if found is None:
            raise NotFound
        return self._shown(found)

    async def _room(self, change: Change, person: Person, now: int) -> None:
        """One at a time for each person, few for all, and what is long over goes: its records stay in the log."""
        waiting, over = 0, []
        for name in await change.names(Kind.BREAK_GLASS, "", KEPT):
            grant = (await self._found(change, name)).grant
            if grant is None:
                continue
            if grant.state(now) not in {"asked", "active"}:
                over.append((microseconds_of(grant.asked), name))
                continue
            waiting += 1
            if (grant.asker.tenant, grant.asker.subject) == (person.tenant, person.subject):
                raise Conflict(f"`{name}` of yours is open: end it first.")
        if waiting >= OPEN_AT_ONCE:
            raise Conflict("Too many asks are open: have one of them approved or ended first.")
        over.sort(reverse=True)
        for place, (asked, name) in enumerate(over):
            if place >= KEPT // 2 or asked < now - KEPT_SECONDS * SECOND:
                await change.remove(Kind.BREAK_GLASS, "", name)

    async def _independent(self, own: Actor, grant: Grant) -> None:
        """A key that the asker made, or that was made with one that they made, is no second person.

        Raises PermissionDenied.
        """
        if own.principal is None or own.principal.via != Via.KEY:
            return
        makers = {grant.asker.subject}
        made = [(key.made_by, key.owner) async for key in keys_of(self._directory)]
        while more := {owner for maker, owner in made if maker in makers} - makers:
            makers |= more
        shown = await self._directory.key(own.principal.key_id)
        if shown is None or shown.made_by in makers:
            raise PermissionDenied("The asker has had a hand in your key: another person has to approve it.")

    async def _record(self, kind: RecordType, actor: Actor, grant_id: str, grant: Grant | None, **details: Any) -> None:
        """`grant` is None for a damaged one: it says neither whose it is nor for which role."""
        said = "damaged"
        if grant is not None:
            asker = grant.asker
            details |= {"tenant": asker.tenant, "subject": asker.subject, "role": grant.role.value}
            said = f"role {grant.role.value} for {asker.subject!r} of tenant {asker.tenant}"
        await self._events.say(kind, actor, name=grant_id, **details)
        log.warning("%s %s: %s, by %r", kind.value, grant_id, said, actor.name)

    def _shown(self, document: Document) -> Shown:
        grant, damaged = _read(document)
        state = "damaged" if grant is None else grant.state(self._clock())
        return Shown(document.name, document.version, state, grant, damaged)


def _read(document: Document) -> tuple[Grant | None, str]:
    """The grant of a document; None, and why, for one that no program of this version has written."""
    try:
        return Grant.model_validate(document.body), ""
    except ValidationError as error:
        return None, told(error).reason


def _themselves(actor: Actor, permission: Permission) -> Actor:
    """The actor without what is lent to them. Raises PermissionDenied where they lack the permission by themselves."""
    own = actor.principal
    if own is not None and own.lent:
        actor = replace(actor, principal=replace(own, roles=own.own_roles, lent=frozenset()))
    actor.whole_house(permission)
    return actor


def _sound(shown: Shown) -> Grant:
    """The grant, to be approved. Raises Conflict for a damaged one."""
    if shown.grant is None:
        raise Conflict("It cannot be approved: it is damaged.")
    return shown.grant


def _person(actor: Actor) -> Person:
    own = actor.principal
    if own is None:
        return Person(subject=actor.name)
    return Person(tenant=own.tenant, subject=own.subject, key_id=own.key_id)


def _may_end(actor: Actor, grant: Grant | None) -> bool:
    own = actor.principal
    if own is None or Role.ADMIN in own.roles:
        return True
    if grant is None:
        return False
    takers = [each for each in (grant.asker, grant.approver) if each is not None]
    return actor.identity in [(each.tenant, each.subject) for each in takers]
