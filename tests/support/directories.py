"""Every kind of directory, each as two sides of one store: as two servers, or a server and a command, have it."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from fakes.directory import FakeDirectory
from support.keys import sqlite_directory
from support.postgres import USER, Postgres, postgres
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.postgres import Postgres as Backend
from vestry.adapters.directory.postgres import Where
from vestry.adapters.directory.store import SqlDirectory
from vestry.seams import Directory, Freshness

PEPPER = bytes(range(32))


class Pair:
    """Two sides of one store. `freshness` is that of `mine`."""

    def __init__(self, mine: Directory, freshness: Freshness, theirs: Directory) -> None:
        self.mine, self.freshness, self.theirs = mine, freshness, theirs


class Stand(Protocol):
    """A kind of directory, and how it is broken and mended from outside."""

    def opened(self) -> AbstractAsyncContextManager[Pair]: ...

    def break_(self) -> None: ...

    def mend(self) -> None: ...


class FakeStand:
    """The one in memory: both sides are the same."""

    def __init__(self, _: Path) -> None:
        self._fake = FakeDirectory()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Pair]:
        yield Pair(self._fake, self._fake, self._fake)

    def break_(self) -> None:
        self._fake.broken = True

    def mend(self) -> None:
        self._fake.broken = False


class SqlStand(abc.ABC):
    """One store, opened twice."""

    @abc.abstractmethod
    def directory(self) -> SqlDirectory: ...

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Pair]:
        mine, theirs = (self.directory() for _ in range(2))
        try:
            await mine.prepare()
            async with mine.backend.attending():
                yield Pair(mine, mine.backend.freshness, theirs)
        finally:
            await mine.close()
            await theirs.close()


class SqliteStand(SqlStand):
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.sqlite"

    def directory(self) -> SqlDirectory:
        return sqlite_directory(self.path, PEPPER)

    def break_(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    def mend(self) -> None:
        self.path.with_suffix(".away").rename(self.path)


class PostgresStand(SqlStand):
    """A database of its own."""

    def __init__(self, _: Path) -> None:
        self.server = postgres()
        self.database = self.server.database()
        asyncio.run(self._made())

    async def _made(self) -> None:
        directory = self.directory()
        await directory.asked(lambda backend: backend.migrate())
        await directory.close()

    def directory(self) -> SqlDirectory:
        return postgres_directory(self.server, self.database)

    def break_(self) -> None:
        self.server.shut(self.database)

    def mend(self) -> None:
        self.server.admit(self.database)


def postgres_directory(
    server: Postgres, database: str, *, pepper: bytes = PEPPER, user: str = USER, **options: Any
) -> SqlDirectory:
    """The directory in a database."""
    secret = Pepper(pepper)
    where = Where("127.0.0.1", server.port, database, user, lambda: "", **{"stale_seconds": 3.0, **options})
    return SqlDirectory(Backend(where, secret), secret)


STANDS: tuple[Callable[[Path], Stand], ...] = (FakeStand, SqliteStand, PostgresStand)


def on(stand: Stand, work: Callable[[Pair], Awaitable[None]]) -> None:
    """Do this with a store that is open."""

    async def run() -> None:
        async with stand.opened() as pair:
            await work(pair)

    asyncio.run(run())


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 10.0) -> None:
    """Wait until it is so. Raises AssertionError after that time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
