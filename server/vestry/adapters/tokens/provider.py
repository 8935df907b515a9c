"""An issuer's keys as they are now: fetched in the background, kept for a while when the provider cannot be asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from vestry.adapters.tokens.fetching import Fetch, Stamp
from vestry.adapters.tokens.keysets import BadKeys, KeySet
from vestry.errors import KeysUnavailable

log = logging.getLogger("vestry")
UNKNOWN_SECONDS = 30.0
"""A key that is not known is asked for once in so long, however many tokens want one."""
PATIENCE_SECONDS = 2.0
"""How long a call waits for that."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
LOOK_SECONDS = 1.0
"""How often keys with a stamp are looked at."""


class Provider:
    """One issuer's keys. `generation` grows whenever they were read and are other ones. One event loop's."""

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        *,
        refresh_seconds: float,
        stale_seconds: float,
        stamp: Stamp | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.generation = 0
        self.failures = 0
        self._fetch, self._stamp, self._clock = fetch, stamp, clock
        self._seen: tuple[int, ...] = ()
        self._refresh_seconds, self._stale_seconds = refresh_seconds, stale_seconds
        self._keys: KeySet | None = None
        self._read_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._fault = ""

    @property
    def age(self) -> float:
        """Seconds since the keys were read; infinite before the first time."""
        return self._clock() - self._read_at

    @property
    def left(self) -> float:
        """Seconds that the keys hold from now, if the provider cannot be asked again."""
        return self._stale_seconds - self.age

    @property
    def holds(self) -> float:
        """Seconds that what these keys have verified may be remembered."""
        return min(self.left, self._refresh_seconds)

    async def keys(self, kid: str | None, vain: KeySet | None = None) -> KeySet:
        """The keys; asked for again, seldom, where none is named so, or where these are the ones that were tried in
        vain: an issuer may give a new key the old one's name, or none. Raises KeysUnavailable where there are none that
        hold.
        """
        if self._wants(kid, vain) and self._clock() - self._tried_at >= UNKNOWN_SECONDS:
            self._start()
        if self._fetching is not None and self._wants(kid, vain):
            await asyncio.wait({self._fetching}, timeout=PATIENCE_SECONDS)
        if self._keys is None or self.left <= 0:
            raise KeysUnavailable
        return self._keys

    def _wants(self, kid: str | None, vain: KeySet | None) -> bool:
        return self._keys is None or self._keys is vain or not self._keys.has(kid)

    async def run(self) -> None:
        """Read them again and again."""
        pause = FIRST_PAUSE
        while True:
            task = self._start()
            await asyncio.wait({task})
            if self._fault:
                await self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE
                await self._rest(self._refresh_seconds)

    async def _rest(self, seconds: float) -> None:
        """So long, or until the stamp is another one."""
        if self._stamp is None:
            await asyncio.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stamp() != self._seen:
                return
            await asyncio.sleep(min(left, LOOK_SECONDS))

    def _start(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._read())
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()

    async def _read(self) -> None:
        if self._stamp is not None:
            self._seen = self._stamp()  # before: what changes while they are read is seen afterwards
        try:
            keys = await asyncio.to_thread(self._fetch)
        except BadKeys as fault:
            self.failures += 1
            if str(fault) != self._fault:
                log.warning("the keys of the issuer %s cannot be had: %s", self.name, fault)
            self._fault = str(fault)
            return
        if self._fault:
            log.info("the keys of the issuer %s can be had again", self.name)
        self._fault = ""
        if self._keys is None or self._keys.said != keys.said:
            self.generation += 1
            if keys.empty:
                log.warning("the issuer %s shows no key that may verify signatures: its tokens are refused", self.name)
        self._keys, self._read_at = keys, self._clock()
