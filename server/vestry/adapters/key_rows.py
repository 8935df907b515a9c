"""What the key store holds of a key, and its place in a SQLite table.

Times are integer microseconds since the epoch, by the wall clock.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

from msgspec import Struct

from vestry.types import Limits

ROLES = ("user", "admin")
SCHEMA_VERSION = 1
APPLICATION_ID = 0x56535459

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_SCHEMA = f"""
CREATE TABLE store (pepper_check BLOB NOT NULL CHECK (length(pepper_check) = 32)) STRICT;
CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    owner TEXT NOT NULL,
    tenant TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN {ROLES}),
    models TEXT,
    concurrency INTEGER CHECK (concurrency > 0),
    requests_per_minute INTEGER CHECK (requests_per_minute > 0),
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
ROWS = "SELECT id, owner, tenant, role, models, concurrency, requests_per_minute, created, expires, revoked FROM keys"
INSERT = """INSERT INTO keys VALUES
    (:id, :hash, :owner, :tenant, :role, :models, :concurrency, :rate, :created, :expires, NULL)"""


class Key(Struct, frozen=True):
    """A key as an operator sees it. `models` is None for every model of the tenant."""

    id: str
    owner: str
    tenant: str
    role: str
    models: frozenset[str] | None
    limits: Limits
    created: int
    expires: int | None
    revoked: int | None

    def state(self, now: int) -> str:
        """`active`, `expired` or `revoked`, at this time (microseconds since the epoch)."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def validate(key: Key) -> None:
    """Raises ValueError, with a sentence, for what no key can have."""
    if not 0 < len(key.owner) <= 128 or not key.owner.isprintable() or key.owner != key.owner.strip():
        raise ValueError("an owner is 1 to 128 printable characters, with no space at either end")
    if not _TENANT.fullmatch(key.tenant):
        raise ValueError("a tenant's name is 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`")
    if key.role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}")
    if key.models is not None and (
        not key.models or len(key.models) > 256 or not all(map(_MODEL.fullmatch, key.models))
    ):
        raise ValueError("models are 1 to 256 names of 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `/` and `-`")
    for bound, most in ((key.limits.concurrency, 100_000), (key.limits.requests_per_minute, 10_000_000)):
        if bound is not None and not 0 < bound <= most:
            raise ValueError("a limit is a positive number: at most 100000 calls at once, 10000000 a minute")
    if key.expires is not None and key.expires <= key.created:
        raise ValueError("the time of expiry has passed")


def key_of(row: tuple[Any, ...]) -> Key:
    """A row of ROWS. Raises ValueError for models that are no list of names."""
    key_id, owner, tenant, role, models, concurrency, rate, *times = row
    names = None if models is None else json.loads(models)
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise ValueError("a key's models are not a list of names")
    allowed = None if names is None else frozenset(names)
    return Key(key_id, owner, tenant, role, allowed, Limits(concurrency, rate), *times)


def row_of(key: Key, hashed: bytes) -> dict[str, Any]:
    return {
        "id": key.id,
        "hash": hashed,
        "owner": key.owner,
        "tenant": key.tenant,
        "role": key.role,
        "models": None if key.models is None else json.dumps(sorted(key.models)),
        "concurrency": key.limits.concurrency,
        "rate": key.limits.requests_per_minute,
        "created": key.created,
        "expires": key.expires,
    }


def build(draft: Path, pepper_check: bytes) -> None:
    """Write an empty store, durable when this returns, but for its name."""
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.execute("INSERT INTO store VALUES (?)", (pepper_check,))
        connection.execute("COMMIT")
