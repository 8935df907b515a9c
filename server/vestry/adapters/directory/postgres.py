"""The directory in PostgreSQL, shared by any number of servers and commands.

Every wait has a deadline, here and in the server: to connect, for each statement, for a lock. A server that hangs costs
no more than that.
"""

from __future__ import annotations

import contextlib
import hmac
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from msgspec import Struct
from sqlalchemy import AsyncAdaptedQueuePool, Connection, NullPool, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from vestry.adapters.directory.faults import DirectoryFault, SchemaFault, Unfit, fault_of
from vestry.adapters.directory.listener import FAULTS, ListenerFreshness
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.rows import json_of
from vestry.adapters.directory.schemas import REVISIONS, require_head
from vestry.adapters.directory.tables import STORE
from vestry.late import Late

if TYPE_CHECKING:
    from vestry.adapters.directory import migrate
else:
    migrate = Late("vestry.adapters.directory.migrate")

BEGUN = text("SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'")
ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(6217983745330713)")
STANDS = "SELECT (SELECT version_num FROM alembic_version), (SELECT pepper_check FROM store)"
MIGRATION_SECONDS = 300.0
SENTENCES: Mapping[type[Exception], str] = MappingProxyType(
    {
        asyncpg.UndefinedTableError: "has no tables yet: make them with `vestry store migrate`",
        asyncpg.InvalidAuthorizationSpecificationError: "does not let this user in ({line}): look at `store.user` and "
        "`store.password`",
        asyncpg.InvalidCatalogNameError: "is not there ({line}): make it, or name another in `store.url`",
        asyncpg.InsufficientPrivilegeError: "does not let this user do that ({line}): see docs/directory.md",
        asyncpg.LockNotAvailableError: "is being changed by somebody else for longer than this waits: try again",
        asyncpg.InterfaceError: "has closed the connection: look whether PostgreSQL runs",
        asyncpg.InternalClientError: "takes leave, or has said what was not asked: look whether PostgreSQL runs",
        asyncpg.PostgresError: "cannot be used at the moment ({line})",
        TimeoutError: "does not answer in time: look whether PostgreSQL runs, and how busy it is",
    }
)
"""What the operator is told; the first that fits."""
T = TypeVar("T")
Connected = Any  # asyncpg.Connection, which has no types


