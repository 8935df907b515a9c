"""A quick look into the SQLite file of a directory, for a shell that completes a word.

Reads only, waits for no lock, checks nothing: what is found are names, and no yes to anything depends on them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

WAIT_SECONDS = 0.05


def documents_of(path: Path, kind: str, tenant: str | None, begun: str, most: int) -> list[str]:
    """Names of documents that begin so; of this tenant, or of any."""
    asked = (
        "SELECT DISTINCT name FROM documents WHERE kind = :kind AND (:tenant IS NULL OR tenant = :tenant) "
        "AND substr(name, 1, length(:begun)) = :begun ORDER BY name LIMIT :most"
    )
    return _found(path, asked, {"kind": kind, "tenant": tenant, "begun": begun, "most": most})


def key_ids(path: Path, tenant: str | None, begun: str, most: int) -> list[str]:
    """Ids of keys that are not revoked and begin so."""
    asked = (
        "SELECT id FROM keys WHERE revoked IS NULL AND (:tenant IS NULL OR tenant = :tenant) "
        "AND substr(id, 1, length(:begun)) = :begun ORDER BY id LIMIT :most"
    )
    return _found(path, asked, {"tenant": tenant, "begun": begun, "most": most})


def _found(path: Path, asked: str, values: dict[str, str | int | None]) -> list[str]:
    with contextlib.suppress(sqlite3.Error, OSError, ValueError):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS)) as reading:
            return [str(name) for (name,) in reading.execute(asked, values)]
    return []
