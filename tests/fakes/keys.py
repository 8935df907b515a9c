"""A key store in memory, with a switch that makes it unreadable."""

from __future__ import annotations

import math
from collections.abc import Callable

from vestry.adapters.key_format import mint, well_formed
from vestry.adapters.memory import wall
from vestry.errors import KeysUnavailable
from vestry.types import Head, Principal


class FakeKeys:
    """seams.Credentials, for keys. `clock` gives microseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = wall) -> None:
        self.broken = False
        self.asked = 0
        self._clock = clock
        self._held: dict[str, tuple[Principal, int | None]] = {}

    def known(self, head: Head) -> Principal | None:
        return None if head.credential is None else self.look_up(head.credential, head.began)

    async def find(self, head: Head) -> Principal | None:
        return None

    def look_up(self, presented: str, arrived: float = math.inf) -> Principal | None:
        self.asked += 1
        if not well_formed(presented):
            return None
        if self.broken:
            raise KeysUnavailable
        principal, expires = self._held.get(presented, (None, None))
        return None if expires is not None and expires <= self._clock() else principal

    def add(self, principal: Principal, expires: int | None = None) -> str:
        """Give this principal a new key; returns it."""
        key = mint()
        self._held[key] = (principal, expires)
        return key

    def revoke(self, key: str) -> None:
        """Forget a key."""
        del self._held[key]
