"""How the tables become those of another version, and back: in SQLite and in PostgreSQL, with what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import sqlite3
import stat
import threading
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from alembic import command
from sqlalchemy import Connection, inspect

from support.directories import PEPPER, postgres_directory
from support.keys import ran, sqlite_directory
from support.postgres import postgres
from vestry.adapters.directory.faults import DirectoryFault, SchemaFault
from vestry.adapters.directory.schemas import HEAD, REVISIONS
from vestry.adapters.directory.store import SqlDirectory
from vestry.adapters.directory.tables import METADATA
from vestry.adapters.key_format import mint, mint_id
from vestry.adapters.memory import wall
from vestry.composition.store import key_with
from vestry.roles import Role
from vestry.types import Key, Kind, Limits

T = TypeVar("T")

V1 = """
CREATE TABLE store (pepper_check BLOB NOT NULL CHECK (length(pepper_check) = 32)) STRICT;
CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    owner TEXT NOT NULL,
    tenant TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    models TEXT,
    concurrency INTEGER CHECK (concurrency > 0),
    requests_per_minute INTEGER CHECK (requests_per_minute > 0),
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;
PRAGMA application_id = 0x56535459;
PRAGMA user_version = 1;
"""
"""What the first version made, word for word."""


def hashed(secret: str) -> bytes:
    """What is kept of a key."""
    return hmac.digest(PEPPER, secret.encode(), "sha256")


class Stand(Protocol):
    """A database without tables of ours, or with those of the first version."""

    def made(self) -> SqlDirectory: ...

    def rows(self, asked: str) -> list[tuple[Any, ...]]: ...


class SqliteStand:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.sqlite"

    def made(self) -> SqlDirectory:
        return sqlite_directory(self.path, PEPPER)

    def rows(self, asked: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(asked).fetchall()

    def first(self, rows: list[tuple[Any, ...]]) -> None:
        """Make the file that the first version would have made."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(V1)
            connection.execute("INSERT INTO store VALUES (?)", (hmac.digest(PEPPER, b"vestry key store", "sha256"),))
            connection.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.path.chmod(0o600)


class PostgresStand:
    def __init__(self, _: Path) -> None:
        self._server = postgres()
        self.database = self._server.database()

    def made(self) -> SqlDirectory:
        return postgres_directory(self._server, self.database)

    def rows(self, asked: str) -> list[tuple[Any, ...]]:
        return [tuple(each) for each in self._server.execute(asked, database=self.database)]


@pytest.fixture(params=[SqliteStand, PostgresStand])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    """Each database in turn."""
    made: Stand = request.param(tmp_path)
    return made


def with_directory(stand: Stand, work: Callable[[SqlDirectory], Coroutine[Any, Any, T]]) -> T:
    """What this comes to, with a directory opened for it."""

    async def run() -> T:
        directory = stand.made()
        try:
            return await work(directory)
        finally:
            await directory.close()

    return ran(run())


def migrated(stand: Stand) -> tuple[str | None, str]:
    """As `vestry store migrate`."""
    return with_directory(stand, lambda directory: directory.asked(lambda backend: backend.migrate()))


def downgraded(stand: Stand, revision: str) -> tuple[str | None, str]:
    """As `vestry store downgrade`."""
    return with_directory(stand, lambda directory: directory.asked(lambda backend: backend.downgrade(revision)))


def schema(stand: Stand) -> str | None:
    """As `vestry store status`."""
    return with_directory(stand, lambda directory: directory.asked(lambda backend: backend.schema()))


async def filled(directory: SqlDirectory, *keys: tuple[Key, str]) -> None:
    """Keep these keys, and a document."""
    async with directory.changing() as change:
        for key, secret in keys:
            await change.add_key(key, secret)
        await change.put(Kind.TENANT, "", "radiology", {"models": ["small"]})


def test_every_step_can_be_gone_up_and_down(stand: Stand) -> None:
    """From nothing to the newest schema, down to each older one, and up again: what works there goes on working."""
    assert migrated(stand) == (None, HEAD)
    secret = mint()
    key = Key(mint_id(), "radiology", "alice", wall(), models=frozenset({"small"}), limits=Limits(2, 30))
    with_directory(stand, lambda directory: filled(directory, (key, secret)))
    for revision in reversed(REVISIONS[:-1]):
        assert downgraded(stand, revision) == (HEAD, revision)
        assert schema(stand) == revision
        assert migrated(stand) == (revision, HEAD)
        assert with_directory(stand, lambda directory: key_with(directory, secret)) == key
    assert migrated(stand) == (HEAD, HEAD)


