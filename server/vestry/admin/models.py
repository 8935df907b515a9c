"""Which models somebody may name in keys, projects and users.

Whoever reaches the whole house may name all that are served. Whoever reaches one tenant may name that tenant's: of
others they are told the same as of those that there are not, so that nobody finds out what other tenants have.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from vestry.admin.actor import Actor
from vestry.errors import Conflict, InvalidRequest, NotFound
from vestry.seams import Change
from vestry.settings.tree import Settings, Tenant
from vestry.types import Kind

ALL = "*"


def served(actor: Actor, models: Collection[str], settings: Settings) -> None:
    """Judge what a house's actor names, before anything else is looked at. Raises InvalidRequest, with `param`."""
    if actor.is_house and any(name not in {ALL, *settings.models} for name in models):
        raise InvalidRequest("One of the models is not among those that are served.", param="models")


async def theirs(change: Change, actor: Actor, tenant: str, models: Collection[str], settings: Settings) -> None:
    """Judge what anybody else names. Raises InvalidRequest, with `param`; and as `of_tenant`."""
    if actor.is_house or not models:
        return
    allowed = await of_tenant(change, tenant, settings)
    if not all(name in settings.models and (ALL in allowed or name in allowed) for name in models):
        raise InvalidRequest("The tenant has no such model.", param="models")


async def of_tenant(change: Change, tenant: str, settings: Settings) -> tuple[str, ...]:
    """Models that a tenant may use, `*` for all. Raises NotFound for no tenant, Conflict for a damaged one."""
    if (declared := settings.tenants.get(tenant)) is not None:
        return declared.models
    kept = await change.read(Kind.TENANT, "", tenant)
    if kept is None:
        raise NotFound("There is no such tenant.")
    try:
        return Tenant.model_validate(kept.body).models
    except ValidationError:
        raise Conflict("What is kept of the tenant is damaged: have it replaced first.") from None
