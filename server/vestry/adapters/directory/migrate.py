"""The schema of the directory's tables: which one there is, and how it becomes another one.

The steps are in `migrations/versions`, their names in `schemas.py`. A change of schema is one transaction, on SQLite as
well. Alembic is here alone: this is imported when tables are made or changed.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from vestry.adapters.directory.faults import WrongSchema
from vestry.adapters.directory.schemas import FIRST, HEAD, REVISIONS, require_head

FOLDER = Path(__file__).parent / "migrations"
_ONE = threading.Lock()
"""Alembic keeps the migration in progress in a global of its own: of several threads one runs at a time."""


def schema(connection: Connection) -> str | None:
    """The schema that the tables have: a revision, or None where there are no tables of ours."""
    noted = MigrationContext.configure(connection).get_current_revision()
    if noted is None and inspect(connection).has_table("keys") and inspect(connection).has_table("store"):
        return FIRST  # which noted nothing
    return noted


def upgrade(connection: Connection) -> tuple[str | None, str]:
    """Bring the tables to this program's schema, in the transaction that is there. The schema before and after.

    Raises WrongSchema for one that this program does not know.
    """
    before = schema(connection)
    if before is not None and before not in REVISIONS:
        require_head(before)
    config = _config(connection)
    with _ONE:
        if before == FIRST:
            command.stamp(config, FIRST)
        command.upgrade(config, "head")
    return before, HEAD


def downgrade(connection: Connection, revision: str) -> tuple[str | None, str]:
    """Undo what came after a schema. The schema before and after. Raises WrongSchema for one that is not before it."""
    before = schema(connection)
    if before is not None and before not in REVISIONS:
        require_head(before)
    older = REVISIONS[: REVISIONS.index(before)] if before is not None else ()
    if revision not in older:
        known = ", ".join(older) or "none"
        raise WrongSchema(
            f"has the schema {before or 'of no version'}, and {revision} is none before it (known: {known})"
        )
    with _ONE:
        command.downgrade(_config(connection), revision)
    return before, revision


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
