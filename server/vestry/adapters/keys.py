"""API keys as credentials: answered from memory as long as the directory has not changed, else by the directory.

Fails closed. What is no key by its shape is nobody's, whatever the state of the directory; an unknown key that is well
formed costs one look-up. Look-ups of one key at one time are one, and only so many are under way at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vestry.adapters.key_format import LENGTH, well_formed
from vestry.adapters.memory import MOST, Memory, wall
from vestry.errors import KeysUnavailable
from vestry.seams import Directory, Freshness
from vestry.types import Head, Key, Principal

AT_ONCE = 8
WAIT_SECONDS = 2.0


class KeyCredentials:
    """seams.Credentials. One event loop's. `observe` is told what came of each look-up: found, unknown or failed."""

    def __init__(
        self,
        directory: Directory,
        freshness: Freshness,
        *,
        at_once: int = AT_ONCE,
        wait_seconds: float = WAIT_SECONDS,
        most: int = MOST,
        clock: Callable[[], int] = wall,
        observe: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory, self._freshness, self._clock, self._observe = directory, freshness, clock, observe
        self._memory = Memory(freshness, most=most, clock=clock)
        self._places = asyncio.Semaphore(at_once)
        self._wait_seconds = wait_seconds
        self._asking: dict[tuple[str, int], asyncio.Task[Key | None]] = {}

    def known(self, head: Head) -> Principal | None:
        """As seams.Credentials."""
        shown = head.credential
        if shown is None or len(shown) != LENGTH or not shown.isascii():
            return None
        try:
            return self._memory.get(shown.encode("ascii"), head.began)
        except KeysUnavailable:
            if not well_formed(shown):
                return None
            raise

    async def find(self, head: Head) -> Principal | None:
        """As seams.Credentials."""
        shown = head.credential
        if shown is None or not well_formed(shown):
            return None
        try:
            epoch = self._freshness.epoch(head.began)
            key = await self._looked_up(shown, epoch)
        except KeysUnavailable:
            self._observe("failed")
            raise
        if key is None or key.state(self._clock()) != "active":
            self._observe("unknown")
            return None
        self._observe("found")
        principal = key.holder()
        self._memory.put(shown.encode("ascii"), principal, key.expires, epoch)
        return principal

    async def _looked_up(self, shown: str, epoch: int) -> Key | None:
        """The key with this text, as it was at this epoch or later. Whoever asks for the same gets the same answer."""
        asked = (shown, epoch)
        task = self._asking.get(asked)
        if task is None:
            task = self._asking[asked] = asyncio.create_task(self._look_up(shown))

            def ended(task: asyncio.Task[Key | None]) -> None:
                del self._asking[asked]
                if not task.cancelled():
                    task.exception()  # whoever waited has it, or has gone

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _look_up(self, shown: str) -> Key | None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise KeysUnavailable from None
        try:
            return await self._directory.identify(shown)
        finally:
            self._places.release()

    async def note_use(self) -> None:
        """Tell the directory which keys were used since this was last called. Raises KeysUnavailable; they are then
        told the next time.
        """
        used, self._memory.used = self._memory.used, set()
        if not used:
            return
        try:
            await self._directory.note_used(used, self._clock())
        except BaseException:
            self._memory.used |= used
            raise
