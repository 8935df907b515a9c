"""The house at one moment: which tenants and projects there are, under which rules. Settings and directory, as one.

What the settings declare stands above what the directory holds: a tenant of the settings cannot be changed through the
administration. A House is never changed; when the directory changes, another takes its place.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from vestry.admin import bodies
from vestry.errors import InvalidKey
from vestry.glass import Glass, glass_of
from vestry.policy import Compiled, Ruling, compiled, ruling_for
from vestry.roles import Permission
from vestry.settings.policy import Rules
from vestry.settings.tree import Settings, Tenant
from vestry.types import ContentMode, Document, Grant, Kind, Limits, Principal

ROUTES = ("chat.completions", "completions")
"""Routes that an engine answers."""
AT_ONCE = 256
"""What is made of documents and tenants in one step, by its number."""
Item = TypeVar("Item")
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
        (house,) = filter(None, cls.building(settings, documents, secret=secret))
        return house

    @classmethod
    def building(cls, settings: Settings, documents: Iterable[Document], *, secret: bytes) -> Iterator[House | None]:
        """As `of`, in steps of some milliseconds, with None after each, and the house at the end: thousands of tenants
        take longer than calls can be made to wait.
        """
        every = list(documents)
        kept = {kind: [each for each in every if each.kind == kind] for kind in Kind}
        made = yield from _each(kept[Kind.TENANT], lambda each: _made(each, _tenant))
        tenants = {each.name: tenant for each, tenant in made} | settings.tenants
        tenants = {name: tenant for name, tenant in tenants.items() if not tenant.disabled}
        projects = yield from _each(kept[Kind.PROJECT], lambda each: _made(each, _project))
        rules = compiled(settings.policy.rules, "settings")
        for each in kept[Kind.POLICY]:
            rules += _made(each, partial(_rules, taken={rule.name for rule in rules}))
        default = settings.policy.default == "allow"
        rulings = yield from _each(tenants, lambda name: ruling_for(name, rules, default=default))
        salts = (yield from _each(tenants, partial(_salt, secret))) if secret else []
        glass = yield from _each(kept[Kind.BREAK_GLASS], lambda each: _made(each, glass_of))
        yield cls(
            tenants,
            {(each.tenant, each.name): project for each, project in projects if project is not None},
            rules=rules,
            rulings=dict(rulings),
            contents=contents_of(tenants),
            extras={name: b',"cache_salt":"' + salt + b'"' for name, salt in salts},
            glass=_glass(grant for _, grant in glass),
        )


def _each(items: Iterable[Item], make: Callable[[Item], T]) -> Generator[None, None, list[tuple[Item, T]]]:
    """Each of them with what is made of it, a step for so many."""
    found = []
    for each in items:
        found.append((each, make(each)))
        if len(found) % AT_ONCE == 0:
            yield
    return found


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


def _glass(grants: Iterable[Glass | None]) -> dict[str, tuple[Glass, ...]]:
    """Grants that are approved, and were not ended, by the credential that asked."""
    found: dict[str, tuple[Glass, ...]] = {}
    for grant in grants:
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
