"""Whether a PostgreSQL directory has changed: a connection that listens, and shows twice a second that it still hears.

PostgreSQL hands a connection every notification that was committed before it answers a question on it, and every change
notifies, or shows in the answer. So an answered question proves that nothing is unheard that was changed before it was
asked. Where nothing is answered any more, what is remembered holds for `stale_seconds`, and then nothing does.

https://www.postgresql.org/docs/current/sql-listen.html
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg

from vestry.adapters.directory.faults import OLDER, DirectoryFault

CHANNEL = "vestry_directory"
COUNTED = "SELECT changes FROM store"
FILES = "SELECT pg_relation_filenode(to_regclass('keys')), pg_relation_filenode(to_regclass('documents'))"
"""TRUNCATE, and a copy that is restored, change no row and notify nobody; but then the tables are in other files. To
ask for these waits for no lock."""
ASK_SECONDS = 0.5
ANSWER_SECONDS = 1.5
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises. The last one where PostgreSQL's farewell came just before our question."""
log = logging.getLogger("vestry")

Connect = Callable[[], Awaitable[Any]]


class ListenerFreshness:
    """seams.Freshness. One event loop's."""

    def __init__(self, connect: Connect, fault: Callable[[Exception], DirectoryFault], stale_seconds: float) -> None:
        self._connect, self._fault, self._stale_seconds = connect, fault, stale_seconds
        self._epoch = self._changes = 0
        self._heard, self._made = -math.inf, time.monotonic()
        self._lost: DirectoryFault | None = None
        self._tried = asyncio.Event()

    def epoch(self, arrived: float) -> int:  # noqa: ARG002 - what was heard is known without looking
        """As seams.Freshness. Raises DirectoryFault once nothing was heard for longer than `stale_seconds`."""
        if time.monotonic() - self._heard > self._stale_seconds:
            raise self._lost or self._fault(TimeoutError())
        return self._epoch

    def changed(self) -> None:
        """This process has changed something: that counts at once."""
        self._epoch += 1

    @property
    def unheard_seconds(self) -> float:
        """For how long changes may have been missed: since something was heard, or since this was made."""
        return time.monotonic() - max(self._heard, self._made)

    @property
    def lost(self) -> DirectoryFault | None:
        """Why nothing is heard at the moment; None while all is well, or before the first try."""
        return self._lost

    @contextlib.asynccontextmanager
    async def attending(self) -> AsyncIterator[None]:
        """Listen in here; the first try has been made when it begins."""
        task = asyncio.create_task(self._run())
        try:
            await self._tried.wait()
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - over bytes that no PostgreSQL sends asyncpg raises anything
                fault = self._fault(error)
                if self._lost is None:
                    log.warning("changes of the directory are not heard: %s", fault.why)
                self._lost = fault
            self._tried.set()
            await asyncio.sleep(ASK_SECONDS)

    async def _listen(self) -> None:
        """Listen until that fails, which it says by an exception."""
        connection = await self._connect()
        closed = asyncio.Event()
        try:
            connection.add_termination_listener(lambda *_: closed.set())
            asked = time.monotonic()
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.add_listener(CHANNEL, self._notified)
                files = await connection.fetchrow(FILES)
                self._look_back(await connection.fetchval(COUNTED))
            self._epoch += 1  # whatever was changed before was not heard
            counted = self._epoch
            while True:
                if self._lost is not None:
                    log.warning("changes of the directory are heard again")
                self._heard, self._lost = asked, None
                self._tried.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_SECONDS):
                        await closed.wait()
                asked = time.monotonic()
                async with asyncio.timeout(ANSWER_SECONDS):
                    before, files = files, await connection.fetchrow(FILES)
                    if files != before:
                        self._epoch += 1
                    if counted != self._epoch:
                        counted = self._epoch
                        self._look_back(await connection.fetchval(COUNTED))
        finally:
            connection.terminate()

    def _look_back(self, changes: int) -> None:
        """Say it if there have been fewer changes than before: this is another database, or an older copy."""
        if changes < self._changes:
            log.warning(OLDER, changes, self._changes)
        self._changes = changes

    def _notified(self, *_: Any) -> None:
        self._epoch += 1
