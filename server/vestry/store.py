"""The directory that the settings name: opened by the server, and by each command that needs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.sqlite import Sqlite
from vestry.adapters.directory.store import SqlDirectory
from vestry.secret_files import key_hash
from vestry.settings import Settings
from vestry.types import Key

PAGE = 500


def directory_of(settings: Settings, secret: bytes) -> SqlDirectory:
    """The directory; nothing is opened yet. `secret` is what keys are hashed with."""
    pepper = Pepper(secret)
    return SqlDirectory(Sqlite(settings.keys_database, pepper), pepper)


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, upgrade: bool = False) -> AsyncIterator[SqlDirectory]:
    """The directory while it is needed, made where there is none. Raises SecretFault, DirectoryFault.

    One in SQLite that an older version made is brought up to date if `upgrade` says so, and else refused: the server
    that uses it may be of that older version still.
    """
    directory = directory_of(settings, key_hash(settings))
    try:
        await directory.prepare(upgrade=upgrade)
        yield directory
    finally:
        await directory.close()


async def every_key(directory: SqlDirectory) -> list[Key]:
    """All keys, revoked and expired ones included, oldest first. Raises DirectoryFault."""
    found: list[Key] = []
    while page := await directory.keys(None, found[-1].id if found else "", PAGE):
        found += page
    return sorted(found, key=lambda key: (key.created, key.id))
