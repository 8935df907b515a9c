"""A user of the directory, laid over what their token or certificate says."""

from __future__ import annotations

from msgspec.structs import replace

from vestry.roles import HOUSE, Role
from vestry.types import Document, Limits, Principal


def with_user(principal: Principal, user: Document | None) -> Principal | None:
    """More roles, fewer models, the user's project and bounds; None for a user who is disabled.

    What a tenant's administrator disables (`except_house`) does not shut out the house's people who are in the tenant.
    """
    if user is None:
        return principal
    said = user.body
    if said.get("disabled") and not (said.get("except_house") and principal.roles & HOUSE):
        return None
    models, allowed = said.get("models"), principal.models
    if models is not None:
        allowed = frozenset(models) if allowed is None else allowed & frozenset(models)
    return replace(
        principal,
        roles=principal.roles | {Role(each) for each in said.get("roles") or ()},
        models=allowed,
        project=said.get("project") or principal.project,
        limits=Limits(said.get("concurrency"), said.get("requests_per_minute")),
    )