def test_the_tables_are_those_that_the_program_knows(stand: Stand) -> None:
    """After the last step: the same tables, columns, keys and nulls as in `tables.py`."""
    migrated(stand)

    def described(connection: Connection) -> Mapping[str, Any]:
        found = inspect(connection)
        return {
            name: (
                {each["name"]: each["nullable"] for each in found.get_columns(name)},
                found.get_pk_constraint(name)["constrained_columns"],
            )
            for name in METADATA.tables
        }

    async def look(directory: SqlDirectory) -> Mapping[str, Any]:
        engine = await directory.backend.engine(reading=True)
        async with engine.connect() as connection:
            return await connection.run_sync(described)

    assert with_directory(stand, look) == {
        name: ({each.name: each.nullable for each in table.columns}, [each.name for each in table.primary_key])
        for name, table in METADATA.tables.items()
    }


def test_a_key_with_bounds_that_an_older_version_does_not_see_is_revoked_there(stand: Stand) -> None:
    """Frozen, or bound to routes, addresses or a project, which may be disabled: it must not work without them. A role
    becomes the nearest; a key that could make no call makes none there.
    """
    migrated(stand)
    now = wall()
    keys = {
        "plain": Key(mint_id(), "a", "plain", now),
        "admin": Key(mint_id(), "a", "admin", now, roles=frozenset({Role.ADMIN, Role.AUDITOR})),
        "auditor": Key(mint_id(), "a", "auditor", now, roles=frozenset({Role.AUDITOR})),
        "operator": Key(mint_id(), "a", "operator", now, roles=frozenset({Role.OPERATOR, Role.AUDITOR})),
        "clerk": Key(mint_id(), "a", "clerk", now, roles=frozenset({Role.TENANT_ADMIN})),
        "reader": Key(mint_id(), "a", "reader", now, roles=frozenset({Role.USER, Role.AUDITOR})),
        "member": Key(mint_id(), "a", "member", now, project="closed"),
        "frozen": Key(mint_id(), "a", "frozen", now, frozen=now),
        "routed": Key(mint_id(), "a", "routed", now, routes=frozenset({"models"})),
        "placed": Key(mint_id(), "a", "placed", now, sources=(ip_network("10.0.0.0/8"),)),
        "revoked": Key(mint_id(), "a", "revoked", now, revoked=now + 7, frozen=now),
    }
    with_directory(stand, lambda directory: filled(directory, *((each, mint()) for each in keys.values())))
    downgraded(stand, "v1")
    found = {owner: (role, revoked) for owner, role, revoked in stand.rows("SELECT owner, role, revoked FROM keys")}
    assert found == {
        "plain": ("user", None),
        "admin": ("admin", None),
        "auditor": ("user", now),
        "operator": ("user", now),
        "clerk": ("user", None),
        "reader": ("user", None),
        "member": ("user", now),
        "frozen": ("user", now),
        "routed": ("user", now),
        "placed": ("user", now),
        "revoked": ("user", now + 7),
    }


def test_a_program_refuses_tables_of_another_version(stand: Stand) -> None:
    """Older or newer, it says so, and names the command."""
    migrated(stand)

    async def prepare(directory: SqlDirectory) -> None:
        await directory.prepare(upgrade=False)

    downgraded(stand, "v1")
    with pytest.raises(SchemaFault) as older:
        with_directory(stand, prepare)
    assert "older version" in older.value.why
    assert "vestry store migrate" in older.value.why
    migrated(stand)
    note(stand, "v999")
    with pytest.raises(SchemaFault) as newer:
        with_directory(stand, prepare)
    assert "newer version" in newer.value.why
    for work in (migrated, lambda stand: downgraded(stand, "v1")):
        with pytest.raises(SchemaFault, match="cannot be checked"):
            work(stand)
    note(stand, HEAD)
    with_directory(stand, prepare)


def note(stand: Stand, revision: str) -> None:
    """Say that the tables have this schema."""
    statement = f"UPDATE alembic_version SET version_num = '{revision}'"
    if isinstance(stand, SqliteStand):
        with contextlib.closing(sqlite3.connect(stand.path)) as connection, connection:
            connection.execute(statement)
    else:
        stand.rows(statement)


def test_no_schema_but_an_older_one_is_gone_down_to(stand: Stand) -> None:
    """The one that there is, one that there never was."""
    migrated(stand)
    for revision in (HEAD, "v0", "base", "-1", ""):
        with pytest.raises(DirectoryFault) as fault:
            downgraded(stand, revision)
        assert "none before it" in fault.value.why
    assert schema(stand) == HEAD


