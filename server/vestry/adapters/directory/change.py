"""What one transaction does, whichever database it is in; and the questions that it shares with single ones."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from msgspec import structs
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Executable, Select, case, delete, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.rows import document_of, key_of, row_of, storable, validate
from vestry.adapters.directory.tables import DOCUMENTS, KEYS, STORE
from vestry.adapters.memory import wall
from vestry.roles import OF_TENANTS
from vestry.types import Document, Key, Kind

T = TypeVar("T")
KEY = [each for each in KEYS.c if each.name != "hash"]
"""What is read of a key."""


class Step(Protocol):
    """Does one statement of a transaction, within its time. Raises DirectoryFault."""

    async def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


class SqlChange:
    """seams.Change."""

    def __init__(self, connection: AsyncConnection, pepper: Pepper, step: Step) -> None:
        self._connection, self._pepper, self._step = connection, pepper, step

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        return one(await self._found(document_of, document(kind, tenant, name), tenant, name))

    async def names(self, kind: Kind, tenant: str, limit: int) -> list[str]:
        asked = select(DOCUMENTS.c.name).where(DOCUMENTS.c.kind == kind.value, DOCUMENTS.c.tenant == tenant)
        return await self._found(_name, asked.order_by(DOCUMENTS.c.name).limit(limit))

    async def put(self, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> Document:
        """As seams.Change. Raises ValueError for a name that cannot be kept."""
        if not storable(tenant, name):
            raise ValueError("a name is text, without NUL")
        moment = wall()
        before = await self.read(kind, tenant, name)
        if before is None:
            made = Document(kind, tenant, name, body, await self._unused_version(), moment, moment)
            await self._run(insert(DOCUMENTS).values(**_values(made)))
        else:
            made = Document(kind, tenant, name, body, before.version + 1, before.created, moment)
            await self._run(update(DOCUMENTS).where(*place(kind, tenant, name)).values(**_values(made)))
        return made

    async def _unused_version(self) -> int:
        """A version that no document of any name has had, so that whoever has read one which was removed does not
        change another in its place. Each version was a change, and the store counts them.
        """
        (changes,) = await self._found(lambda row: int(row["changes"]), select(STORE.c.changes))
        return changes + 1

    async def remove(self, kind: Kind, tenant: str, name: str) -> None:
        if storable(tenant, name):
            await self._run(delete(DOCUMENTS).where(*place(kind, tenant, name)))

    async def key(self, key_id: str) -> Key | None:
        return one(await self._found(key_of, select(*KEY).where(KEYS.c.id == key_id), key_id))

    async def keys(self, tenant: str, limit: int) -> list[Key]:
        asked = select(*KEY).where(KEYS.c.tenant == tenant, KEYS.c.revoked.is_(None))
        return await self._found(key_of, asked.order_by(KEYS.c.id).limit(limit))

    async def members(self, tenant: str, project: str, limit: int) -> tuple[list[str], list[str]]:
        keys = select(KEYS.c.id.label("name")).where(
            KEYS.c.tenant == tenant, KEYS.c.project == project, KEYS.c.revoked.is_(None)
        )
        users = select(DOCUMENTS.c.name).where(
            DOCUMENTS.c.kind == Kind.USER.value,
            DOCUMENTS.c.tenant == tenant,
            _project_of(self._connection.dialect.name) == project,
        )
        keys, users = (each.order_by("name").limit(limit) for each in (keys, users))
        return await self._found(_name, keys, tenant, project), await self._found(_name, users, tenant, project)

    async def reaches_house(self, tenant: str, project: str) -> bool:
        asked = select(KEYS.c.id.label("name")).where(
            KEYS.c.tenant == tenant,
            KEYS.c.project == project,
            KEYS.c.revoked.is_(None),
            KEYS.c.roles.not_in(OF_TENANTS),
        )
        return bool(await self._found(_name, asked.limit(1), tenant, project))

    async def add_key(self, key: Key, secret: str) -> Key:
        """As seams.Change. Raises ValueError for what no key can have, or one that is there already."""
        validate(key)
        if key.expires is not None and key.expires <= key.created:  # of one that is there a stepping clock says this
            raise ValueError("the time of expiry has passed")
        made = replace(key, version=1)
        values = {**row_of(made), "hash": self._pepper.hashed(secret)}
        try:
            await self._step(self._connection.execute(insert(KEYS).values(**values)))
        except DirectoryFault as fault:
            if isinstance(fault.__cause__, IntegrityError):
                raise ValueError("there is such a key already") from None  # noqa: TRY004
            raise
        return made

    async def put_key(self, key: Key) -> Key:
        """As seams.Change. Raises ValueError for what no key can have, or where there is none with this id.

        Of one that is damaged nothing is written but that it is revoked.
        """
        before = await self.key(key.id)
        if before is None:
            raise ValueError("there is no such key")
        made = replace(key, version=before.version + 1)
        values: dict[str, Any] = {"revoked": made.revoked, "version": made.version}
        if not before.damaged:
            validate(made)
            values = {name: value for name, value in row_of(made).items() if name != "last_used"}
        await self._run(update(KEYS).where(KEYS.c.id == key.id).values(**values))
        return made

    async def _found(self, made: Callable[[RowMapping], T], asked: Select[Any], *texts: str) -> list[T]:
        if not storable(*texts):
            return []

        async def look() -> list[T]:
            return [made(row) for row in (await self._connection.execute(asked)).mappings()]

        return await self._step(look())

    async def _run(self, statement: Executable) -> None:
        await self._step(self._connection.execute(statement))


def document(kind: Kind, tenant: str, name: str) -> Select[Any]:
    return select(DOCUMENTS).where(*place(kind, tenant, name))


def place(kind: Kind, tenant: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return DOCUMENTS.c.kind == kind.value, DOCUMENTS.c.tenant == tenant, DOCUMENTS.c.name == name


def _project_of(dialect: str) -> ColumnElement[Any]:
    """A user's project. SQLite, which keeps any text as JSON, would stop at what is none."""
    project: ColumnElement[Any] = DOCUMENTS.c.body["project"].as_string()
    if dialect == "sqlite":
        return case((func.json_valid(DOCUMENTS.c.body) == 1, project))
    return project


def _name(row: RowMapping) -> str:
    return str(row["name"])


def _values(document: Document) -> dict[str, Any]:
    return {**structs.asdict(document), "kind": document.kind.value}


def one(found: list[T]) -> T | None:
    return found[0] if found else None
