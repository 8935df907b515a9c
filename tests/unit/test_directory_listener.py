"""The connection that listens for changes, where PostgreSQL goes away at a moment that its driver does not expect."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.cable import Cable
from support.directories import PEPPER, PostgresStand, eventually
from support.postgres import USER
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.postgres import Postgres, Where
from vestry.adapters.directory.store import SqlDirectory
from vestry.errors import KeysUnavailable

FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FAREWELL = b"E" + (len(FIELDS) + 4).to_bytes(4) + FIELDS
"""What a server says that is shut down (PostgreSQL's protocol, ErrorResponse)."""


def test_a_farewell_before_the_connection_closes_is_an_outage_and_no_end(tmp_path: Path) -> None:
    """The server's last word has come, its hang-up has not, and the next question goes out in between: the changes are
    unheard from then on, the directory says so, and both are heard again once there is a server."""
    stand = PostgresStand(tmp_path)

    async def run(cable: Cable) -> None:
        secret = Pepper(PEPPER)
        where = Where("127.0.0.1", cable.port, stand.database, USER, lambda: "", stale_seconds=60.0)
        backend = Postgres(where, secret)
        directory = SqlDirectory(backend, secret)
        try:
            async with backend.attending():
                assert await directory.standing() == []
                cable.say(FAREWELL)

                async def lost() -> bool:
                    return backend.freshness.lost is not None

                await eventually(lost)
                with pytest.raises(KeysUnavailable):
                    await directory.standing()
                cable.join()

                async def heard() -> bool:
                    return backend.freshness.lost is None

                await eventually(heard)
                assert await directory.standing() == []
        finally:
            await directory.close()

    with Cable("127.0.0.1", stand.server.port) as cable:
        asyncio.run(run(cable))