def test_of_several_that_migrate_at_once_one_does(stand: Stand) -> None:
    """As the jobs of two releases, or the starts of two servers; all end well."""
    if isinstance(stand, SqliteStand):
        stand.first([])
    before: list[str | None] = []
    threads = [threading.Thread(target=lambda: before.append(migrated(stand)[0])) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(before) == 4
    assert before.count(HEAD) == 3
    assert schema(stand) == HEAD


def test_a_step_that_fails_changes_nothing(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction, in SQLite as well: the tables are those of before, and what they hold."""
    migrated(stand)
    with_directory(stand, lambda directory: filled(directory, (Key(mint_id(), "a", "alice", wall()), mint())))
    downgraded(stand, "v1")
    before = stand.rows("SELECT * FROM keys")
    real = command.upgrade

    def fail(*arguments: Any) -> None:
        real(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "upgrade", fail)
    with pytest.raises(DirectoryFault):
        migrated(stand)
    assert schema(stand) == "v1"
    assert stand.rows("SELECT * FROM keys") == before
    monkeypatch.undo()
    assert migrated(stand) == ("v1", HEAD)


# What the first version made.


def test_a_store_of_the_first_version_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each key with its owner, tenant, role, models, limits and times; the file stays the user's alone. How it is done
    is not told in the server's log.
    """
    caplog.set_level(logging.INFO)
    stand = SqliteStand(tmp_path)
    alice, bob = mint(), mint()
    stand.first(
        [
            ("key_1", hashed(alice), "alice", "radiology", "admin", '["large", "small"]', 2, 30, 5, 2**57, None),
            ("key_2", hashed(bob), "bob", "default", "user", None, None, None, 6, None, 7),
        ]
    )

    async def prepare(directory: SqlDirectory) -> tuple[Key | None, Key | None]:
        await directory.prepare()
        return await key_with(directory, alice), await key_with(directory, bob)

    assert with_directory(stand, prepare) == (
        Key(
            "key_1",
            "radiology",
            "alice",
            5,
            roles=frozenset({Role.ADMIN}),
            models=frozenset({"small", "large"}),
            limits=Limits(2, 30),
            expires=2**57,
        ),
        Key("key_2", "default", "bob", 6, revoked=7),
    )
    assert stat.S_IMODE(stand.path.stat().st_mode) == 0o600
    assert stand.rows("PRAGMA user_version") == [(2,)]
    assert stand.rows("PRAGMA integrity_check") == [("ok",)]
    assert caplog.messages == []


def test_a_command_leaves_a_store_of_the_first_version_alone(tmp_path: Path) -> None:
    """The server that uses it may be of that version still: only what was told so upgrades."""
    stand = SqliteStand(tmp_path)
    stand.first([])

    async def prepare(directory: SqlDirectory) -> None:
        await directory.prepare(upgrade=False)

    with pytest.raises(SchemaFault) as fault:
        with_directory(stand, prepare)
    assert "vestry store migrate" in fault.value.why
    assert stand.rows("PRAGMA user_version") == [(1,)]


def test_a_store_of_the_first_version_with_another_pepper_is_not_touched(tmp_path: Path) -> None:
    """It is refused before anything is changed."""
    stand = SqliteStand(tmp_path)
    stand.first([])
    with contextlib.closing(sqlite3.connect(stand.path)) as connection, connection:
        connection.execute("UPDATE store SET pepper_check = zeroblob(32)")
    with pytest.raises(DirectoryFault) as fault:
        migrated(stand)
    assert "key-hash" in fault.value.why
    assert stand.rows("PRAGMA user_version") == [(1,)]


def test_the_first_version_refuses_what_a_newer_one_made(tmp_path: Path) -> None:
    """It looks at `user_version`: it knows nothing of frozen keys, and must not use them."""
    stand = SqliteStand(tmp_path)
    migrated(stand)
    assert stand.rows("PRAGMA user_version") == [(2,)]
    downgraded(stand, "v1")
    assert stand.rows("PRAGMA user_version") == [(1,)]
    assert stand.rows("PRAGMA application_id") == [(0x56535459,)]


def test_another_pepper_migrates_nothing_in_postgresql(tmp_path: Path) -> None:
    """A job with the wrong secret is told so, and the tables stay as they were."""
    stand = PostgresStand(tmp_path)
    migrated(stand)
    downgraded(stand, "v1")

    async def with_another() -> None:
        directory = postgres_directory(postgres(), stand.database, pepper=bytes(32))
        try:
            await directory.asked(lambda backend: backend.migrate())
        finally:
            await directory.close()

    with pytest.raises(DirectoryFault) as fault:
        asyncio.run(with_another())
    assert "key-hash" in fault.value.why
    assert schema(stand) == "v1"


def test_the_tables_are_described_once() -> None:
    """No table stands in the metadata that no step makes."""
    assert set(METADATA.tables) == {"store", "keys", "documents"}
