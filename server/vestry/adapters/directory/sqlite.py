"""The directory in one SQLite file, shared by one server and the command line.

A change is durable (`synchronous = FULL`) before anybody is told of it, and then known to every process that reads the
file: `mark.py` says how.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiosqlite
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vestry.adapters.directory import sqlite_file
from vestry.adapters.directory.faults import DirectoryFault, Unfit, fault_of
from vestry.adapters.directory.mark import FileFreshness
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.rows import json_of
from vestry.adapters.directory.schemas import HEAD
from vestry.late import Late

if TYPE_CHECKING:
    from vestry.adapters.directory import migrate
else:
    migrate = Late("vestry.adapters.directory.migrate")

CONNECTIONS = 4


class Sqlite:
    """A Backend: the file at a path."""

    faults: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path, pepper: Pepper, *, lock_seconds: float = sqlite_file.LOCK_SECONDS):
        self.path, self._check = path.absolute(), pepper.check
        self._lock_seconds = lock_seconds
        self.read_seconds, self.write_seconds = lock_seconds + 1, lock_seconds + 5
        self.freshness = FileFreshness(self.path, self._verify, self.fault)
        self._identity: tuple[int, int] = (-1, -1)
        self._engine: AsyncEngine | None = None

    async def engine(self, *, reading: bool) -> AsyncEngine:  # noqa: ARG002 - `begin` makes the difference
        """Connections to the file that has the name now. Raises OSError."""
        status = self.path.stat()
        if self._engine is None:
            self._engine = create_async_engine(
                "sqlite+aiosqlite://",
                async_creator=self._connect,
                json_deserializer=json_of,
                poolclass=AsyncAdaptedQueuePool,
                pool_size=CONNECTIONS,
                max_overflow=0,
                pool_timeout=self.read_seconds,
                hide_parameters=True,
            )
        if (status.st_dev, status.st_ino) != self._identity:
            await self._engine.dispose()
            self._identity = (status.st_dev, status.st_ino)
        return self._engine

    async def _connect(self) -> aiosqlite.Connection:
        uri = sqlite_file.uri_of(self.path)
        opening = aiosqlite.connect(uri, uri=True, timeout=self._lock_seconds, isolation_level=None)
        opening._thread.daemon = True  # as SQLAlchemy does: a disk that hangs must not keep the program from ending
        connection = await opening
        connection.text_factory = _text
        try:
            await connection._execute(self._verify, connection._conn)  # type: ignore[no-untyped-call]
            await connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            await connection.close()
            raise
        return connection

    def _verify(self, connection: sqlite3.Connection) -> None:
        sqlite_file.verify(connection, self._check)

    async def prepare(self, *, upgrade: bool) -> None:
        await asyncio.to_thread(sqlite_file.prepare, self.path, self._check, upgrade=upgrade)

    async def schema(self) -> str | None:
        return await asyncio.to_thread(sqlite_file.changed, self.path, self._check, migrate.schema)

    async def migrate(self) -> tuple[str | None, str]:
        if not await asyncio.to_thread(os.path.lexists, self.path):
            await self.prepare(upgrade=True)
            return None, HEAD
        return await asyncio.to_thread(sqlite_file.changed, self.path, self._check, migrate.upgrade)

    async def downgrade(self, revision: str) -> tuple[str | None, str]:
        work = functools.partial(migrate.downgrade, revision=revision)
        return await asyncio.to_thread(sqlite_file.changed, self.path, self._check, work)

    @contextlib.asynccontextmanager
    async def attending(self) -> AsyncIterator[None]:
        """As Backend: the file is looked at for every call."""
        yield

    async def integrity(self) -> None:
        await asyncio.to_thread(sqlite_file.integrity, self.path, self._check)

    async def begin(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")

    async def commit(self, connection: AsyncConnection) -> None:
        changes = (await connection.exec_driver_sql("SELECT changes FROM store")).scalar_one()
        await connection.commit()
        self.freshness.changed(changes)
        with contextlib.suppress(SQLAlchemyError):  # so that a plain copy of the file has the change
            await connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    @property
    def missing(self) -> str:
        return self.freshness.missing()

    @property
    def unheard_seconds(self) -> float:
        return 0.0

    async def close(self) -> None:
        self.freshness.close()
        engine, self._engine = self._engine, None
        self._identity = (-1, -1)
        if engine is not None:
            await engine.dispose()

    def fault(self, error: Exception) -> DirectoryFault:
        return fault_of(error, f"the key store {self.path} {_said(error)}")


def _text(held: bytes) -> str:
    """A text of the file. One that is no UTF-8 is told from others by escapes, and keeps nobody from them."""
    return held.decode(errors="backslashreplace")


def _said(error: Exception) -> str:
    """What is wrong with the file, without its name."""
    fault = error.orig if isinstance(error, DBAPIError) else error
    match fault:
        case Unfit():
            said = str(fault)
        case FileNotFoundError():
            said = "does not exist: restore it, or make a key with `vestry keys create`"
        case TimeoutError():
            said = "did not answer in time: look at its disk, and at what else has it open"
        case OSError():
            said = f"cannot be used ({fault.strerror}): look at its folder and permissions"
        case sqlite3.OperationalError():
            said = f"cannot be used at the moment ({fault})"
        case sqlite3.Error():
            said = f"is damaged ({fault}): restore it from a copy"
        case _:
            said = f"cannot be used at the moment ({type(fault).__name__})"
    return said
