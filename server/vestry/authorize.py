"""Authorization: may this principal make this call? A pure function of the two and the settings."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from vestry.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound, PermissionDenied
from vestry.house import House
from vestry.roles import Permission
from vestry.settings import Tenant
from vestry.types import Call, Grant, Head, Limits, Principal, ServedModel

ANY = "*"


def authorize(principal: Principal, head: Head, call: Call, models: Mapping[str, ServedModel], house: House) -> Grant:
    """The grant. Raises ModelNotFound for a model that is not served, or not for them: nobody can tell which.

    Raises InvalidRequest where the call asks for more than the model has; PermissionDenied for a caller whose roles
    do not let them call at all, or whose credential is for other routes.
    """
    tenant = house.tenants[principal.tenant]
    permitted(principal, Permission.CALL, head.route)
    model = models.get(call.model)
    if model is None or not may_use(principal, tenant, model.name):
        raise ModelNotFound(param="model")
    if call.completion_tokens is not None and call.completion_tokens > model.context_length:
        raise ContextLengthExceeded(
            f"More completion tokens are asked for than the model's context of {model.context_length}.",
            param="max_tokens",
        )
    if call.highest_token >= model.vocabulary:
        raise InvalidRequest("A token id is outside the model's vocabulary.", param=call.highest_in)
    rule = "tenant-model" if principal.models is None else "tenant-and-key-model"
    return Grant(bounded(principal, tenant), model, rule, limits_of(tenant))


def permitted(principal: Principal, permission: Permission, route: str) -> None:
    """Raises PermissionDenied where no role of theirs allows this, or their credential is for other routes."""
    if permission not in principal.permissions:
        raise PermissionDenied
    if principal.routes is not None and route not in principal.routes:
        raise PermissionDenied("This credential may not be used for this route.")


def may_use(principal: Principal, tenant: Tenant, model: str) -> bool:
    """True if both the tenant and the key may use the model."""
    allowed = ANY in tenant.models or model in tenant.models
    return allowed and (principal.models is None or model in principal.models)


def limits_of(tenant: Tenant) -> Limits:
    """A tenant's own bounds."""
    return Limits(tenant.concurrency, tenant.requests_per_minute)


def bounded(principal: Principal, tenant: Tenant) -> Principal:
    """The principal with its tenant's bounds for keys, where it has none of its own."""
    own = principal.limits
    if own.concurrency is not None and own.requests_per_minute is not None:
        return principal
    limits = Limits(
        own.concurrency or tenant.key_concurrency, own.requests_per_minute or tenant.key_requests_per_minute
    )
    return replace(principal, limits=limits)
