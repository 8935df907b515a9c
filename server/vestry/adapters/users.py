"""What the directory keeps about a user, laid over what their token or certificate says."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.seams import Directory
from vestry.types import Document, Kind, Limits, Principal

AT_ONCE = 8
WAIT_SECONDS = 2.0


class Users:
    """Looks users up, only so many at once; who asks for the same at one time gets the same answer.

    One event loop's.
    """

    def __init__(self, directory: Directory, *, at_once: int = AT_ONCE, wait_seconds: float = WAIT_SECONDS) -> None:
        self._directory, self._wait_seconds = directory, wait_seconds
        self._places = asyncio.Semaphore(at_once)
        self._asking: dict[tuple[str, str, int], asyncio.Task[Document | None]] = {}

    async def known_as(self, principal: Principal, epoch: int) -> Principal | None:
        """The principal as the directory knows the subject, at this epoch or later; None where it is disabled.

        A subject without a document is as its credential says. Raises KeysUnavailable.
        """
        asked = (principal.tenant, principal.subject, epoch)
        task = self._asking.get(asked)
        if task is None:
            task = self._asking[asked] = asyncio.create_task(self._read(principal.tenant, principal.subject))

            def ended(task: asyncio.Task[Document | None]) -> None:
                del self._asking[asked]
                if not task.cancelled():
                    task.exception()  # whoever waited has it, or has gone

            task.add_done_callback(ended)
        return with_user(principal, await asyncio.shield(task))

    async def _read(self, tenant: str, subject: str) -> Document | None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise KeysUnavailable from None
        try:
            return await self._directory.read(Kind.USER, tenant, subject)
        finally:
            self._places.release()


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
