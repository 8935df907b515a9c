"""What the directory asks of the database that it is in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from vestry.adapters.directory.faults import DirectoryFault
from vestry.seams import Freshness


class Backend(Protocol):
    """One database. `read_seconds` bounds a look-up, `write_seconds` a step of a transaction.

    `faults` are what its driver raises. What its methods raise, `fault` explains.
    """

    faults: tuple[type[Exception], ...]
    read_seconds: float
    write_seconds: float

    @property
    def freshness(self) -> Freshness: ...

    @property
    def missing(self) -> str:
        """Why it cannot be read, as far as is known without waiting; empty where nothing is known to be wrong."""

    @property
    def unheard_seconds(self) -> float:
        """For how long changes of others may have been missed; 0 where they are looked for with every call."""

    async def engine(self, *, reading: bool) -> AsyncEngine:
        """Where connections come from: for single questions, or for changes."""

    async def prepare(self, *, upgrade: bool) -> None:
        """Make what the program may make by itself, bring it up to date if told so, and look at the rest."""

    async def begin(self, connection: AsyncConnection) -> None:
        """Begin a transaction that has the database to itself as far as changes go."""

    async def commit(self, connection: AsyncConnection) -> None:
        """Make a transaction durable. What was remembered of the directory holds no more, here or elsewhere."""

    async def schema(self) -> str | None:
        """Which schema the tables have; None where there are none."""

    async def migrate(self) -> tuple[str | None, str]:
        """Bring the tables to this program's schema, made where there are none. The schema before and after."""

    async def downgrade(self, revision: str) -> tuple[str | None, str]:
        """Bring the tables to an older schema. The schema before and after."""

    def attending(self) -> AbstractAsyncContextManager[None]:
        """Hear of the changes of others in here, as a server must; the first try has been made when it begins."""

    async def integrity(self) -> None:
        """Read the whole database, if that is for the program to do."""

    def fault(self, error: Exception) -> DirectoryFault:
        """What went wrong, as the operator should be told."""

    async def close(self) -> None: ...
