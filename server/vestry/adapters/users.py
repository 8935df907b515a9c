"""What the directory keeps about a user, laid over what their token or certificate says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from vestry.adapters.lookups import Lookups
from vestry.seams import Registry
from vestry.types import Document, Kind, Principal
from vestry.user import Damaged, with_user

log = logging.getLogger("vestry")


class Users:
    """Looks users up. One event loop's."""

    def __init__(self, directory: Registry) -> None:
        self._directory = directory
        self._lookups = Lookups(self._read, together=1)
        self._told: set[str] = set()

    async def known_as(self, principal: Principal, epoch: int) -> Principal | None:
        """The principal as the directory knows the subject, at this epoch or later; None where it is disabled.

        A subject without a document is as its credential says. Raises KeysUnavailable, also for a document that cannot
        be used.
        """
        user = await self._lookups.answer((principal.tenant, principal.subject, epoch))
        try:
            return with_user(principal, user)
        except Damaged as fault:
            if fault.why not in self._told:
                self._told.add(fault.why)
                log.warning("%s", fault.why)
            raise

    async def _read(self, asked: Collection[tuple[str, str, int]]) -> Mapping[tuple[str, str, int], Document]:
        found = {each: await self._directory.read(Kind.USER, each[0], each[1]) for each in asked}
        return {each: user for each, user in found.items() if user is not None}
