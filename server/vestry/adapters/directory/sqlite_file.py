"""The SQLite file of a directory: how it is told from another, made, and brought from one schema to another.

The file is this user's alone (mode 0600). It is made beside its place, whole and durable, and linked into it only if
nothing stands there. What is here waits for the disk: call it from a thread of its own.

https://sqlite.org/pragma.html
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, NullPool, create_engine

from vestry.adapters.directory.faults import Unfit, WrongSchema
from vestry.adapters.directory.schemas import HEAD, REVISIONS, require_head
from vestry.late import Late

if TYPE_CHECKING:
    from vestry.adapters.directory import migrate
else:
    migrate = Late("vestry.adapters.directory.migrate")

APPLICATION_ID = 0x56535459
FORMAT = 2
"""`user_version`: raised by a step that makes the tables unfit for the versions before it."""
LOCK_SECONDS = 5.0
T = TypeVar("T")


def uri_of(path: Path) -> str:
    """The file as SQLite is asked for it: never made by being opened."""
    return f"{path.as_uri()}?mode=rw"


def verify(connection: sqlite3.Connection, pepper_check: bytes) -> None:
    """Raises Unfit for a database that is not ours, or that this program cannot use."""
    version = _ours(connection)
    if version < FORMAT:
        raise WrongSchema(
            f"has format {version} of an older version, and this program reads {FORMAT}: stop that version's server, "
            "which could not read it any more; then `vestry serve`, `vestry up` or `vestry store migrate` bring it up "
            "to date"
        )
    _same_pepper(connection, pepper_check)


def _ours(connection: sqlite3.Connection) -> int:
    """The format of the file. Raises Unfit."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise Unfit("is not a key store of this program: restore it from a copy")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise WrongSchema(f"has format {version}, and this program reads {FORMAT}: use the program that made it")
    return version


def _same_pepper(connection: sqlite3.Connection, pepper_check: bytes) -> None:
    row = connection.execute("SELECT pepper_check FROM store").fetchone()
    if row is None or not hmac.compare_digest(row[0], pepper_check):
        raise Unfit("was made with another `key-hash` secret: restore the secret that belongs to it")


def prepare(path: Path, pepper_check: bytes, *, upgrade: bool) -> None:
    """Make a directory where there is none, and bring an older one up to date if told so.

    Raises Unfit, OSError, sqlite3.Error or SQLAlchemyError.
    """
    if not os.path.lexists(path):
        _build(path, pepper_check)

    def bring(connection: Connection) -> None:
        if migrate.schema(connection) != HEAD:  # nobody else was faster
            migrate.upgrade(connection)

    with contextlib.closing(_opened(path)) as connection:
        old = _ours(connection) < FORMAT or _noted(connection) in REVISIONS[:-1]
    if old and upgrade:
        changed(path, pepper_check, bring)
    with contextlib.closing(_opened(path)) as connection:
        verify(connection, pepper_check)
        require_head(_noted(connection))


def _noted(connection: sqlite3.Connection) -> str | None:
    """The schema that the file says it has: asked without Alembic, for every start."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else str(row[0])


def changed(path: Path, pepper_check: bytes, change: Callable[[Connection], T]) -> T:
    """What this makes of the tables of a directory of ours, all of it or nothing; durable when this returns."""
    with contextlib.closing(_opened(path)) as connection:
        _ours(connection)
        _same_pepper(connection, pepper_check)
    return _in_one(path, change)


def integrity(path: Path, pepper_check: bytes) -> None:
    """Read the whole file. Raises Unfit if it is damaged."""
    with contextlib.closing(_opened(path)) as connection:
        verify(connection, pepper_check)
        if (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Unfit(f"is damaged ({said}): restore it from a copy")


def _build(path: Path, pepper_check: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".keys-", dir=path.parent) as folder:
        draft = Path(folder, "keys.sqlite")
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(_opened(draft)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")

        def fill(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate.upgrade(connection)
            connection.exec_driver_sql("INSERT INTO store (pepper_check) VALUES (?)", (pepper_check,))

        _in_one(draft, fill)
        with contextlib.suppress(FileExistsError):  # another process was first: its file is the one
            os.link(draft, path)


def _in_one(path: Path, change: Callable[[Connection], T]) -> T:
    engine = create_engine("sqlite://", creator=lambda: _opened(path), poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        made = change(connection)
        connection.commit()
    return made


def _opened(path: Path) -> sqlite3.Connection:
    path.stat()
    connection = sqlite3.connect(uri_of(path), uri=True, timeout=LOCK_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection
