"""Policy: which rule decides on a call. Pure: the same arguments give the same answer, and nothing is asked for.

Rules are tried in their order, those of the settings before those of the directory; the first that is for the call
decides. What models a tenant, a project and a credential may use at all is not decided here (see `authorize`).
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Container, Iterable
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_network

from msgspec import Struct, field

from vestry import addresses
from vestry.roles import Role
from vestry.settings.policy import DAYS, Hours, Rule
from vestry.types import ContentMode, Head, Network, Principal

DEFAULT = "default"
MINUTE = 60_000_000
MOST_KNOWN = 4096


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

    def holds(self, moment: int) -> bool:
        """Whether this minute since the epoch is in it."""
        minute, day = _local(moment, self.zone)
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


@lru_cache(maxsize=256)
def _local(moment: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """The minute of the day, and the day of the week (0 is Monday), of a minute since the epoch."""
    there = datetime.fromtimestamp(moment * 60, zone)
    return there.hour * 60 + there.minute, there.weekday()


Facts = tuple[str, str, str, str, str, str, str]
FACTS = ("tenants", "projects", "subjects", "keys", "issuers", "models", "routes")


def facts(principal: Principal, head: Head, model: str) -> Facts:
    """What rules ask of a call by name, in the order of FACTS."""
    return (
        principal.tenant,
        principal.project,
        principal.subject,
        principal.key_id,
        principal.issuer,
        model,
        head.route,
    )


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

    conditions: tuple[tuple[str, int, frozenset[str]], ...] = ()
    """Those on names, once more: which fact (`facts`) is to be among which names."""
    ranges: tuple[tuple[int, int, int], ...] = ()
    """Those on networks, once more (`_ranges`)."""

    def unmet(self, found: Facts, principal: Principal, head: Head) -> str:
        """The first condition that does not hold; empty where the rule is for this call."""
        return self.unnamed(found, principal) or self.elsewhere(head)

    def unnamed(self, found: Facts, principal: Principal) -> str:
        """The first condition on names or roles that does not hold."""
        for name, place, wanted in self.conditions:
            if found[place] not in wanted:
                return name
        return "roles" if self.roles is not None and self.roles.isdisjoint(principal.roles) else ""

    def elsewhere(self, head: Head) -> str:
        """The first condition on place and time that does not hold."""
        if self.ranges and not _within(head.source, self.ranges, unknown=not self.allow):
            return "sources"
        return "hours" if self.hours and not self._open(head.began_wall // MINUTE) else ""

    def _open(self, minute: int) -> bool:
        for span in self.hours:  # noqa: SIM110 - as below
            if span.holds(minute):
                return True
        return False


class Ruling(Struct, frozen=True):
    """The rules that can be for one tenant's calls, and what is decided where none is for a call.

    `known` remembers which of them names and roles leave, by both: as long as the rules, and bounded.
    """

    rules: tuple[Compiled, ...] = ()
    default: bool = True
    known: dict[tuple[Facts, frozenset[Role]], tuple[Compiled, ...]] = field(default_factory=dict)

    def decide(self, principal: Principal, head: Head, model: str) -> Compiled | None:
        """The rule that decides; None for the default."""
        found = facts(principal, head, model)
        left = self.known.get((found, principal.roles))
        if left is None:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            left = tuple([rule for rule in self.rules if not rule.unnamed(found, principal)])
            self.known[found, principal.roles] = left
        for rule in left:
            if not rule.elsewhere(head):
                return rule
        return None

    @property
    def silent(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.rules and self.default


def compiled(rules: Iterable[Rule], origin: str, taken: Container[str] = ()) -> tuple[Compiled, ...]:
    """Rules made ready. `origin` says where they stand: `settings` or `directory`. One whose name is taken by another
    is called `ORIGIN/NAME`, as no rule can be named, so that a record says which of them decided.
    """
    return tuple(
        _compiled(rule, origin, f"{origin}/{rule.name}" if rule.name in taken else rule.name) for rule in rules
    )


def _compiled(rule: Rule, origin: str, name: str) -> Compiled:
    def wanted(names: tuple[str, ...]) -> frozenset[str] | None:
        return frozenset(names) if names else None

    networks = tuple(ip_network(each) for each in rule.sources)
    named = {name: wanted(getattr(rule, name)) for name in FACTS}
    return Compiled(
        name=name,
        allow=rule.effect == "allow",
        origin=origin,
        **named,
        roles=frozenset(rule.roles) if rule.roles else None,
        sources=networks,
        ranges=_ranges(networks),
        hours=tuple(map(_span, rule.hours)),
        max_tokens=rule.max_tokens,
        choices=rule.choices,
        tools=rule.tools,
        content=None if rule.content is None else ContentMode(rule.content),
        conditions=tuple((name, FACTS.index(name), names) for name, names in named.items() if names is not None),
    )


def ruling_for(tenant: str, rules: tuple[Compiled, ...], *, default: bool) -> Ruling:
    """The rules that can be for a tenant: its calls ask no others."""
    return Ruling(tuple(each for each in rules if each.tenants is None or tenant in each.tenants), default)


def _span(hours: Hours) -> Span:
    begin, end = (int(text[:2]) * 60 + int(text[3:]) for text in (hours.begin, hours.end))
    return Span(frozenset(DAYS.index(day) for day in hours.days), begin, end, zoneinfo.ZoneInfo(hours.timezone))


def _ranges(networks: Iterable[Network]) -> tuple[tuple[int, int, int], ...]:
    """Networks as version, netmask and address: numbers are compared at a tenth of what objects cost."""
    return tuple((each.version, int(each.netmask), int(each.network_address)) for each in networks)


def _within(source: str, ranges: tuple[tuple[int, int, int], ...], *, unknown: bool) -> bool:
    """Whether the address is in one of these. `unknown` is the answer for one that is not known: it fails closed."""
    version, number = _address(source)
    if not version:
        return unknown
    for family, mask, base in ranges:  # noqa: SIM110 - a generator costs as much as all of it
        if family == version and number & mask == base:
            return True
    return False


@lru_cache(maxsize=4096)
def _address(source: str) -> tuple[int, int]:
    """Version and number of an address; 0 for none."""
    address = addresses.read(source)
    return (0, 0) if address is None else (address.version, int(address))
