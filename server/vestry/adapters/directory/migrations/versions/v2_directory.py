"""Keys with roles, projects, routes, sources and versions; documents; and a database that says when it has changed.

The first version does not know what keeps a key from being used that is frozen, or bound to routes, addresses or a
project. So it must not read these tables: on SQLite the number that it looks for is another one from here on. Undone,
such keys are revoked, and those that none of their roles lets call: it knows `user` and `admin`, and both may. Whoever
has more roles than `user` and not `admin` is a user.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v2"
down_revision = "v1"

_CHANGING = (
    "id, hash, owner, tenant, project, roles, models, routes, sources, concurrency, requests_per_minute, created, "
    "expires, revoked, frozen, replaces, made_by, version"
)
_KEPT = "id, hash, owner, tenant, models, concurrency, requests_per_minute, created, expires"
_HAS = "',' || roles || ',' LIKE '%,{},%'"
_CALLS = " OR ".join(_HAS.format(role) for role in ("user", "tenant-admin", "admin"))
_UNKNOWN = f"frozen IS NOT NULL OR routes IS NOT NULL OR sources IS NOT NULL OR project <> '' OR NOT ({_CALLS})"


def _whole() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text() -> sa.types.TypeEngine[str]:
    """A text that is compared byte by byte, as SQLite does by itself."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Move the keys into the new table, and add the rest."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.rename_table("keys", "keys_v1")
    op.create_table(
        "keys",
        sa.Column("id", _text(), nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tenant", _text(), nullable=False),
        sa.Column("project", _text(), nullable=False, server_default=""),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("routes", sa.Text),
        sa.Column("sources", sa.Text),
        sa.Column("concurrency", sa.Integer),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created", _whole(), nullable=False),
        sa.Column("expires", _whole()),
        sa.Column("revoked", _whole()),
        sa.Column("frozen", _whole()),
        sa.Column("last_used", _whole()),
        sa.Column("replaces", sa.Text, nullable=False, server_default=""),
        sa.Column("made_by", sa.Text, nullable=False, server_default=""),
        sa.Column("version", _whole(), nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("id", name="keys_by_id"),
        sa.UniqueConstraint("hash", name="keys_by_hash"),
        sa.CheckConstraint("length(hash) = 32", name="keys_hash_whole"),
        sa.CheckConstraint("roles <> ''", name="keys_roles_some"),
        sa.CheckConstraint("concurrency > 0", name="keys_concurrency_positive"),
        sa.CheckConstraint("requests_per_minute > 0", name="keys_rate_positive"),
        sa.CheckConstraint("version > 0", name="keys_version_positive"),
        sqlite_strict=True,
    )
    op.execute(f"INSERT INTO keys ({_KEPT}, roles, revoked) SELECT {_KEPT}, role, revoked FROM keys_v1")  # noqa: S608
    op.drop_table("keys_v1")
    op.create_index("keys_by_tenant", "keys", ["tenant", "id"])
    op.create_table(
        "documents",
        sa.Column("kind", _text(), nullable=False),
        sa.Column("tenant", _text(), nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("body", sa.JSON().with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.Column("version", _whole(), nullable=False),
        sa.Column("created", _whole(), nullable=False),
        sa.Column("updated", _whole(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "tenant", "name", name="documents_by_name"),
        sa.CheckConstraint("version > 0", name="documents_version_positive"),
        sqlite_strict=True,
    )
    op.create_index("documents_by_path", "documents", ["kind", sa.text("(tenant || '/' || name)")])
    op.add_column("store", sa.Column("changes", _whole(), nullable=False, server_default="0"))
    for statement in _sqlite_triggers() if sqlite else _postgresql_triggers():
        op.execute(statement)
    if sqlite:
        op.execute("PRAGMA user_version = 2")


def downgrade() -> None:
    """Move the keys back. Documents, and what the first version does not know of keys, are lost."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for name in ("keys_inserted", "keys_deleted", "keys_updated"):
            op.execute(f"DROP TRIGGER {name}")
    else:
        op.execute("DROP TRIGGER keys_changed ON keys")
        op.execute("DROP TRIGGER documents_changed ON documents")
        op.execute("DROP FUNCTION vestry_changed()")
    op.drop_table("documents")
    op.drop_column("store", "changes")
    op.drop_index("keys_by_tenant", "keys")
    op.rename_table("keys", "keys_v2")
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
        sa.Column("created", _whole(), nullable=False),
        sa.Column("expires", _whole()),
        sa.Column("revoked", _whole()),
        sa.CheckConstraint("length(hash) = 32"),
        sa.CheckConstraint("role IN ('user', 'admin')"),
        sa.CheckConstraint("concurrency > 0"),
        sa.CheckConstraint("requests_per_minute > 0"),
        sqlite_strict=True,
    )
    op.execute(
        f"INSERT INTO keys ({_KEPT}, role, revoked) SELECT {_KEPT}, "  # noqa: S608
        f"CASE WHEN {_HAS.format('admin')} THEN 'admin' ELSE 'user' END, "
        f"CASE WHEN revoked IS NULL AND ({_UNKNOWN}) THEN created ELSE revoked END FROM keys_v2"
    )
    op.drop_table("keys_v2")
    if sqlite:
        op.execute("PRAGMA user_version = 1")


def _sqlite_triggers() -> list[str]:
    """A number that every change raises; noting when a key was used is none."""
    events = {
        "keys_inserted": "INSERT ON keys",
        "keys_deleted": "DELETE ON keys",
        "keys_updated": f"UPDATE OF {_CHANGING} ON keys",
        "documents_inserted": "INSERT ON documents",
        "documents_deleted": "DELETE ON documents",
        "documents_updated": "UPDATE ON documents",
    }
    return [
        f"CREATE TRIGGER {name} AFTER {event} BEGIN UPDATE store SET changes = changes + 1; END"  # noqa: S608
        for name, event in events.items()
    ]


def _postgresql_triggers() -> list[str]:
    """The same number, and a word to every replica when the transaction is committed."""
    return [
        """CREATE FUNCTION vestry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE store SET changes = changes + 1;
            PERFORM pg_notify('vestry_directory', '');
            RETURN NULL;
        END $$""",
        f"""CREATE TRIGGER keys_changed AFTER INSERT OR DELETE OR UPDATE OF {_CHANGING} ON keys
        FOR EACH STATEMENT EXECUTE FUNCTION vestry_changed()""",
        """CREATE TRIGGER documents_changed AFTER INSERT OR DELETE OR UPDATE ON documents
        FOR EACH STATEMENT EXECUTE FUNCTION vestry_changed()""",
    ]
