"""The directory over SQLAlchemy, whichever database it is in.

Nothing that waits for the database waits without a deadline: every step runs as a task of its own, and who asked is
answered when its time is up, whatever the driver still does to give the connection back. Those tasks are as many as the
pool has connections, and one for the transaction in progress.

Of a key HMAC-SHA256(pepper, key) is kept, never the key; the pepper is a secret kept elsewhere, so a stolen database
alone yields nothing that could be guessed against. Looking a key up by its HMAC compares no secret byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Text, case, cast, literal_column, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from vestry.adapters.directory.backend import Backend
from vestry.adapters.directory.change import KEY, SqlChange, document, one
from vestry.adapters.directory.faults import Damaged, DirectoryFault, Unfit
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.rows import document_of, json_of, key_of, storable
from vestry.adapters.directory.tables import DOCUMENTS, KEYS
from vestry.adapters.key_format import well_formed
from vestry.errors import KeysUnavailable
from vestry.types import Document, Key, Kind

NOTED_AT_ONCE = 500
MADE_AT_ONCE = 500
LEAVE_SECONDS = 2.0
FAULTS = (SQLAlchemyError, OSError, Unfit)
"""What a database's failure looks like, beside what its driver raises. A TimeoutError is an OSError."""
T = TypeVar("T")

_PATH: ColumnElement[str] = literal_column("documents.tenant || '/' || documents.name", Text())
"""As `documents_by_path` has it: with the slash as a parameter, SQLite would sort everything for each page."""
_AS_KEPT = [cast(each, Text).label("body") if each is DOCUMENTS.c.body else each for each in DOCUMENTS.c]
STANDING = select(*_AS_KEPT).where(DOCUMENTS.c.kind != Kind.USER.value)


