"""The tables, as the last migration leaves them.

Times are integer microseconds since the epoch, by the wall clock. Texts are compared byte by byte. Lists are JSON, null
for no bound; roles are comma-joined. Nothing of a key is here but its HMAC-SHA256.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()

STORE = Table(
    "store",
    METADATA,
    Column("pepper_check", LargeBinary, nullable=False),
    Column("changes", BigInteger, nullable=False),
)
"""One row: the HMAC of a known text, which tells whether the secret is the right one, and a number that every change
of a key or a document raises (triggers do it)."""

KEYS = Table(
    "keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("models", Text),
    Column("routes", Text),
    Column("sources", Text),
    Column("concurrency", Integer),
    Column("requests_per_minute", Integer),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("revoked", BigInteger),
    Column("frozen", BigInteger),
    Column("last_used", BigInteger),
    Column("replaces", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
)

DOCUMENTS = Table(
    "documents",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)
