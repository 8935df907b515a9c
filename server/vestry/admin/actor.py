"""Who makes a change, and what they may do: the rights of a principal, or all of them for whoever runs the command
line on the server's own machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from vestry.errors import InvalidRequest, NotFound, PermissionDenied, PreconditionFailed, PreconditionRequired
from vestry.roles import HOUSE, Permission, Role, permissions
from vestry.seams import Change
from vestry.types import Key, Limits, Network, Principal, Via


class Actor(Struct, frozen=True):
    """Who acts. `principal` is None for the command line, whose `name` is the operating system's.

    `source` and `request_id` are those of the call that asked for the change.
    """

    name: str
    principal: Principal | None = None
    source: str = ""
    request_id: str = ""

    @classmethod
    def of(cls, principal: Principal, *, source: str = "", request_id: str = "") -> Actor:
        return cls(principal.subject, principal, source, request_id)

    @property
    def identity(self) -> tuple[str, str]:
        """Tenant and subject: two actors with the same are one person."""
        return (self.principal.tenant, self.principal.subject) if self.principal is not None else ("", self.name)

    @property
    def known(self) -> Principal:
        """The principal. Raises TypeError for the command line."""
        if self.principal is None:
            raise TypeError("the command line is no principal")
        return self.principal

    def described(self) -> dict[str, Any]:
        """The fields of a record that say who it was."""
        if self.principal is None:
            return {"actor": self.name}
        return {
            "actor": self.name,
            "actor_tenant": self.principal.tenant,
            "actor_role": self.principal.role,
            "actor_key_id": self.principal.key_id,
            "break_glass": self.principal.broken_glass,
            "source": self.source,
            "request_id": self.request_id,
        }

    def permit(self, permission: Permission) -> None:
        """Raises PermissionDenied where they may do this nowhere."""
        if self.principal is not None and permission not in self.principal.permissions:
            raise PermissionDenied(f"Your roles do not include the permission `{permission}`.")

    def require(self, permission: Permission, tenant: str) -> None:
        """Raises PermissionDenied, or NotFound for what is another tenant's: nobody can tell whether it exists."""
        self.permit(permission)
        if self.principal is not None and not self.principal.may(permission, tenant):
            raise NotFound

    def reach(self, permission: Permission) -> str | None:
        """The one tenant in which they may do this; None for every one. Raises PermissionDenied."""
        self.permit(permission)
        if self.principal is None or self.principal.may(permission, ""):
            return None
        return self.principal.tenant

    @property
    def is_house(self) -> bool:
        """Whether one of their roles reaches the whole house."""
        return self.principal is None or bool(self.principal.roles & HOUSE)

    def whole_house(self, permission: Permission) -> None:
        """Raises PermissionDenied where they may not do this for the whole house."""
        if self.reach(permission) is not None:
            raise PermissionDenied("This is the house's, and your role reaches one tenant.")


def covered(wanted: frozenset[Role], held: frozenset[Role]) -> bool:
    """Whether roles give nothing that others do not give."""
    return permissions(wanted) <= permissions(held) and (not wanted & HOUSE or bool(held & HOUSE))


def within(actor: Actor, roles: Iterable[Role]) -> None:
    """Nobody gives rights that they do not have, or have on loan. Raises PermissionDenied, with `param`."""
    own = actor.principal
    if own is None:
        return
    if not covered(frozenset(roles), own.own_roles):
        raise PermissionDenied("A role that you give has permissions that you do not have.", param="roles")


def within_bounds(actor: Actor, key: Key) -> None:
    """A key is never wider than the credential of whoever makes it. Raises PermissionDenied, with `param`."""
    own = actor.principal
    if own is None:
        return
    within(actor, key.roles)
    if own.routes is not None and (key.routes is None or not key.routes <= own.routes):
        raise PermissionDenied("Your own credential may use fewer routes.", param="routes")
    if own.sources and not (key.sources and all(_inside(each, own.sources) for each in key.sources)):
        raise PermissionDenied("Your own credential may be used from fewer addresses.", param="sources")
    within_scope(actor, key.models, key.project, key.limits)