class SqlDirectory:
    """seams.Directory. One event loop's; opens nothing before it is used."""

    def __init__(self, backend: Backend, pepper: Pepper) -> None:
        self.backend, self._pepper = backend, pepper
        self._faults: tuple[type[Exception], ...] = (*FAULTS, *backend.faults)
        self._turn = asyncio.Lock()
        self._left: set[asyncio.Task[Any]] = set()
        self._stood: dict[tuple[Any, ...], Document] = {}
        # It would log a traceback for each connection that ends badly; what is wrong with the database is said by us.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

    async def prepare(self, *, upgrade: bool = True) -> None:
        """Make the directory where that is for the program to do, and bring an older one up to date if told so.

        Raises SchemaFault for one that stays unfit for this program, and other DirectoryFaults.
        """
        await self.asked(lambda backend: backend.prepare(upgrade=upgrade))

    async def integrity(self) -> None:
        """Read all that there is, as far as the database has a way to do so. Raises DirectoryFault."""
        await self.asked(lambda backend: backend.integrity())

    async def asked(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """What something of the database itself comes to. Raises DirectoryFault."""
        try:
            return await work(self.backend)
        except self._faults as error:
            raise self.backend.fault(error) from error

    async def close(self) -> None:
        """Give everything back. What a database keeps waiting is left behind."""
        left = set(self._left)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LEAVE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.backend.close()

    # Reading.

    async def standing(self) -> list[Document]:
        """As seams.Directory. What stands as it did is not made again: each change, also of a key, has all read."""
        before, now = self._stood, dict[tuple[Any, ...], Document]()

        def made(row: RowMapping) -> Document:
            kept = tuple(row.values())
            now[kept] = found = before.get(kept) or document_of({**row, "body": json_of(row["body"])})
            return found

        found = await self._found(made, STANDING)
        self._stood = now
        return found

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        return one(await self._found(document_of, document(kind, tenant, name), tenant, name))

    async def page(self, kind: Kind, tenant: str | None, after: str, limit: int) -> list[Document]:
        asked = select(DOCUMENTS).where(DOCUMENTS.c.kind == kind.value).order_by(_PATH).limit(limit)
        if tenant is not None:  # "0" comes next to "/": others' are not passed through on the way, nor up to the end
            after = max(after, f"{tenant}/")
            asked = asked.where(DOCUMENTS.c.tenant == tenant, f"{tenant}0" > _PATH)
        return await self._found(document_of, asked.where(after < _PATH), tenant or "", after)

    async def key(self, key_id: str) -> Key | None:
        return one(await self._found(key_of, select(*KEY).where(KEYS.c.id == key_id), key_id))

    async def keys(self, tenant: str | None, after: str, limit: int) -> list[Key]:
        asked = select(*KEY).where(KEYS.c.id > after).order_by(KEYS.c.id).limit(limit)
        if tenant is not None:
            asked = asked.where(KEYS.c.tenant == tenant)
        return await self._found(key_of, asked, tenant or "", after)

    async def identify_all(self, presented: Collection[str]) -> dict[str, Key | KeysUnavailable]:
        texts = {self._pepper.hashed(each): each for each in presented if well_formed(each)}
        if not texts:
            return {}
        rows = await self._found(lambda row: row, select(KEYS).where(KEYS.c.hash.in_(list(texts))))
        return {texts[bytes(row["hash"])]: self._key_or_fault(row) for row in rows}

    def _key_or_fault(self, row: RowMapping) -> Key | KeysUnavailable:
        key = key_of(row)
        if not key.damaged or key.revoked is not None:
            return key
        return self.backend.fault(Damaged(f"holds a key that is damaged ({key.id}: {key.damaged}): revoke it"))

    async def _found(self, made: Callable[[RowMapping], T], asked: Select[Any], *texts: str) -> list[T]:
        """What is made of each row. `texts` are those in the question that a stranger may have written. Raises
        DirectoryFault.
        """
        if not storable(*texts):
            return []

        async def look() -> list[T]:
            engine = await self.backend.engine(reading=True)
            async with engine.connect() as connection:
                found: list[T] = []
                for rows in (await connection.execute(asked)).mappings().partitions(MADE_AT_ONCE):
                    if found:
                        await asyncio.sleep(0)  # nobody else is served meanwhile, and a house may have thousands
                    found += map(made, rows)
                return found

        return await self._within(self.backend.read_seconds, _again(look))

    # Writing.

    async def note_used(self, key_ids: Collection[str], moment: int) -> None:
        """As seams.Directory. Raises DirectoryFault."""
        ids = sorted(key_ids)
        for start in range(0, len(ids), NOTED_AT_ONCE):
            await self._note(ids[start : start + NOTED_AT_ONCE], moment)

    async def _note(self, key_ids: list[str], moment: int) -> None:
        latest = case((KEYS.c.last_used > moment, KEYS.c.last_used), else_=moment)
        noted = update(KEYS).where(KEYS.c.id.in_(key_ids)).values(last_used=latest)

        async def note() -> None:
            engine = await self.backend.engine(reading=False)
            async with engine.connect() as connection:
                await connection.execute(noted)
                await connection.commit()

        await self._within(self.backend.write_seconds, _again(note))

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[SqlChange]:
        """As seams.Directory. Raises DirectoryFault."""
        async with self._alone():
            connection = await self._within(self.backend.write_seconds, _again(self._begin), undo=_undo)
            try:
                yield SqlChange(connection, self._pepper, self._step)
            except BaseException:
                with contextlib.suppress(DirectoryFault):
                    await self._within(self.backend.write_seconds, _undo(connection))
                raise
            await self._within(self.backend.write_seconds, self._end(connection), lasting=True)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One transaction of this process at a time, so that they do not keep connections from who reads."""
        try:
            async with asyncio.timeout(self.backend.write_seconds):
                await self._turn.acquire()
        except TimeoutError as error:
            raise self.backend.fault(error) from None
        try:
            yield
        finally:
            self._turn.release()

    async def _begin(self) -> AsyncConnection:
        engine = await self.backend.engine(reading=False)
        connection = await engine.connect()
        try:
            await self.backend.begin(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _end(self, connection: AsyncConnection) -> None:
        try:
            await self.backend.commit(connection)
        finally:
            await connection.close()

    async def _step(self, work: Coroutine[Any, Any, T]) -> T:
        """One statement of a transaction. Raises DirectoryFault."""
        return await self._within(self.backend.write_seconds, work)

    async def _within(
        self,
        seconds: float,
        work: Coroutine[Any, Any, T],
        *,
        lasting: bool = False,
        undo: Callable[[T], Coroutine[Any, Any, None]] | None = None,
    ) -> T:
        """What this comes to, within its time. Work that is `lasting` goes on when who asked has gone; what other work
        comes to when nobody waits any more is handed to `undo`.
        """
        task = self._started(work)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            if not lasting:
                self._give_up(task, undo)
            raise
        if not task.done():
            self._give_up(task, undo)
            raise self.backend.fault(TimeoutError())
        try:
            return task.result()
        except self._faults as error:
            raise self.backend.fault(error) from error

    def _started(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._left.add(task)
        task.add_done_callback(self._ended)
        return task

    def _give_up(self, task: asyncio.Task[T], undo: Callable[[T], Coroutine[Any, Any, None]] | None) -> None:
        def undone(task: asyncio.Task[T]) -> None:
            if undo is not None and not task.cancelled() and task.exception() is None:
                self._started(undo(task.result()))

        task.cancel()
        task.add_done_callback(undone)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, or has gone


async def _again(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What this comes to; tried once more if a connection turned out to be closed: the next one may be good."""
    try:
        return await work()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return await work()


async def _undo(connection: AsyncConnection) -> None:
    try:
        await connection.rollback()
    finally:
        await connection.close()
