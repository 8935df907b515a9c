"""The connection that listens for changes, where PostgreSQL goes away at a moment that its driver does not expect."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from support.cable import Cable
from support.directories import PEPPER, PostgresStand, eventually, postgres_directory
from support.postgres import USER
from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.postgres import Postgres, Where
from vestry.adapters.directory.store import SqlDirectory
from vestry.errors import KeysUnavailable
from vestry.types import Kind

ANOTHER = "SELECT pg_advisory_xact_lock(6217983745330713)"
FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FAREWELL = b"E" + (len(FIELDS) + 4).to_bytes(4) + FIELDS
"""What a server says that is shut down (PostgreSQL's protocol, ErrorResponse)."""
LET_IN, READY = b"R\0\0\0\x08\0\0\0\0", b"Z\0\0\0\x05I"
NO_COLUMN = b"1\0\0\0\x04T\0\0\0\x06\0\x05"
"""The answer to a question: five columns, of which none is described."""


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


def version(said: bytes) -> bytes:
    """A ParameterStatus."""
    parameter = b"server_version\0" + said + b"\0"
    return b"S" + (len(parameter) + 4).to_bytes(4) + parameter


@pytest.mark.parametrize(
    "welcome",
    [LET_IN + version(b"16.1") + READY, LET_IN + version(b"none") + READY, LET_IN + READY],
    ids=["rows that are none", "a version that is none", "no version"],
)
def test_what_speaks_as_no_postgresql_does_is_an_outage(welcome: bytes) -> None:
    """A broken proxy, or another database in its place: the driver raises whatever it stumbles over. That is an outage,
    told in a sentence, and tried again."""
    connected = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        await reader.read(4096)
        writer.write(welcome)
        if await reader.read(4096):
            writer.write(NO_COLUMN)
            await reader.read(4096)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        backend = Postgres(Where("127.0.0.1", port, "vestry", USER, lambda: ""), Pepper(PEPPER))
        directory = SqlDirectory(backend, Pepper(PEPPER))
        async with asyncio.timeout(10), backend.attending():
            assert backend.freshness.lost is not None
            assert f"127.0.0.1:{port}/vestry " in backend.freshness.lost.why
            with pytest.raises(KeysUnavailable):
                await directory.prepare(upgrade=False)

            async def again() -> bool:
                return connected > 2  # one of these is the question above

            await eventually(again)
        server.close()  # and not waited for: since Python 3.12 that waits for the connections as well
        await directory.close()

    asyncio.run(run())


def test_who_waits_for_anothers_change_waits_longer_than_for_an_answer(tmp_path: Path) -> None:
    """A change that takes longer than a statement may is waited for, as long as for a lock; then the operator is told
    that somebody else changes something, and not that PostgreSQL is silent.
    """
    stand = PostgresStand(tmp_path)

    async def run() -> None:
        theirs = await asyncpg.connect(host="127.0.0.1", port=stand.server.port, user=USER, database=stand.database)
        mine = postgres_directory(stand.server, stand.database, statement_seconds=0.1, lock_seconds=0.5)
        try:
            await theirs.execute("BEGIN")
            await theirs.execute(ANOTHER)
            with pytest.raises(DirectoryFault) as fault:
                async with mine.changing():
                    pass
            assert "is being changed by somebody else" in fault.value.why
            await theirs.execute("COMMIT")
            async with mine.changing() as change:
                await change.put(Kind.TENANT, "", "radiology", {})
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await theirs.execute(f"SET lock_timeout = 1; {ANOTHER}")
            assert [each.name for each in await mine.standing()] == ["radiology"]
        finally:
            await theirs.close()
            await mine.close()

    asyncio.run(run())


def test_answers_that_arrive_garbled_are_an_outage(tmp_path: Path) -> None:
    """What a look-up comes to, where the bytes of PostgreSQL's answer were changed on their way: it is no fault of this
    program, and the next look-up is answered."""
    stand = PostgresStand(tmp_path)
    garbled = False

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65_536):
            sink.write(data.replace(b"tenant", b"\xff\xfe\xff\xfe\xff\xfe") if garbled and answers else data)
        sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", stand.server.port)
        await asyncio.gather(pump(reader, forth, answers=False), pump(back, writer, answers=True))

    async def run() -> None:
        nonlocal garbled
        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        where = Where("127.0.0.1", port, stand.database, USER, lambda: "", stale_seconds=60.0)
        backend = Postgres(where, Pepper(PEPPER))
        directory = SqlDirectory(backend, Pepper(PEPPER))
        async with backend.attending():
            assert await directory.standing() == []
            garbled = True
            with pytest.raises(KeysUnavailable):
                await directory.keys(None, "", 10)
            garbled = False
            assert await directory.keys(None, "", 10) == []
        server.close()  # and not waited for: since Python 3.12 that waits for the connections as well
        await directory.close()

    asyncio.run(run())


def test_a_database_that_is_older_than_it_was_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after a failover to a standby that had not heard of the last changes: whoever was revoked by them is back."""
    stand = PostgresStand(tmp_path)

    async def run() -> None:
        async with stand.opened() as pair, pair.theirs.changing() as change:
            await change.put(Kind.TENANT, "", "radiology", {})
        async with stand.opened():
            statement = "UPDATE store SET changes = changes - 1"
            await asyncio.to_thread(stand.server.execute, statement, database=stand.database)
            assert "older than it was" not in caplog.text
            await asyncio.to_thread(stand.break_)
            await asyncio.to_thread(stand.mend)

            async def told() -> bool:
                return "the directory is older than it was (0 changes, and 1 before)" in caplog.text

            await eventually(told)

    asyncio.run(run())
