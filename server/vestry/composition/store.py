"""The directory that the settings name: opened by the server, and by each command that needs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from vestry.adapters.directory.faults import Unfit
from vestry.adapters.directory.pepper import Pepper
from vestry.admin.pages import keys_of
from vestry.configuration.store_files import context_of, password_of
from vestry.errors import KeysUnavailable
from vestry.late import Late
from vestry.seams import Directory
from vestry.secret_files import key_hash
from vestry.settings.store import Address, Store
from vestry.settings.tree import Settings
from vestry.types import Key

if TYPE_CHECKING:
    from vestry.adapters.directory import postgres, sqlite, store
else:  # SQLAlchemy, and of the databases' drivers the one that is needed
    store = Late("vestry.adapters.directory.store")
    sqlite = Late("vestry.adapters.directory.sqlite")
    postgres = Late("vestry.adapters.directory.postgres")


def directory_of(settings: Settings, secret: bytes) -> store.SqlDirectory:
    """The directory; nothing is opened yet, but the files of certificates are read. `secret` is what keys are hashed
    with. Raises OSError, or ValueError for what is no path.
    """
    pepper = Pepper(secret)
    address = settings.store.address
    if address is None:
        return store.SqlDirectory(sqlite.Sqlite(settings.keys_database, pepper), pepper)
    return store.SqlDirectory(postgres.Postgres(_where(settings.store, address), pepper), pepper)


def _where(settings: Store, address: Address) -> postgres.Where:
    def password() -> str:
        if settings.password is None:
            return ""
        try:
            return password_of(settings.password)
        except OSError as error:
            raise Unfit(f"cannot be asked: {error}") from None

    return postgres.Where(
        address.host,
        address.port,
        address.database,
        settings.user,
        password,
        context_of(settings),
        settings.connections,
        settings.connect_seconds,
        settings.statement_seconds,
        stale_seconds=settings.stale_seconds,
    )


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, upgrade: bool = False, make: bool = True) -> AsyncIterator[store.SqlDirectory]:
    """The directory while it is needed. In SQLite it is made where there is none; one that an older version made is
    brought up to date if `upgrade` says so, and else refused: the server that uses it may be of that version still.

    Its secret is made where there is none, if `make` says so. Raises SecretFault, DirectoryFault; OSError or ValueError
    for files of certificates.
    """
    directory = directory_of(settings, key_hash(settings, make=make))
    try:
        await directory.prepare(upgrade=upgrade)
        yield directory
    finally:
        await directory.close()


async def every_key(directory: Directory) -> list[Key]:
    """All keys, revoked and expired ones included, oldest first. Raises DirectoryFault."""
    return sorted([key async for key in keys_of(directory)], key=lambda key: (key.created, key.id))


async def key_with(directory: Directory, presented: str) -> Key | None:
    """The key with this text, be it revoked or expired. Raises DirectoryFault."""
    found = (await directory.identify_all([presented])).get(presented)
    if isinstance(found, KeysUnavailable):
        raise found
    return found
