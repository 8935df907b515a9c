"""Keys with one role each: what the first version made, in SQLite only and without a note of its schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v1"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "store",
        sa.Column("pepper_check", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("length(pepper_check) = 32"),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("concurrency", sa.Integer),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created", whole, nullable=False),
        sa.Column("expires", whole),
        sa.Column("revoked", whole),
        sa.CheckConstraint("length(hash) = 32"),
        sa.CheckConstraint("role IN ('user', 'admin')"),
        sa.CheckConstraint("concurrency > 0"),
        sa.CheckConstraint("requests_per_minute > 0"),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 1")


def downgrade() -> None:
    """Remove the tables, and every key with them."""
    op.drop_table("keys")
    op.drop_table("store")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version = 0")
