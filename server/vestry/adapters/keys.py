"""API keys as credentials: answered from memory as long as the directory has not changed, else by the directory.

Fails closed. What is no key by its shape is nobody's, whatever the state of the directory; an unknown key that is well
formed costs one look-up, which it shares with others that come meanwhile. Look-ups of one key at one time are one, and
only so many are under way at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping

from vestry.adapters.directory.faults import DamageFault, DirectoryFault
from vestry.adapters.key_format import LENGTH, well_formed
from vestry.adapters.lookups import AT_ONCE, TOGETHER, WAIT_SECONDS, Lookups
from vestry.adapters.memory import MOST, Memory, wall
from vestry.errors import KeysUnavailable
from vestry.seams import Freshness, Registry
from vestry.seldom import AGAIN_SECONDS, Seldom
from vestry.types import Head, Key, Principal

log = logging.getLogger("vestry")


class KeyCredentials:
    """seams.Credentials. One event loop's. `observe` is told what came of each look-up: found, unknown or failed."""

    def __init__(
        self,
        directory: Registry,
        freshness: Freshness,
        *,
        at_once: int = AT_ONCE,
        together: int = TOGETHER,
        wait_seconds: float = WAIT_SECONDS,
        most: int = MOST,
        clock: Callable[[], int] = wall,
        observe: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory, self._freshness, self._clock, self._observe = directory, freshness, clock, observe
        self._memory = Memory(freshness, most=most, clock=clock)
        self._lookups = Lookups(self._read, at_once=at_once, together=together, wait_seconds=wait_seconds)
        self._used: set[str] = set()
        self._seldom = Seldom()

    def known(self, head: Head) -> Principal | None:
        shown = head.credential
        if shown is None or len(shown) != LENGTH or not shown.isascii():
            return None
        try:
            found = self._memory.get(shown.encode("ascii"), head.began)
        except KeysUnavailable as fault:
            if not well_formed(shown):
                return None
            self._tell(fault)
            raise
        if found is not None:
            self._used.add(found.key_id)
        return found

    async def find(self, head: Head) -> Principal | None:
        shown = head.credential
        if shown is None or not well_formed(shown):
            return None
        try:
            epoch = self._freshness.epoch(head.began)
            key = await self._lookups.answer((shown, epoch))
        except KeysUnavailable as fault:
            self._observe("failed")
            self._tell(fault)
            raise
        if key is None or key.state(self._clock()) != "active":
            self._observe("unknown")
            return None
        self._observe("found")
        principal = key.holder()
        self._memory.put(shown.encode("ascii"), principal, key.expires, epoch)
        self._used.add(key.id)
        return principal

    def _tell(self, fault: KeysUnavailable) -> None:
        """Say in the log why a key is not judged, which nothing else may: a damaged one is named once; why the
        directory is not read is said once in AGAIN_SECONDS, however many calls are refused.
        """
        if isinstance(fault, DirectoryFault):
            damaged = isinstance(fault, DamageFault)
            if self._seldom.due(fault.why, math.inf if damaged else AGAIN_SECONDS):
                log.warning("%s" if damaged else "keys cannot be looked up: %s", fault.why)

    async def _read(self, asked: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], Key | KeysUnavailable]:
        found = await self._directory.identify_all({shown for shown, _ in asked})
        return {each: found[each[0]] for each in asked if each[0] in found}

    async def note_use(self) -> None:
        """Tell the directory which keys were used since this was last called. Raises KeysUnavailable; they are then
        told the next time.
        """
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._directory.note_used(used, self._clock())
        except BaseException:
            self._used |= used
            raise
