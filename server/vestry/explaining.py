"""Explains what would become of a call, step by step: the same functions decide that decide on calls."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from vestry.authenticate import admitted, from_there
from vestry.authorize import authorize, may_use
from vestry.errors import KeysUnavailable, Refusal
from vestry.house import ROUTES, House
from vestry.policy import Compiled, facts
from vestry.roles import Permission, named
from vestry.types import Call, Document, Grant, Head, Key, Operation, Principal, ServedModel
from vestry.user import with_user

YEARS = range(1971, 3000)
"""When a call may be supposed to come. A rule's zone moves it by up to a day, and the calendar has to have that."""


class Step(Struct, frozen=True):
    """One question that was asked. `rule` names the rule of the policy whose it is, with where it stands."""

    asked: str
    answer: str
    rule: str = ""
    origin: str = ""


class Explanation(Struct, frozen=True):
    """What is decided, and why. `status` and `message` are what the client would be told."""

    allowed: bool
    rule: str
    status: int
    message: str
    steps: tuple[Step, ...]
    bounds: Mapping[str, int | str | bool]


class Caller(Struct, frozen=True):
    """Who would call: the holder of a key, or of a token or certificate, whose `user` the directory may keep."""

    principal: Principal
    key: Key | None = None
    user: Document | None = None

    @classmethod
    def by(cls, key: Key) -> Caller:
        """Whoever holds this key, be it good or not."""
        return cls(key.holder(), key)

    def found(self, head: Head) -> Principal | None:
        """As seams.Credentials finds them: None by a key that is not active, and for a user who is disabled. Raises
        KeysUnavailable for a key or user that is damaged.
        """
        if self.key is not None:
            state = self.key.state(head.began_wall)
            if state == "damaged":
                raise KeysUnavailable
            return self.principal if state == "active" else None
        return with_user(self.principal, self.user)


def supposed(
    *, route: str, source: str, wall: int, model: str, choices: int, max_tokens: int | None, tools: bool
) -> tuple[Head, Call]:
    """A call that might be made at a time (`wall`, microseconds since the epoch): as much of it as decides."""
    operation = Operation.CHAT if route == ROUTES[0] else Operation.TEXT_COMPLETION
    head = Head("", route, operation, "POST", source, "", "", "", None, 0.0, wall)
    call = Call(
        model=model,
        stream=False,
        include_usage=False,
        choices=choices,
        body=b"{}",
        prompt_bytes=0,
        sampling={},
        completion_tokens=max_tokens,
        tools=tools,
    )
    return head, call


def explain(caller: Caller, head: Head, call: Call, models: Mapping[str, ServedModel], house: House) -> Explanation:
    """What `admitted` and `authorize` say of this call, and the questions on the way to it."""
    try:
        known = caller.found(head)
    except KeysUnavailable as fault:
        unread = Step("user can be read" if caller.key is None else "key can be read", "no")
        return Explanation(False, fault.rule, fault.status, fault.reason, (unread,), {})
    known = None if known is None else house.lifted(known, head.began_wall)
    principal = caller.principal if known is None else known
    steps = [*_credential(caller, head), *_lent(principal), *_scopes(principal, head, call, models, house)]
    decided: Compiled | None = None
    ruling = house.rulings.get(principal.tenant)
    found = facts(principal, head, call.model)
    for rule in ruling.rules if ruling is not None else ():
        unmet = rule.unmet(found, principal, head)
        says = f"not for this call: {unmet}" if unmet else f"decides: {'allow' if rule.allow else 'deny'}"
        steps.append(Step("rule", says, rule.name, rule.origin))
        if not unmet:
            decided = rule
            break
    if ruling is not None and decided is None:
        steps.append(Step("default", "allow" if ruling.default else "deny"))
    outcome = _decided(known, head, call, models, house)
    bounds = {} if decided is None or not decided.allow else bounds_of(decided)
    if isinstance(outcome, Refusal):
        return Explanation(False, outcome.rule, outcome.status, outcome.reason, tuple(steps), bounds)
    return Explanation(True, outcome.rule, 200, "", tuple(steps), bounds)


def moment_of(when: datetime) -> int:
    """A time with its offset, in microseconds since the epoch. Raises ValueError for one that no call comes at."""
    if when.year not in YEARS:
        raise ValueError(f"a call comes in the years {YEARS[0]} to {YEARS[-1]}")
    return round(when.timestamp() * 1_000_000)


def bounds_of(rule: Compiled) -> dict[str, int | str | bool]:
    """The bounds that a rule sets."""
    said = {"max_tokens": rule.max_tokens, "choices": rule.choices, "tools": rule.tools, "content": rule.content}
    return {name: value for name, value in said.items() if value is not None}


def _said(holds: bool) -> str:
    return "yes" if holds else "no"


def _credential(caller: Caller, head: Head) -> list[Step]:
    """What is asked of the credential itself. All that can be wrong with it is the same refusal."""
    steps = []
    if caller.key is not None:
        state = caller.key.state(head.began_wall)
        steps.append(Step("key is active", "yes" if state == "active" else f"no: {state}"))
    if caller.user is not None:
        steps.append(Step("user is not disabled", _said(caller.found(head) is not None)))
    if caller.principal.sources:
        steps.append(Step("credential may be used from there", _said(from_there(head.source, caller.principal))))
    return steps


def _lent(principal: Principal) -> list[Step]:
    """What a break-glass grant lends them at this time."""
    if not principal.broken_glass:
        return []
    return [Step("a break-glass grant lends a role", f"{named(principal.lent) or 'none'} ({principal.broken_glass})")]


def _scopes(
    principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House
) -> list[Step]:
    tenant = house.tenants.get(principal.tenant)
    steps = [Step("tenant is there, and not disabled", _said(tenant is not None))]
    if principal.project:
        there = (principal.tenant, principal.project) in house.projects
        steps.append(Step("project is there, and not disabled", _said(there)))
    steps.append(Step("a role allows calls", _said(Permission.CALL in principal.permissions)))
    routes = principal.routes
    steps.append(Step("credential is for the route", _said(routes is None or head.route in routes)))
    try:
        allowed = tenant is not None and may_use(principal, house, call.model)
    except Refusal:
        allowed = False
    steps.append(Step("tenant, project and credential may use the model", _said(allowed)))
    if allowed:  # whether one that is not theirs is served is nothing that a tenant's administrator finds out
        steps.append(Step("model is served", _said(call.model in models)))
    return steps


def _decided(
    found: Principal | None, head: Head, call: Call, models: Mapping[str, ServedModel], house: House
) -> Grant | Refusal:
    try:
        return authorize(admitted(found, head, house.tenants), head, call, models, house)
    except Refusal as refusal:
        return refusal
