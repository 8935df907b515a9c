"""The house at one moment: which tenants and projects there are, under which rules. Settings and directory, as one.

What the settings declare stands above what the directory holds: a tenant of the settings cannot be changed through the
administration. A House is never changed; when the directory changes, another takes its place.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from vestry.admin import bodies
from vestry.errors import InvalidKey
from vestry.glass import Glass, glass_of
from vestry.policy import Compiled, Ruling, by_tenant, compiled
from vestry.roles import Permission
from vestry.settings.policy import Rules
from vestry.settings.tree import Settings, Tenant
from vestry.types import ContentMode, Document, Grant, Kind, Limits, Principal

ROUTES = ("chat.completions", "completions")
"""Routes that an engine answers."""
T = TypeVar("T")


class Project(Struct, frozen=True):
    """What those who belong to a project may use. `models` is None for all that the tenant may."""

    models: frozenset[str] | None
    limits: Limits


class House(Struct, frozen=True):
    """Tenants by name, projects by tenant and name: those that are not disabled. Rules by tenant; what an engine is
    told of each tenant (`extras`), and what is kept of whose prompts and answers (`contents`, by tenant and route).
    Break-glass grants that are approved (`glass`), by the credential that asked.
    """

    tenants: Mapping[str, Tenant]
    projects: Mapping[tuple[str, str], Project] = {}
    rules: tuple[Compiled, ...] = ()
    rulings: Mapping[str, Ruling] = {}
    contents: Mapping[tuple[str, str], ContentMode] = {}
    extras: Mapping[str, bytes] = {}
    glass: Mapping[str, tuple[Glass, ...]] = {}
    granted: dict[tuple[str, str, str], tuple[Principal, Grant]] = {}
    """What `authorize` has found in this house: it follows from the rest, and spares asking again."""

    def project(self, principal: Principal) -> Project | None:
        """The project that they belong to; None for none. Raises InvalidKey for one that is gone, or is disabled."""
        if not principal.project:
            return None
        found = self.projects.get((principal.tenant, principal.project))
        if found is None:
            raise InvalidKey
        return found

    def lifted(self, principal: Principal, moment: int) -> Principal:
        """The principal with the role that a break-glass grant lends them at this time (microseconds since the epoch).

        Where there is no grant this is one look into an empty mapping. Who may not ask any more has nothing lent.
        """
        for each in self.glass.get(principal.key_id, ()):
            if (
                moment < each.until
                and (each.tenant, each.subject) == (principal.tenant, principal.subject)
                and Permission.BREAK_GLASS_ASK in principal.permissions
            ):
                lent = frozenset({each.role})
                return replace(
                    principal, roles=principal.roles | lent, lent=lent - principal.roles, broken_glass=each.id
                )
        return principal

    def broken(self, moment: int) -> int:
        """How many break-glass grants are active at this time."""
        return sum(moment < each.until for grants in self.glass.values() for each in grants)

    @classmethod
    def of(cls, settings: Settings, documents: Iterable[Document] = (), *, secret: bytes = b"") -> House:
        """The house of these settings and documents. Raises ValueError, which names it, for a document that no program
        of this version has written. `secret` is what tenants' salts are made with, the same on all servers of a house.
        """
        every = list(documents)
        kept = {kind: [each for each in every if each.kind == kind] for kind in Kind}
        tenants = {each.name: _made(each, _tenant) for each in kept[Kind.TENANT]} | settings.tenants
        tenants = {name: tenant for name, tenant in tenants.items() if not tenant.disabled}
        projects = {(each.tenant, each.name): _made(each, _project) for each in kept[Kind.PROJECT]}
        rules = compiled(settings.policy.rules, "settings")
        for each in kept[Kind.POLICY]:
            rules += _made(each, partial(_rules, taken={rule.name for rule in rules}))
        return cls(
            tenants,
            {place: project for place, project in projects.items() if project is not None},
            rules=rules,
            rulings=by_tenant(rules, tenants, default=settings.policy.default == "allow"),
            contents=contents_of(tenants),
            extras={name: b',"cache_salt":"' + _salt(secret, name) + b'"' for name in tenants} if secret else {},
            glass=_glass(kept[Kind.BREAK_GLASS]),
        )


def _made(document: Document, make: Callable[[Document], T]) -> T:
    """What is made of a document. Raises ValueError that says which one it is, whatever is wrong with it."""
    try:
        return make(document)
    except ValidationError as error:
        said = bodies.told(error).reason
    except (ValueError, OverflowError) as error:  # a year beyond the calendar is the latter
        said = str(error)
    place = f"{document.tenant}/{document.name}" if document.tenant else document.name
    raise ValueError(f"the {document.kind} {place}: {said}")


def _tenant(document: Document) -> Tenant:
    return Tenant.model_validate(document.body)


def _project(document: Document) -> Project | None:
    """The project; None for one that is disabled."""
    read = bodies.Project.kept(document.body)
    if read.disabled:
        return None
    models = None if read.models is None else frozenset(read.models)
    return Project(models, Limits(read.concurrency, read.requests_per_minute))


def _rules(document: Document, taken: set[str]) -> tuple[Compiled, ...]:
    return compiled(Rules.model_validate(document.body).rules, "directory", taken)


def _glass(documents: Iterable[Document]) -> dict[str, tuple[Glass, ...]]:
    """Grants that are approved, and were not ended, by the credential that asked."""
    found: dict[str, tuple[Glass, ...]] = {}
    for document in documents:
        grant = _made(document, glass_of)
        if grant is not None:
            found[grant.key_id] = (*found.get(grant.key_id, ()), grant)
    return found


def contents_of(tenants: Mapping[str, Tenant]) -> dict[tuple[str, str], ContentMode]:
    """The mode of each tenant and route whose content is kept."""
    found = {
        (name, route): ContentMode(tenant.content.mode(route)) for name, tenant in tenants.items() for route in ROUTES
    }
    return {place: mode for place, mode in found.items() if mode != ContentMode.METADATA}


def _salt(secret: bytes, tenant: str) -> bytes:
    """What keeps a tenant's prefixes in an engine's cache from every other's (vLLM's `cache_salt`)."""
    mac = hmac.digest(secret, b"vestry cache salt\n" + tenant.encode(), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=")