class Where(Struct, frozen=True):
    """A database, and the patience with it. `host` may be the folder of a Unix socket; `password` and `tls` are asked
    anew for each connection, and the former raises Unfit.
    """

    host: str
    port: int
    database: str
    user: str
    password: Callable[[], str]
    tls: Callable[[], ssl.SSLContext | None] = lambda: None
    connections: int = 8
    connect_seconds: float = 2.0
    statement_seconds: float = 2.0
    lock_seconds: float = 5.0
    stale_seconds: float = 30.0

    @property
    def name(self) -> str:
        """For people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the directory in PostgreSQL at {host}:{self.port}/{self.database}"


class Postgres:
    """A Backend."""

    faults: tuple[type[Exception], ...] = (*FAULTS, UnicodeError, BufferError)  # the last two for garbled answers

    def __init__(self, where: Where, pepper: Pepper) -> None:
        self._where, self._check = where, pepper.check
        self.read_seconds = where.connect_seconds + where.statement_seconds
        self.write_seconds = where.connect_seconds + where.lock_seconds + where.statement_seconds
        self.freshness = ListenerFreshness(self._connect, self.fault, where.stale_seconds)
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            isolation_level="READ COMMITTED",  # whatever the default: who has waited for another sees its change
            json_deserializer=json_of,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=where.connections,
            max_overflow=0,
            pool_timeout=where.connect_seconds,
            pool_use_lifo=True,
            hide_parameters=True,
        )
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def engine(self, *, reading: bool) -> AsyncEngine:
        """As Backend. While the listener hears nothing nobody else is made to wait: raises its fault."""
        if (lost := self.freshness.lost) is not None:
            raise lost
        return self._reading if reading else self._engine

    async def _connect(self) -> Connected:
        """A connection to a database that this program can use. Raises Unfit, OSError or asyncpg's errors."""
        connection = await self._opened(self._where.statement_seconds)
        try:
            await self._stands(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _opened(self, statement_seconds: float, lock_seconds: float | None = None) -> Connected:
        where = self._where
        with _spoken_to():
            return await asyncpg.connect(
                host=where.host,
                port=where.port,
                user=where.user,
                password=where.password(),
                database=where.database,
                ssl=where.tls() or False,
                timeout=where.connect_seconds,
                command_timeout=statement_seconds,
                target_session_attrs="any",
                server_settings={
                    "application_name": "vestry",
                    "statement_timeout": _milliseconds(statement_seconds + where.lock_seconds),
                    "lock_timeout": _milliseconds(lock_seconds or where.lock_seconds),
                    "idle_in_transaction_session_timeout": _milliseconds(60),
                },
            )

    async def _stands(self, connection: Connected, *, strict: bool = False) -> None:
        """Raises Unfit unless the tables and the secret are those of this program. A newer schema is refused only if
        that is to be judged strictly: a server that runs goes on while its successor's migration has been made.
        """
        with _spoken_to():
            row = await connection.fetchrow(STANDS)
        found, check = (None, None) if row is None else (row[0], row[1])
        if strict or found is None or found in REVISIONS:
            require_head(found)
        if check is None or not hmac.compare_digest(check, self._check):
            raise Unfit("was made with another `key-hash` secret: restore the secret that belongs to it")

    async def prepare(self, *, upgrade: bool) -> None:  # noqa: ARG002
        """As Backend: tables are made and changed by `vestry store migrate` alone."""
        connection = await self._opened(self._where.statement_seconds)
        try:
            await self._stands(connection, strict=True)
        finally:
            connection.terminate()

    async def integrity(self) -> None:
        """As Backend: PostgreSQL looks after that."""
        await self.prepare(upgrade=False)

    async def schema(self) -> str | None:
        return await self._alone(migrate.schema)

    async def migrate(self) -> tuple[str | None, str]:
        return await self._alone(self._upgrade)

    async def downgrade(self, revision: str) -> tuple[str | None, str]:
        return await self._alone(lambda connection: migrate.downgrade(connection, revision))

    def _upgrade(self, connection: Connection) -> tuple[str | None, str]:
        made = migrate.upgrade(connection)
        held = connection.execute(select(STORE.c.pepper_check)).scalar_one_or_none()
        if held is None:
            connection.execute(insert(STORE).values(pepper_check=self._check))
        elif not hmac.compare_digest(held, self._check):
            raise Unfit("was made with another `key-hash` secret: restore the secret that belongs to it")
        return made

    async def _alone(self, work: Callable[[Connection], T]) -> T:
        """Work on the tables, all of it or nothing, while nobody else changes anything. It waits for another migration,
        but then for no table: whoever came after would wait as well.
        """

        async def connect() -> Connected:
            return await self._opened(MIGRATION_SECONDS, MIGRATION_SECONDS)

        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(ONE_AT_A_TIME)
            await connection.execute(text(f"SET LOCAL lock_timeout = {_milliseconds(self._where.lock_seconds)}"))
            return await connection.run_sync(work)

    async def begin(self, connection: AsyncConnection) -> None:
        """As Backend. Who changes something waits for whoever does at the moment: longer than for a statement's own
        work, after which the driver would call PostgreSQL silent.
        """
        await connection.execute(BEGUN)  # the driver's own connection, asked next, knows no transaction
        driver: Connected = (await connection.get_raw_connection()).driver_connection
        patience = self._where.lock_seconds + self._where.statement_seconds
        await driver.execute(ONE_AT_A_TIME.text, timeout=patience)

    async def commit(self, connection: AsyncConnection) -> None:
        """As Backend: triggers notify the others."""
        await connection.commit()
        self.freshness.changed()

    def attending(self) -> AbstractAsyncContextManager[None]:
        return self.freshness.attending()

    @property
    def missing(self) -> str:
        lost = self.freshness.lost
        return "" if lost is None else lost.why

    @property
    def unheard_seconds(self) -> float:
        return self.freshness.unheard_seconds

    async def close(self) -> None:
        await self._engine.dispose()

    def fault(self, error: Exception) -> DirectoryFault:
        if isinstance(error, DirectoryFault):
            return error
        cause = _cause(error)
        why = f"{self._where.name} {_said(cause)}"
        return SchemaFault(why) if isinstance(cause, asyncpg.UndefinedTableError) else fault_of(cause, why)


@contextlib.contextmanager
def _spoken_to() -> Iterator[None]:
    """Over bytes that no PostgreSQL sends asyncpg raises whatever it stumbles over. Raises Unfit for that."""
    try:
        yield
    except (OSError, *FAULTS, Unfit):
        raise
    except Exception as error:
        raise Unfit("answers what no PostgreSQL does: look whether `store.url` leads to one") from error


def _cause(error: BaseException) -> BaseException:
    """What the driver said, beneath what SQLAlchemy made of it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _said(fault: BaseException) -> str:
    """What is wrong with the database, without its name. Of what PostgreSQL says only the first line: the rest may hold
    values.
    """
    line = str(fault).partition("\n")[0]
    for kind, said in SENTENCES.items():
        if isinstance(fault, kind):
            return said.format(line=line)
    if isinstance(fault, Unfit):
        return str(fault)
    if isinstance(fault, ssl.SSLError):
        return f"is not trusted ({fault.reason or line}): look at `store.ca`, and at PostgreSQL's certificate"
    if isinstance(fault, OSError):
        return f"cannot be reached ({fault.strerror or type(fault).__name__}): look whether PostgreSQL runs"
    return f"cannot be used at the moment ({type(fault).__name__})"


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
