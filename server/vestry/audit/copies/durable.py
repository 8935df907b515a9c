"""Small files written whole: they are there as given, or not at all, whenever the machine dies."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from vestry.regular import whole


def write_whole(path: Path, text: str, *, over: bool = True, drafts: Path | None = None) -> None:
    """Make a file hold this, durably; it is replaced in one step. Raises OSError.

    With `over` false a file that is there already stays, whatever it holds. It is written as a draft in the folder
    `drafts` of the same volume, or else beside its place: from an append-only folder nothing can be taken away.
    """
    draft = (drafts or path.parent) / f".{path.name}.{secrets.token_hex(8)}"  # a volume may have several writers
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        if over or not os.path.lexists(path):
            draft.replace(path)
        sync(path.parent)  # also of one that is there: the try that put it there may have failed in this
    finally:
        draft.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably, for this user alone. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync(path.parent)


def sync(folder: Path) -> None:
    """Make a folder's entries durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> str:
    """The text of a regular file, no link. Raises OSError; ValueError for more than `limit` bytes, or no UTF-8."""
    return whole(path, limit, links=False).decode("utf-8")
