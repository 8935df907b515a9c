"""Tenants, projects, users and the policy: read, written and removed, each change judged, recorded, then done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from pydantic import ValidationError

from vestry.admin import models
from vestry.admin.actor import Actor, Match
from vestry.admin.bodies import Project, User, faulty, judge, lean, plain, told
from vestry.admin.bounds import document_within_bounds, holds_no_house_key, not_the_houses, within_reach
from vestry.admin.events import Events
from vestry.admin.names import is_name
from vestry.admin.recordable import both, recordable
from vestry.admin.sealing import unsealable_rules, unsealed, unsealed_there
from vestry.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
)
from vestry.roles import Permission
from vestry.seams import Change, Directory
from vestry.settings.policy import Misfit, Rules, misfits
from vestry.settings.section import Section
from vestry.settings.tree import Settings, Tenant
from vestry.types import Document, Kind

FORMS: Mapping[Kind, type[Section]] = {
    Kind.TENANT: Tenant,
    Kind.PROJECT: Project,
    Kind.USER: User,
    Kind.POLICY: Rules,
}
READ = {
    Kind.TENANT: Permission.TENANTS_READ,
    Kind.PROJECT: Permission.PROJECTS_READ,
    Kind.USER: Permission.USERS_READ,
    Kind.POLICY: Permission.POLICY_READ,
}
WRITE = {
    Kind.TENANT: Permission.TENANTS_WRITE,
    Kind.PROJECT: Permission.PROJECTS_WRITE,
    Kind.USER: Permission.USERS_WRITE,
    Kind.POLICY: Permission.POLICY_WRITE,
}
MOST_PROJECTS = 1000
"""Of one tenant: every server knows all projects of the house, and reads them again with each change."""
DECLARED = "It is declared in the settings, and changed only there."


class Where(Struct, frozen=True):
    """Which document is meant. `tenant` is empty for a tenant itself, and for the policy."""

    kind: Kind
    tenant: str
    name: str

    @property
    def of(self) -> str:
        """The tenant whose it is."""
        return self.name if self.kind == Kind.TENANT else self.tenant

    @property
    def title(self) -> str:
        """For people: `project triage of radiology`; `policy`."""
        if self.kind == Kind.POLICY:
            return "policy"
        return f"{self.kind} {self.name}" + (f" of {self.tenant}" if self.tenant else "")


class Kept(Struct, frozen=True):
    """A document, and what came of it. `declared` says that it stands in the settings, `new` that there was none."""

    document: Document
    declared: bool = False
    changed: bool = False
    new: bool = False

    @property
    def damage(self) -> str:
        """Why it cannot be used: somebody has changed it by hand, or a program of another version. Empty as a rule."""
        kind, body = self.document.kind, self.document.body
        try:
            if kind == Kind.PROJECT:
                Project.kept(body)
            elif kind == Kind.USER:
                judge(User, body)  # as strict about types as `adapters.users`
            else:
                FORMS[kind].model_validate(body)
        except InvalidRequest as fault:
            return fault.reason
        except ValidationError as error:
            return told(error).reason
        except ValueError as error:
            return f"{error}."
        return ""


class Documents:
    """What the administration does with documents. `models` are the names of those that are served."""

    def __init__(self, directory: Directory, events: Events, settings: Settings) -> None:
        self._directory, self._events, self._settings = directory, events, settings

    # Reading.

    async def read(self, actor: Actor, where: Where) -> Kept:
        """One of them. Raises NotFound for what there is not, and for what is another tenant's."""
        self._may(actor, READ, where)
        if (declared := self._declared(where.kind, where.name)) is not None:
            return Kept(declared, declared=True)
        found = await self._directory.read(where.kind, where.tenant, where.name)
        if found is None:
            raise NotFound
        return Kept(found)

    async def page(self, actor: Actor, kind: Kind, tenant: str | None, after: str, limit: int) -> list[Kept]:
        """At most `limit` of them, in byte order of `tenant/name`, which come after `after`.

        `tenant` None is every one that the actor may read.
        """
        if kind == Kind.TENANT:
            return await self._tenants(actor, after, limit)
        own = actor.reach(READ[kind]) if kind != Kind.POLICY else None
        if own is not None and tenant is not None and tenant != own:
            raise NotFound
        return [Kept(each) for each in await self._directory.page(kind, tenant or own, after, limit)]

    async def _tenants(self, actor: Actor, after: str, limit: int) -> list[Kept]:
        own = actor.reach(Permission.TENANTS_READ)
        if own is not None:
            return [await self.read(actor, Where(Kind.TENANT, "", own))] if f"/{own}" > after else []
        kept = [Kept(each) for each in await self._directory.page(Kind.TENANT, None, after, limit)]
        declared = [self._declared(Kind.TENANT, name) for name in self._settings.tenants if f"/{name}" > after]
        named = {each.name: Kept(each, declared=True) for each in declared if each is not None}
        merged = {**{each.document.name: each for each in kept}, **named}
        return [merged[name] for name in sorted(merged)][:limit]

    # Writing.

    async def put(self, actor: Actor, where: Where, body: Mapping[str, Any], match: Match) -> Kept:
        """Write one whole. What is there already as it shall be is left alone, and not recorded again.

        Raises Refusals: for a body that has not its form, for rights that the actor lacks, for a version that is not
        the one that `match` names, and where it cannot be recorded.
        """
        judged = self.judged(actor, where, body)
        async with self._directory.changing() as change:
            return await self.put_in(change, actor, where, judged, match)

    def judged(self, actor: Actor, where: Where, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body in its one normal form, if the actor may write it there. Raises Refusals."""
        self._may(actor, WRITE, where)
        if self._declared(where.kind, where.name) is not None:
            raise Conflict(DECLARED)
        return self._judged(actor, where, body)

    async def put_in(
        self,
        change: Change,
        actor: Actor,
        where: Where,
        judged: dict[str, Any],
        match: Match,
        *,
        rules_follow: bool = False,
    ) -> Kept:
        """`put`, within a transaction, of a body that `judged` has given. `rules_follow` says that the policy is
        written or removed later in the same one: the rules that are there now are not what a tenant has to fit.
        """
        found = await change.read(where.kind, where.tenant, where.name)
        if found is not None and lean(found.body) == judged and not match.new:
            return Kept(found)
        match.judge(None if found is None else found.version)
        if found is not None:
            _kept_within_bounds(actor, where.kind, found.body)
            not_the_houses(actor, where.kind, found.body)
        elif where.kind == Kind.PROJECT:
            await _room(change, where.tenant)
        if where.kind == Kind.TENANT and not rules_follow:
            _fitting(await unsealed_there(change, where.name, judged, self._settings))
        await self._judged_there(change, actor, where, _sound(found), judged)
        kept = await change.put(where.kind, where.tenant, where.name, judged)
        bodies = both(FORMS[where.kind], None if found is None else found.body, judged)
        await self._events.document(actor, where.kind, where.tenant, where.name, bodies=bodies)
        return Kept(kept, changed=True, new=found is None)

    async def remove(self, actor: Actor, where: Where, match: Match) -> None:
        """Remove one. Raises NotFound, or Conflict while something depends on it."""
        async with self._directory.changing() as change:
            await self.remove_in(change, actor, where, match)

    async def remove_in(self, change: Change, actor: Actor, where: Where, match: Match) -> None:
        """`remove`, within a transaction."""
        self._may(actor, WRITE, where)
        if self._declared(where.kind, where.name) is not None:
            raise Conflict(DECLARED)
        found = await change.read(where.kind, where.tenant, where.name)
        if found is None:
            raise NotFound
        match.judge(found.version)
        _kept_within_bounds(actor, where.kind, found.body)
        not_the_houses(actor, where.kind, found.body)
        if where.kind == Kind.USER:  # what is left of them is what their tokens say
            document_within_bounds(actor, User())
        await self._unused(change, where)
        await change.remove(where.kind, where.tenant, where.name)
        bodies = both(FORMS[where.kind], found.body, None)
        await self._events.document(actor, where.kind, where.tenant, where.name, bodies=bodies)

    @staticmethod
    def _may(actor: Actor, table: Mapping[Kind, Permission], where: Where) -> None:
        if table is WRITE and where.kind in {Kind.TENANT, Kind.POLICY}:
            actor.whole_house(table[where.kind])
        elif where.kind == Kind.POLICY:
            actor.permit(table[where.kind])
        else:
            actor.require(table[where.kind], where.of)

    def _judged(self, actor: Actor, where: Where, body: Mapping[str, Any]) -> dict[str, Any]:
        if not is_name(where.kind, where.name):
            raise InvalidRequest(f"The name of a {where.kind} does not have the right form.", param="name")
        judged = judge(FORMS[where.kind], body)
        models.served(actor, getattr(judged, "models", None) or (), self._settings)
        document_within_bounds(actor, judged)
        _fitting(misfits_of(where.name, judged, self._settings))
        if isinstance(judged, User) and actor.reach(WRITE[where.kind]) is not None:  # only tokens say whose they are
            judged = judged.model_copy(update={"except_house": judged.disabled})
        return plain(judged)

    async def _judged_there(
        self, change: Change, actor: Actor, where: Where, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Judge by what else is in the directory. Raises Refusals."""
        if where.kind in {Kind.PROJECT, Kind.USER}:
            await self._tenant_is_there(change, where.tenant)
            await self._project_is_there(change, where.tenant, after.get("project"))
            named = set(after["models"] or ()) - set(before.get("models") or ())  # what is there already may stay
            await models.theirs(change, actor, where.tenant, named, self._settings)
        if where.kind == Kind.PROJECT and after["disabled"] != bool(before.get("disabled")):
            await holds_no_house_key(change, actor, where.tenant, where.name)
        if where.kind == Kind.USER:
            await within_reach(change, actor, before, after)
        if where.kind == Kind.POLICY:
            _fitting(await unsealable_rules(change, after, self._settings))

    def _declared(self, kind: Kind, name: str) -> Document | None:
        if kind != Kind.TENANT or name not in self._settings.tenants:
            return None
        return Document(Kind.TENANT, "", name, plain(self._settings.tenants[name]))

    async def _tenant_is_there(self, change: Change, tenant: str) -> None:
        if tenant not in self._settings.tenants and await change.read(Kind.TENANT, "", tenant) is None:
            raise NotFound("There is no such tenant.")

    @staticmethod
    async def _project_is_there(change: Change, tenant: str, project: str | None) -> None:
        if project and await change.read(Kind.PROJECT, tenant, project) is None:
            raise InvalidRequest("The tenant has no such project.", param="project")

    @staticmethod
    async def _unused(change: Change, where: Where) -> None:
        if where.kind == Kind.TENANT:
            if await change.keys(where.name, 1):
                raise Conflict("The tenant has keys: revoke them first.")
            for each in (Kind.PROJECT, Kind.USER):
                if await change.names(each, where.name, 1):
                    raise Conflict(f"The tenant has a {each}: remove it first.")
        if where.kind == Kind.PROJECT:
            keys, users = await change.members(where.tenant, where.name, 1)
            if keys:
                raise Conflict("The project has keys: revoke them, or move them to another, first.")
            if users:
                raise Conflict("The project has users: move them to another, or remove them, first.")


def misfits_of(name: str, body: Section, settings: Settings) -> list[Misfit]:
    """How a tenant or rules of the directory would not fit these settings, which have rules of their own."""
    if isinstance(body, Tenant):
        return list(unsealed(name, body, settings.policy.rules, settings))
    if isinstance(body, Rules):
        return list(
            misfits(
                body.rules,
                models=settings.models,
                issuers=settings.identity.names,
                unsealable=settings.unsealable,
                taken={each.name for each in settings.policy.rules},
            )
        )
    return []


def _fitting(found: list[Misfit]) -> None:
    """Raises InvalidRequest with all of them, if there are any."""
    if found:
        raise faulty([(each.place, f"{each.what}. {each.mend}") for each in found])


async def _room(change: Change, tenant: str) -> None:
    """A tenant's administrator cannot make the whole house slow. Raises Conflict."""
    if len(await change.names(Kind.PROJECT, tenant, MOST_PROJECTS)) >= MOST_PROJECTS:
        raise Conflict(f"The tenant has {MOST_PROJECTS} projects, and more it cannot have: remove one first.")


def _kept_within_bounds(actor: Actor, kind: Kind, body: Mapping[str, Any]) -> None:
    """What is kept is no wider, either. Tenants and policies are not judged, and a damaged project or user cannot be:
    those who reach the whole house replace and remove them all the same. Raises PermissionDenied, Conflict.
    """
    if kind not in {Kind.PROJECT, Kind.USER}:
        return
    try:
        kept = judge(FORMS[kind], body)
    except InvalidRequest:
        if actor.reach(WRITE[kind]) is None:
            return
        raise Conflict("What is kept of it is damaged: have an administrator of the whole house replace it.") from None
    document_within_bounds(actor, kept)


def _sound(document: Document | None) -> dict[str, Any]:
    """What a document says; nothing where there is none, or a damaged one."""
    if document is None:
        return {}
    said = recordable(FORMS[document.kind], document.body)
    return said if said is document.body else {}
