"""Making an environment anew without losing the one that works.

A virtual environment cannot be moved for good: its scripts name the folder that it was made in. So the new one is made
in its place while the old one waits beside it, and comes back unless the new one is finished. An unfinished one then
waits in turn, to be gone on with.

    NAME                  what is used
    .NAME-before          the one that works, while another is made in its place
    .NAME-unfinished      the other, while it is not worked on

All of it under the lock of who calls. A run that was killed leaves them in some step of this; `settle` sees which.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

Whole = Callable[[Path], bool]
"""Whether the environment in a folder is finished."""


def settle(folder: Path, whole: Whole) -> None:
    """After a run that was killed: the old environment is in its place again, unless the new one was finished."""
    if not before(folder).exists():
        return
    if whole(folder):
        discard(before(folder))
        return
    if folder.exists():
        discard(unfinished(folder))
        folder.rename(unfinished(folder))
    before(folder).rename(folder)


@contextlib.contextmanager
def kept(folder: Path, whole: Whole) -> Iterator[None]:
    """Make an environment in `folder`, where an unfinished one may be. The one that works comes back if that fails."""
    if whole(folder):
        folder.rename(before(folder))
        if unfinished(folder).exists():
            unfinished(folder).rename(folder)
    try:
        yield
    finally:
        settle(folder, whole)


def discard(folder: Path) -> None:
    """Remove it, or the link that stands there."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def before(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-before")


def unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-unfinished")
