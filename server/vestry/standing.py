"""Keeps the house current: what settings and directory say together, read again whenever the directory has changed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from vestry.adapters.directory.faults import DamageFault
from vestry.adapters.lookups import Lookups
from vestry.errors import KeysUnavailable
from vestry.house import House
from vestry.seams import Directory, Freshness, Registry
from vestry.settings.tree import Settings
from vestry.types import Document, Key, Kind

log = logging.getLogger("vestry")
LOOK_SECONDS = 0.5
READINGS = 2
UNUSABLE = "the directory holds a document that cannot be used, and the one before stays"


class Standing:
    """Reads the house, and hands it to whoever asks for it. One event loop's. No older house takes the place of a newer
    one, and a reading that hangs keeps no other from it.

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
        self._built: tuple[list[Document], House | None] | None = None
        self._readings = Lookups(self._read, at_once=READINGS)
        self._told = ""
        self.outdated = False
        """Whether something in the directory cannot be used, so that nothing that has changed since is in force."""
        self._unread: float | None = None

    @property
    def unread_seconds(self) -> float:
        """For how long what has changed cannot be read; 0 while it can. Nobody's credential is judged meanwhile: what
        is remembered is older than the change, and who is looked up waits for the house (`Abreast`).
        """
        return 0.0 if self._unread is None else time.monotonic() - self._unread

    async def refresh(self) -> None:
        """Read it now, if anything has changed. Returns once a house as new as the directory was is in its place, or is
        known to be impossible. Raises KeysUnavailable.
        """
        epoch = self._freshness.epoch(math.inf)
        if epoch != self._epoch:
            await self._readings.answer(epoch)

    async def run(self) -> None:
        """Read it again and again. It is never older than two seconds while the directory can be read."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.refresh()
            except KeysUnavailable:  # readiness says so, or the log and `outdated`
                continue
            except Exception as fault:  # noqa: BLE001 - if this ended, the server would go by an old house for good
                self._tell("the house cannot be read again, and the one before stays", fault)

    async def _read(self, asked: Collection[int]) -> Mapping[int, None]:
        """Read it for those who have seen these epochs. What cannot be used is not read again before it changes."""
        epoch = max(asked)
        if epoch > self._epoch:  # else it was read for somebody before
            house = await self._found(epoch)
            if epoch > self._epoch:  # else a newer one was faster
                self._epoch = epoch
                if house is not None:
                    self.outdated, self._told = False, ""
                    self._place(house)
        return {}

    async def _found(self, epoch: int) -> House | None:
        """The house of now; None where there is a document that cannot be used. Raises KeysUnavailable."""
        try:
            documents = await self._directory.standing()
        except DamageFault as fault:
            self._unread = None
            self._tell(UNUSABLE, fault, epoch)
            return None
        except Exception as fault:
            if epoch > self._epoch:
                self._unread = self._unread or time.monotonic()
            self._tell("the directory has changed and cannot be read, and the house before stays", fault, epoch)
            if isinstance(fault, KeysUnavailable):
                raise
            raise KeysUnavailable from fault
        self._unread = None
        if self._built is not None and documents == self._built[0]:  # a key has changed, or a user
            return self._built[1]
        try:
            house = await self._put_together(documents)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the server goes on with the house that it has
            self._tell(UNUSABLE, fault, epoch)
            return None
        self._built = documents, house
        return house

    async def _put_together(self, documents: list[Document]) -> House | None:
        """The house of these documents, with a turn for everybody else after each step."""
        house = None
        for house in House.building(self._settings, documents, secret=self._secret):
            if house is None:
                await asyncio.sleep(0)
        return house

    def _tell(self, said: str, fault: Exception, epoch: float = math.inf) -> None:
        """Nothing that has changed is in force, and why: once, however often it is tried."""
        if epoch <= self._epoch:  # a newer house is
            return
        self.outdated = True
        why = getattr(fault, "why", "") or str(fault) or type(fault).__name__
        if (told := f"{said}: {why}") != self._told:
            self._told = told
            log.warning("%s", told)


class Abreast:
    """seams.Registry that has the house read again first, where the directory has changed: whoever is found goes by a
    house no older than what they were found by. Credentials remember nobody whom they have not looked up since the last
    change, so this costs the calls nothing that memory knows.
    """

    def __init__(self, directory: Registry, refresh: Callable[[], Awaitable[None]]) -> None:
        self._directory, self._refresh = directory, refresh

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        await self._refresh()
        return await self._directory.read(kind, tenant, name)

    async def identify_all(self, presented: Collection[str]) -> Mapping[str, Key | KeysUnavailable]:
        await self._refresh()
        return await self._directory.identify_all(presented)

    async def note_used(self, key_ids: Collection[str], moment: int) -> None:
        await self._directory.note_used(key_ids, moment)
