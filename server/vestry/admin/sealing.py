"""Whether content can be sealed as tenants and rules ask for it. Where there is no auditor's key to seal it to, every
call would be refused, so such a tenant or rule is not taken.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from vestry.seams import Change
from vestry.settings.policy import Misfit, Rule, Rules
from vestry.settings.tree import Settings, Tenant
from vestry.types import Kind

MEND = "Make a key elsewhere with `vestry audit keygen`, and put its public half into the tenant's `content.auditor`"


def unsealed(name: str, tenant: Tenant, rules: Iterable[Rule], settings: Settings) -> Iterator[Misfit]:
    """What a tenant of the directory, or rules that are for it, would have sealed without a key for it."""
    if settings.audit.auditor is not None or tenant.content.auditor is not None:
        return
    if tenant.content.seals:
        yield Misfit(("content",), "it is `sealed`, but there is no auditor's key to seal it to", MEND)
    for rule in rules:
        if rule.content == "sealed" and name in (rule.tenants or (name,)):
            yield Misfit(("content",), f"the rule `{rule.name}` seals it, but there is no auditor's key for that", MEND)


async def unsealed_there(change: Change, name: str, body: Mapping[str, Any], settings: Settings) -> list[Misfit]:
    """The same of a tenant and the rules that are in the directory."""
    policy = await change.read(Kind.POLICY, "", "policy")
    try:
        rules = Rules.model_validate(policy.body).rules if policy is not None else ()
    except ValidationError:  # no rule of it is in force, and the one that takes its place is judged
        rules = ()
    return list(unsealed(name, Tenant.model_validate(body), rules, settings))


async def unsealable_rules(change: Change, body: Mapping[str, Any], settings: Settings) -> list[Misfit]:
    """Rules that would have content of the directory's tenants sealed which have no key for it."""
    if settings.audit.auditor is not None:
        return []
    found = []
    lacking: dict[str, bool] = {}
    for number, rule in enumerate(Rules.model_validate(body).rules):
        if rule.content == "sealed":
            async for name in _without_key(change, rule, settings, lacking):
                what = f"the tenant `{name}` has no auditor's key to seal it to"
                found.append(Misfit(("rules", number, "content"), what, MEND))
    return found


async def _without_key(change: Change, rule: Rule, settings: Settings, lacking: dict[str, bool]) -> AsyncIterator[str]:
    """`lacking` says of whom that is known: a tenant is read once, however many rules are for it, since nobody else
    changes anything meanwhile.
    """
    for name in rule.tenants or await change.names(Kind.TENANT, "", sys.maxsize):
        if name not in lacking:
            kept = await change.read(Kind.TENANT, "", name) if name not in settings.tenants else None
            lacking[name] = kept is not None and not (kept.body.get("content") or {}).get("auditor")
        if lacking[name]:
            yield name
