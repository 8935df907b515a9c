"""What whoever writes a project or a user does not go beyond: their own rights, and what is the house's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestry.admin.actor import Actor, covered, own_end, within, within_scope
from vestry.admin.bodies import Project, User
from vestry.errors import PermissionDenied
from vestry.roles import Permission, Role
from vestry.seams import Change
from vestry.settings.section import Section
from vestry.types import Kind, Limits


def document_within_bounds(actor: Actor, body: Section) -> None:
    """A project or user is never wider than the credential of whoever writes it. Raises PermissionDenied."""
    if isinstance(body, User):
        within(actor, body.roles)
        within_scope(actor, _set(body.models), body.project or "", _limits(body))
    if isinstance(body, Project):
        if actor.principal is not None and actor.principal.project:
            raise PermissionDenied("Your own credential belongs to one project, and does not make its bounds.")
        within_scope(actor, _set(body.models), "", _limits(body))


def not_the_houses(actor: Actor, kind: Kind, body: Mapping[str, Any]) -> None:
    """Whom the house has disabled, who reaches one tenant does not let in again. Raises PermissionDenied."""
    shut_out = kind == Kind.USER and body.get("disabled") and not body.get("except_house")
    if shut_out and actor.reach(Permission.USERS_WRITE) is not None:
        raise PermissionDenied("The house has disabled this user, and your role reaches one tenant.", param="disabled")


async def holds_no_house_key(change: Change, actor: Actor, tenant: str, project: str) -> None:
    """Who reaches one tenant neither stops nor lets in a key that reaches the house by its project, as they do not by
    itself. Raises PermissionDenied.
    """
    if actor.reach(Permission.PROJECTS_WRITE) is None:
        return
    if await change.reaches_house(tenant, project):
        said = "A key of the project reaches the whole house, and your role one tenant."
        raise PermissionDenied(said, param="disabled")


async def within_reach(change: Change, actor: Actor, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """A user has roles everywhere and without an end: who has their own from some networks, or for a while, gives none,
    or would go on by them. What the user has already may stay, or be less. Raises PermissionDenied, with `param`.
    """
    if actor.principal is None:
        return
    let_in = before.get("disabled") and not after["disabled"]
    had = frozenset() if let_in else frozenset(map(Role, before.get("roles", ())))
    if covered(frozenset(map(Role, after["roles"])), had):
        return
    if actor.principal.sources:
        said = "Your own credential may be used from fewer addresses than the roles that you give."
        raise PermissionDenied(said, param="roles")
    if await own_end(change, actor) is not None:
        raise PermissionDenied("Your own key expires, and the roles that you give do not.", param="roles")


def _set(models: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if models is None else frozenset(models)


def _limits(body: Project | User) -> Limits:
    return Limits(body.concurrency, body.requests_per_minute)
