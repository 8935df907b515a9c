"""Authorization: may this principal make this call? A pure function of the two and the settings.

What was found for a caller of a tenant without rules is kept at hand in the house it was found in: the same caller
(the same object, as memory gives it) gets the same grant until anything changes, and the house with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from vestry.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, PermissionDenied
from vestry.house import House
from vestry.policy import DEFAULT, Compiled
from vestry.roles import Permission
from vestry.settings.tree import Tenant
from vestry.types import Call, ContentMode, Grant, Head, Limits, Operation, Principal, ServedModel

ANY = "*"
USUAL_TOKENS = 16
"""What `max_tokens` is for `/v1/completions` where it is left out (OpenAI's API reference; vLLM does the same)."""
GRANTS = 16_384
"""Grants that a house keeps at hand at most."""
DENIED = "The policy does not allow this call."


def authorize(principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House) -> Grant:
    """The grant. Raises ModelNotFound for a model that is not served, or not for them: nobody can tell which.

    Raises InvalidRequest where the call asks for more than the model has; PermissionDenied for a caller whose roles
    do not let them call at all, whose credential is for other routes, or whom a rule of the policy denies it;
    InvalidKey for one whose project is gone.
    """
    place = principal.key_id, head.route, call.model
    found = house.granted.get(place)
    if found is not None and found[0] is principal:
        grant = found[1]
        _within_model(call, grant.model)
        return grant
    permitted(principal, Permission.CALL, head.route)
    allowed = may_use(principal, house, call.model)
    model = models.get(call.model)
    if model is None or not allowed:
        raise ModelNotFound(param="model")
    _within_model(call, model)
    tenant = principal.tenant
    caller, limits, extra = bounded(principal, house), limits_of(house.tenants[tenant]), house.extras.get(tenant, b"")
    content = house.contents.get((tenant, head.route), ContentMode.METADATA)
    ruling = house.rulings.get(tenant)
    if ruling is None or ruling.silent:
        rule = "tenant-model" if principal.models is None else "tenant-and-key-model"
        grant = Grant(caller, model, rule, limits, extra, content)
        if len(house.granted) >= GRANTS:
            house.granted.clear()
        house.granted[place] = principal, grant
        return grant
    decided = ruling.decide(principal, head, model.name)
    if decided is None:
        if not ruling.default:
            raise PermissionDenied(DENIED, rule=DEFAULT)
        return Grant(caller, model, DEFAULT, limits, extra, content)
    within(decided, call)
    bound = None
    if decided.max_tokens is not None and call.completion_tokens is None:
        # An engine refuses more than its context; and of a text completion it makes this many tokens unless told.
        most = USUAL_TOKENS if head.operation == Operation.TEXT_COMPLETION else model.context_length
        bound = min(decided.max_tokens, most)
        extra += b',"max_tokens":%d' % bound
    return Grant(caller, model, decided.name, limits, extra, decided.content or content, bound)


def _within_model(call: Call, model: ServedModel) -> None:
    """Raises InvalidRequest where the call asks for more than the model has."""
    if call.completion_tokens is not None and call.completion_tokens > model.context_length:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {model.context_length} tokens: more are asked for.",
            param=call.asked_in,
        )
    if call.highest_token >= model.vocabulary:
        raise InvalidRequest("A token id is outside the model's vocabulary.", param=call.highest_in)


def within(rule: Compiled, call: Call) -> None:
    """Raises PermissionDenied where the rule denies the call, or the call is beyond one of its bounds."""
    if not rule.allow:
        raise PermissionDenied(DENIED, rule=rule.name)
    for param, bound, asked in (
        (call.asked_in, rule.max_tokens, call.completion_tokens),
        ("min_tokens", rule.max_tokens, call.sampling.get("min_tokens")),
        ("n", rule.choices, call.choices),
    ):
        if bound is not None and asked is not None and asked > bound:
            raise PermissionDenied(f"The policy allows at most {bound} here.", param=param, rule=rule.name)
    if rule.tools is False and call.tools:
        raise PermissionDenied("The policy allows no tools here.", param="tools", rule=rule.name)


def permitted(principal: Principal, permission: Permission, route: str) -> None:
    """Raises PermissionDenied where no role of theirs allows this, or their credential is for other routes."""
    if permission not in principal.permissions:
        raise PermissionDenied
    if principal.routes is not None and route not in principal.routes:
        raise PermissionDenied("This credential may not be used for this route.")


def may_use(principal: Principal, house: House, model: str) -> bool:
    """True if the tenant, the project and the credential may all use the model. Raises InvalidKey (`House.project`)."""
    project = house.project(principal)
    models = house.tenants[principal.tenant].models
    return (
        (ANY in models or model in models)
        and (principal.models is None or model in principal.models)
        and (project is None or project.models is None or model in project.models)
    )


def limits_of(tenant: Tenant) -> Limits:
    """A tenant's own bounds."""
    return Limits(tenant.concurrency, tenant.requests_per_minute)


def bounded(principal: Principal, house: House) -> Principal:
    """The principal with the bounds of its project or tenant for keys, where it has none of its own."""
    own = principal.limits
    if own.concurrency is not None and own.requests_per_minute is not None:
        return principal
    tenant, project = house.tenants[principal.tenant], house.project(principal)
    theirs = Limits() if project is None else project.limits
    limits = Limits(
        own.concurrency or theirs.concurrency or tenant.key_concurrency,
        own.requests_per_minute or theirs.requests_per_minute or tenant.key_requests_per_minute,
    )
    return replace(principal, limits=limits)
