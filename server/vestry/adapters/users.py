"""What the directory keeps about a user, laid over what their token or certificate says."""

from __future__ import annotations

from msgspec.structs import replace

from vestry.adapters.lookups import AT_ONCE, WAIT_SECONDS, Lookups
from vestry.roles import Role
from vestry.seams import Directory
from vestry.types import Document, Kind, Limits, Principal


class Users:
    """Looks users up. One event loop's."""

    def __init__(self, directory: Directory, *, at_once: int = AT_ONCE, wait_seconds: float = WAIT_SECONDS) -> None:
        self._directory = directory
        self._lookups: Lookups[tuple[str, str, int], Document | None] = Lookups(
            at_once=at_once, wait_seconds=wait_seconds
        )

    async def known_as(self, principal: Principal, epoch: int) -> Principal | None:
        """The principal as the directory knows the subject, at this epoch or later; None where it is disabled.

        A subject without a document is as its credential says. Raises KeysUnavailable.
        """
        tenant, subject = principal.tenant, principal.subject
        user = await self._lookups.answer(
            (tenant, subject, epoch), lambda: self._directory.read(Kind.USER, tenant, subject)
        )
        return with_user(principal, user)


def with_user(principal: Principal, user: Document | None) -> Principal | None:
    """More roles, fewer models, the user's project and bounds; None for a user who is disabled."""
    if user is None:
        return principal
    said = user.body
    if said.get("disabled"):
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
