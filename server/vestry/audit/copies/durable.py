"""Small files written whole: they are there as given, or not at all, whenever the machine dies."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from vestry.regular import persist, whole, write_new


def write_whole(path: Path, text: str, *, over: bool = True, drafts: Path | None = None) -> None:
    """Make a file hold this, durably; it is replaced in one step. Raises OSError.

    With `over` false a file that is there already stays, whatever it holds. It is written as a draft in the folder
    `drafts` of the same volume, or else beside its place: from an append-only folder nothing can be taken away.
    """
    draft = (drafts or path.parent) / f".{path.name}.{secrets.token_hex(8)}"  # a volume may have several writers
    try:
        write_new(draft, text.encode())
        if over or not os.path.lexists(path):
            draft.replace(path)
        persist(path.parent)  # also of one that is there: the try that put it there may have failed in this
    finally:
        draft.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably, for this user alone. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        persist(path.parent)


def read_bounded(path: Path, limit: int) -> str:
    """The text of a regular file, no link. Raises OSError; ValueError for more than `limit` bytes, or no UTF-8."""
    return whole(path, limit, links=False).decode("utf-8")
