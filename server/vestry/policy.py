"""Policy: which rule decides on a call. Pure: the same arguments give the same answer, and nothing is asked for.

Rules are tried in their order, those of the settings before those of the directory; the first that is for the call
decides. What models a tenant, a project and a credential may use at all is not decided here (see `authorize`).
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

from msgspec import Struct

from vestry.roles import Role
from vestry.settings_policy import DAYS, Hours, Rule
from vestry.types import ContentMode, Head, Network, Principal

DEFAULT = "default"


class Span(Struct, frozen=True):
    """A part of the week, in minutes of a day; `end` may be of the day after."""

    days: frozenset[int]
    begin: int
    end: int
    zone: zoneinfo.ZoneInfo

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        begin, end = (f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (self.begin, self.end))
        return f"{days} {begin}-{end} {self.zone.key}"

    def holds(self, moment: datetime) -> bool:
        there = moment.astimezone(self.zone)
        minute, day = there.hour * 60 + there.minute, there.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        before = (there - timedelta(days=1)).weekday()
        return (day in self.days and minute >= self.begin) or (before in self.days and minute < self.end)


class Compiled(Struct, frozen=True):
    """A rule, ready to be asked. `None` is no condition, and no bound."""

    name: str
    allow: bool
    origin: str
    tenants: frozenset[str] | None
    projects: frozenset[str] | None
    roles: frozenset[Role] | None
    subjects: frozenset[str] | None
    keys: frozenset[str] | None
    issuers: frozenset[str] | None
    models: frozenset[str] | None
    routes: frozenset[str] | None
    sources: tuple[Network, ...]
    hours: tuple[Span, ...]
    max_tokens: int | None = None
    choices: int | None = None
    tools: bool | None = None
    content: ContentMode | None = None

    def unmet(self, principal: Principal, head: Head, model: str) -> str:
        """The first condition that does not hold; empty where the rule is for this call."""
        for name, wanted, found in (
            ("tenants", self.tenants, principal.tenant),
            ("projects", self.projects, principal.project),
            ("subjects", self.subjects, principal.subject),
            ("keys", self.keys, principal.key_id),
            ("issuers", self.issuers, principal.issuer),
            ("models", self.models, model),
            ("routes", self.routes, head.route),
        ):
            if wanted is not None and found not in wanted:
                return name
        if self.roles is not None and not self.roles & principal.roles:
            return "roles"
        if self.sources and not _within(head.source, self.sources):
            return "sources"
        if self.hours:
            moment = datetime.fromtimestamp(head.began_wall / 1_000_000, UTC)
            if not any(span.holds(moment) for span in self.hours):
                return "hours"
        return ""


class Ruling(Struct, frozen=True):
    """The rules that can be for one tenant's calls, and what is decided where none is for a call."""

    rules: tuple[Compiled, ...] = ()
    default: bool = True

    def decide(self, principal: Principal, head: Head, model: str) -> Compiled | None:
        """The rule that decides; None for the default."""
        for rule in self.rules:
            if not rule.unmet(principal, head, model):
                return rule
        return None

    @property
    def silent(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.rules and self.default


def compiled(rules: Iterable[Rule], origin: str) -> tuple[Compiled, ...]:
    """Rules made ready. `origin` says where they stand: `settings` or `directory`."""
    return tuple(_compiled(rule, origin) for rule in rules)


def _compiled(rule: Rule, origin: str) -> Compiled:
    def wanted(names: tuple[str, ...]) -> frozenset[str] | None:
        return frozenset(names) if names else None

    return Compiled(
        name=rule.name,
        allow=rule.effect == "allow",
        origin=origin,
        tenants=wanted(rule.tenants),
        projects=wanted(rule.projects),
        roles=frozenset(rule.roles) if rule.roles else None,
        subjects=wanted(rule.subjects),
        keys=wanted(rule.keys),
        issuers=wanted(rule.issuers),
        models=wanted(rule.models),
        routes=wanted(rule.routes),
        sources=tuple(ip_network(each) for each in rule.sources),
        hours=tuple(map(_span, rule.hours)),
        max_tokens=rule.max_tokens,
        choices=rule.choices,
        tools=rule.tools,
        content=None if rule.content is None else ContentMode(rule.content),
    )


def by_tenant(rules: tuple[Compiled, ...], tenants: Iterable[str], *, default: bool) -> Mapping[str, Ruling]:
    """For each tenant the rules that can be for it: a call asks no others."""
    return {
        tenant: Ruling(tuple(each for each in rules if each.tenants is None or tenant in each.tenants), default)
        for tenant in tenants
    }


def _span(hours: Hours) -> Span:
    begin, end = (int(text[:2]) * 60 + int(text[3:]) for text in (hours.begin, hours.end))
    return Span(frozenset(DAYS.index(day) for day in hours.days), begin, end, zoneinfo.ZoneInfo(hours.timezone))


def _within(source: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(source)
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in network for network in networks)
