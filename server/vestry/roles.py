"""Roles and what each may do: one closed table. What stands in no row is denied.

A permission reaches the holder's own tenant, or the whole house where a role that gives it is one of the house's.
The route tables of the data plane and of the administration name one permission a route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType


class Role(StrEnum):
    """What somebody is here. Nobody has more rights than the roles that are given to them."""

    USER = "user"
    TENANT_ADMIN = "tenant-admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Permission(StrEnum):
    """What may be done, as the route tables and refusals name it."""

    CALL = "models.call"
    MODELS_READ = "models.read"
    TENANTS_READ = "tenants.read"
    TENANTS_WRITE = "tenants.write"
    PROJECTS_READ = "projects.read"
    PROJECTS_WRITE = "projects.write"
    USERS_READ = "users.read"
    USERS_WRITE = "users.write"
    KEYS_READ = "keys.read"
    KEYS_WRITE = "keys.write"
    KEYS_FREEZE = "keys.freeze"
    POLICY_READ = "policy.read"
    POLICY_WRITE = "policy.write"
    RECORDS_READ = "records.read"
    STATE_READ = "state.read"
    BREAK_GLASS_ASK = "break-glass.ask"
    BREAK_GLASS_APPROVE = "break-glass.approve"


_READ_DIRECTORY = {
    Permission.MODELS_READ,
    Permission.TENANTS_READ,
    Permission.PROJECTS_READ,
    Permission.USERS_READ,
    Permission.KEYS_READ,
    Permission.POLICY_READ,
}

TABLE: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.USER: frozenset({Permission.CALL, Permission.MODELS_READ}),
        Role.TENANT_ADMIN: frozenset(
            {
                *_READ_DIRECTORY,
                Permission.CALL,
                Permission.PROJECTS_WRITE,
                Permission.USERS_WRITE,
                Permission.KEYS_WRITE,
                Permission.KEYS_FREEZE,
            }
        ),
        Role.OPERATOR: frozenset(
            {
                *_READ_DIRECTORY,
                Permission.KEYS_FREEZE,
                Permission.STATE_READ,
                Permission.BREAK_GLASS_ASK,
                Permission.BREAK_GLASS_APPROVE,
            }
        ),
        Role.AUDITOR: frozenset(
            {
                *_READ_DIRECTORY,
                Permission.RECORDS_READ,
                Permission.STATE_READ,
                Permission.BREAK_GLASS_APPROVE,
            }
        ),
        Role.ADMIN: frozenset(
            {
                *_READ_DIRECTORY,
                Permission.CALL,
                Permission.TENANTS_WRITE,
                Permission.PROJECTS_WRITE,
                Permission.USERS_WRITE,
                Permission.KEYS_WRITE,
                Permission.KEYS_FREEZE,
                Permission.POLICY_WRITE,
                Permission.STATE_READ,
                Permission.BREAK_GLASS_ASK,
                Permission.BREAK_GLASS_APPROVE,
            }
        ),
    }
)
"""Who may do what. An operator never sees content, an auditor changes nothing, an admin reads no records."""

HOUSE = frozenset({Role.OPERATOR, Role.AUDITOR, Role.ADMIN})
"""Roles whose permissions reach every tenant (`CALL` excepted: a call is always the caller's own tenant's)."""


@lru_cache(maxsize=64)
def permissions(roles: frozenset[Role]) -> frozenset[Permission]:
    """All that these roles together may do."""
    return frozenset().union(*(TABLE[role] for role in roles))


def reaches(roles: Iterable[Role], permission: Permission, *, own: bool) -> bool:
    """Whether these roles give the permission over a tenant: `own` says whether it is the holder's."""
    return any(permission in TABLE[role] and (own or role in HOUSE) for role in roles)


@lru_cache(maxsize=64)
def named(roles: frozenset[Role]) -> str:
    """Roles as records and metrics name them: sorted, with commas."""
    return ",".join(sorted(roles))


OF_TENANTS = tuple(map(named, map(frozenset, ({Role.USER}, {Role.TENANT_ADMIN}, {Role.USER, Role.TENANT_ADMIN}))))
"""All roles together that reach one tenant, as `named` writes them."""


def read_roles(text: str) -> frozenset[Role]:
    """The inverse of `named`. Raises ValueError for a role that there is not."""
    return frozenset(Role(each) for each in text.split(",") if each)
