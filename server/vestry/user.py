"""A user of the directory, laid over what their token or certificate says."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, ValidationError, convert
from msgspec.structs import replace

from vestry.errors import KeysUnavailable
from vestry.roles import HOUSE, Role
from vestry.types import Document, Limits, Principal

Bound = Annotated[int, Meta(ge=1)] | None


class Damaged(KeysUnavailable):
    """The document is none that a program of this version has written. `why` is a sentence for the operator, and not in
    the message.
    """

    def __init__(self, why: str):
        super().__init__()
        self.why = why


class Said(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a user's document, as the administration writes it (`admin.bodies.User`, which knows settings)."""

    roles: frozenset[Role] = frozenset()
    models: frozenset[str] | None = None
    project: str | None = None
    concurrency: Bound = None
    requests_per_minute: Bound = None
    disabled: bool = False
    except_house: bool = False
    description: str = ""


def with_user(principal: Principal, user: Document | None) -> Principal | None:
    """More roles, fewer models, the user's project and bounds; None for a user who is disabled.

    What a tenant's administrator disables (`except_house`) does not shut out the house's people who are in the tenant.
    Raises Damaged: such a document may have disabled them.
    """
    if user is None:
        return principal
    try:
        said = convert(user.body, Said)
    except ValidationError as fault:
        which = f"the user {user.tenant}/{user.name} (version {user.version})"
        raise Damaged(f"{which} cannot be used, and is let in nowhere: {fault}") from None
    if said.disabled and not (said.except_house and principal.roles & HOUSE):
        return None
    models, allowed = said.models, principal.models
    if models is not None:
        allowed = models if allowed is None else allowed & models
    return replace(
        principal,
        roles=principal.roles | said.roles,
        models=allowed,
        project=said.project or principal.project,
        limits=Limits(said.concurrency, said.requests_per_minute),
    )