def within_scope(actor: Actor, models: frozenset[str] | None, project: str, limits: Limits) -> None:
    """Nobody gives models, projects or calls that they do not have, to themselves or others.

    Raises PermissionDenied, with `param`.
    """
    own = actor.principal
    if own is None:
        return
    if own.models is not None and (models is None or not models <= own.models):
        raise PermissionDenied("Your own credential may use fewer models.", param="models")
    if own.project and project != own.project:
        raise PermissionDenied("Your own credential belongs to one project.", param="project")
    _within_limits(own.limits, limits)


async def own_end(change: Change, actor: Actor) -> int | None:
    """When the key with which they act expires (microseconds since the epoch); None for one that does not.

    Tokens and certificates always expire, and their holders come with the next one: they have no end in this sense.
    """
    if actor.principal is None or actor.principal.via != Via.KEY:
        return None
    own = await change.key(actor.principal.key_id)
    return None if own is None else own.expires


def within_house(actor: Actor, key: Key, permission: Permission) -> None:
    """A key that reaches the whole house is not stopped, or let in again, by who may do this in one tenant, whatever
    else they may in the house; nor is one that is damaged, of which nobody knows.

    Raises PermissionDenied.
    """
    if actor.reach(permission) is None:
        return
    if key.damaged:
        raise PermissionDenied("The key is damaged: have an administrator of the whole house revoke it.")
    if key.roles & HOUSE:
        raise PermissionDenied("The key reaches the whole house, and your role one tenant.")


def _within_limits(own: Limits, given: Limits) -> None:
    for name in ("concurrency", "requests_per_minute"):
        bound, wanted = getattr(own, name), getattr(given, name)
        if bound is not None and (wanted is None or wanted > bound):
            raise PermissionDenied("Your own credential has a lower limit.", param=name)


def _inside(network: Network, others: tuple[Network, ...]) -> bool:
    return any(network.version == other.version and network.subnet_of(other) for other in others)  # type: ignore[arg-type]


class Match(Struct, frozen=True):
    """Which version a change is for (RFC 9110, `If-Match` and `If-None-Match: *`).

    `any_version` is for those who state the whole as it shall be, whatever was there.
    """

    versions: tuple[int, ...] = ()
    new: bool = False
    any_version: bool = False

    @classmethod
    def read(cls, if_match: str | None, if_none_match: str | None) -> Match:
        """From the headers. Raises InvalidRequest for what is no entity tag of this server."""
        if if_none_match is not None and if_none_match.strip() != "*":
            raise InvalidRequest("`If-None-Match` is `*` here, or left out.", param="If-None-Match")
        if if_match is None:
            return cls(new=if_none_match is not None)
        if if_match.strip() == "*":
            return cls(any_version=True, new=if_none_match is not None)
        tags = [each.strip() for each in if_match.split(",")]
        numbers = [each[1:-1] for each in tags if len(each) > 2 and each[0] == each[-1] == '"']
        if len(numbers) != len(tags) or not all(
            each.isascii() and each.isdigit() and len(each) < 16 for each in numbers
        ):
            raise InvalidRequest("`If-Match` is an ETag that this server has given.", param="If-Match")
        return cls(tuple(map(int, numbers)), new=if_none_match is not None)

    def judge(self, version: int | None) -> None:
        """Judge the precondition by the version that there is.

        Raises PreconditionFailed, PreconditionRequired, Conflict.
        """
        if version is None:
            if self.versions:
                raise PreconditionFailed("There is nothing of this name any more.")
            return
        if self.new:
            raise PreconditionFailed("It exists already.")
        if self.any_version:
            return
        if not self.versions:
            raise PreconditionRequired
        if version not in self.versions:
            raise PreconditionFailed
