"""What somebody does to the directory by hand."""

from __future__ import annotations

import contextlib
import sqlite3

from support.house import House


def spoil(house: House, statement: str, *values: str) -> None:
    """Change the file, as another program does."""
    with contextlib.closing(sqlite3.connect(house.settings.keys_database)) as connection, connection:
        connection.execute(statement, values)
