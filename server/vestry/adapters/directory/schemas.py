"""Which schemas of the directory's tables there are, known without Alembic, which every start would wait for."""

from __future__ import annotations

import logging

from vestry.adapters.directory.faults import WrongSchema

logging.getLogger("alembic").setLevel(logging.WARNING)  # what it does, its import too, is told by whoever asks for it
REVISIONS = ("v1", "v2")
"""Every schema that this program knows, oldest first: those of `migrations/versions`."""
FIRST, HEAD = REVISIONS[0], REVISIONS[-1]


def require_head(found: str | None) -> None:
    """Raises WrongSchema unless this is the schema that this program works with."""
    if found is None:
        raise WrongSchema("has no tables yet: make them with `vestry store migrate`")
    if found not in REVISIONS:
        raise WrongSchema(
            f"has the schema {found} of a newer version, and this one works with {HEAD}: use the newer version, or "
            f"undo its change with its own `vestry store downgrade {HEAD}`"
        )
    if found != HEAD:
        raise WrongSchema(
            f"has the schema {found} of an older version, and this one works with {HEAD}: bring it up to date with "
            "`vestry store migrate`"
        )
