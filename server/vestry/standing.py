"""Keeps the house current: what settings and directory say together, read again whenever the directory has changed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from vestry.errors import KeysUnavailable
from vestry.house import House
from vestry.seams import Directory, Freshness
from vestry.settings.tree import Settings

log = logging.getLogger("vestry")
LOOK_SECONDS = 0.5


class Standing:
    """Reads the house, and hands it to whoever asks for it.

    A directory that cannot be read, or holds a document that no program of this version has written, leaves the last
    house in its place; before there was one, none is placed.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        freshness: Freshness,
        place: Callable[[House], None],
        *,
        secret: bytes = b"",
    ) -> None:
        self._settings, self._directory, self._freshness, self._place = settings, directory, freshness, place
        self._secret = secret
        self._epoch = -1
        self.outdated = False
        """Whether a document in the directory cannot be used, so that nothing that has changed since is in force."""

    async def refresh(self) -> None:
        """Read it now, if anything has changed. Raises KeysUnavailable."""
        epoch = self._freshness.epoch(math.inf)
        if epoch == self._epoch:
            return
        documents = await self._directory.standing()
        self._epoch = epoch
        try:
            house = House.of(self._settings, documents, secret=self._secret)
        except ValueError as fault:
            self.outdated = True
            log.warning("the directory holds a document that cannot be used, and the one before stays: %s", fault)
        else:
            self.outdated = False
            self._place(house)

    async def run(self) -> None:
        """Read it again and again. It is never older than two seconds while the directory can be read."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.refresh()
            except KeysUnavailable:  # readiness says so
                continue
