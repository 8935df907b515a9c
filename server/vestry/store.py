"""The directory that the settings name: opened by the server, and by each command that needs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from vestry.adapters.directory.faults import Unfit
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.postgres import Postgres, Where
from vestry.adapters.directory.sqlite import Sqlite
from vestry.adapters.directory.store import SqlDirectory
from vestry.seams import Directory
from vestry.secret_files import key_hash
from vestry.settings import Settings
from vestry.settings_store import Address, Store
from vestry.store_files import context_of, password_of
from vestry.types import Key

PAGE = 500


def directory_of(settings: Settings, secret: bytes) -> SqlDirectory:
    """The directory; nothing is opened yet, but the files of certificates are read. `secret` is what keys are hashed
    with. Raises OSError, or ValueError for what is no path.
    """
    pepper = Pepper(secret)
    address = settings.store.address
    if address is None:
        return SqlDirectory(Sqlite(settings.keys_database, pepper), pepper)
    return SqlDirectory(Postgres(_where(settings.store, address), pepper), pepper)


def _where(store: Store, address: Address) -> Where:
    def password() -> str:
        if store.password is None:
            return ""
        try:
            return password_of(store.password)
        except OSError as error:
            raise Unfit(f"cannot be asked: {error}") from None

    return Where(
        address.host,
        address.port,
        address.database,
        store.user,
        password,
        context_of(store),
        store.connections,
        store.connect_seconds,
        store.statement_seconds,
        stale_seconds=store.stale_seconds,
    )


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, upgrade: bool = False) -> AsyncIterator[SqlDirectory]:
    """The directory while it is needed. In SQLite it is made where there is none; one that an older version made is
    brought up to date if `upgrade` says so, and else refused: the server that uses it may be of that version still.

    Raises SecretFault, DirectoryFault; OSError or ValueError for files of certificates.
    """
    directory = directory_of(settings, key_hash(settings))
    try:
        await directory.prepare(upgrade=upgrade)
        yield directory
    finally:
        await directory.close()


async def every_key(directory: Directory) -> list[Key]:
    """All keys, revoked and expired ones included, oldest first. Raises DirectoryFault."""
    found: list[Key] = []
    while page := await directory.keys(None, found[-1].id if found else "", PAGE):
        found += page
    return sorted(found, key=lambda key: (key.created, key.id))
