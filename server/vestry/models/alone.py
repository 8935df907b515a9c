"""Being the only one that does something, for as long as it is done: by a locked file, which the system lets go."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vestry.models.catalog import ModelError
from vestry.models.progress import Progress


@contextlib.contextmanager
def alone(file: Path, taken: str) -> Iterator[None]:
    """Hold this lock, or raise ModelError with the sentence `taken` where another process does."""
    with file.open("w") as lock:
        if not _free(lock):
            raise ModelError(taken)
        yield


@contextlib.contextmanager
def in_turn(file: Path, progress: Progress) -> Iterator[None]:
    """Hold this lock, after whoever does."""
    with file.open("w") as lock:
        if not _free(lock):
            progress.say("  waiting for another run to finish ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free(lock: IO[str]) -> bool:
    """Take the lock where no other process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
