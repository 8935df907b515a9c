"""Explains what would become of a call, step by step: the same functions decide that decide on calls."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from vestry.authorize import authorize, may_use
from vestry.errors import InvalidKey, Refusal
from vestry.house import House
from vestry.policy import Compiled, facts
from vestry.roles import Permission
from vestry.types import Call, Grant, Head, Principal, ServedModel


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


def explain(
    principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House
) -> Explanation:
    """What `authorize` says of this call, and the questions on the way to it."""
    steps = [*_scopes(principal, head, call, models, house)]
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
    outcome = _decided(principal, head, call, models, house)
    bounds = {} if decided is None or not decided.allow else bounds_of(decided)
    if isinstance(outcome, Refusal):
        return Explanation(False, outcome.rule, outcome.status, outcome.reason, tuple(steps), bounds)
    return Explanation(True, outcome.rule, 200, "", tuple(steps), bounds)


def bounds_of(rule: Compiled) -> dict[str, int | str | bool]:
    """The bounds that a rule sets."""
    said = {"max_tokens": rule.max_tokens, "choices": rule.choices, "tools": rule.tools, "content": rule.content}
    return {name: value for name, value in said.items() if value is not None}


def _scopes(
    principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House
) -> list[Step]:
    def said(holds: bool) -> str:
        return "yes" if holds else "no"

    tenant = house.tenants.get(principal.tenant)
    steps = [Step("tenant is there, and not disabled", said(tenant is not None))]
    if principal.project:
        there = (principal.tenant, principal.project) in house.projects
        steps.append(Step("project is there, and not disabled", said(there)))
    steps.append(Step("a role allows calls", said(Permission.CALL in principal.permissions)))
    routes = principal.routes
    steps.append(Step("credential is for the route", said(routes is None or head.route in routes)))
    steps.append(Step("model is served", said(call.model in models)))
    try:
        allowed = tenant is not None and may_use(principal, house, call.model)
    except Refusal:
        allowed = False
    steps.append(Step("tenant, project and credential may use the model", said(allowed)))
    return steps


def _decided(
    principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House
) -> Grant | Refusal:
    if principal.tenant not in house.tenants:
        return InvalidKey()
    try:
        return authorize(principal, head, call, models, house)
    except Refusal as refusal:
        return refusal
