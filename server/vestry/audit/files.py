"""The system calls of the log, one method each, so that tests can make any of them fail, hang or lie."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vestry.regular import status

Pieces = Sequence[bytes | bytearray]
"""The bytes of a file, in order. Written as they are: to join them first would cost what the write does."""
_PIECES = 1024
"""How many one writev(2) takes, by POSIX and by Linux (IOV_MAX)."""


class State(NamedTuple):
    """Which file it is (device and number), its size in bytes, and how many names it has: none once it was removed."""

    which: tuple[int, int]
    size: int
    names: int


class Files:
    """The real ones. All raise OSError."""

    def create(self, path: Path) -> int:
        """A new empty file, open for appending. Fails if there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append_to(self, path: Path) -> int:
        """An existing file, open for appending."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes) -> int:
        """One write; returns how many bytes were taken, which may be fewer."""
        return os.write(descriptor, data)

    def write_all(self, descriptor: int, data: bytes) -> None:
        """As many writes as it takes."""
        while data:
            data = data[self.write(descriptor, data) :]

    def gather(self, descriptor: int, pieces: Pieces) -> int:
        """As `write`, of at most 1,024 pieces."""
        return os.writev(descriptor, pieces)

    def gather_all(self, descriptor: int, pieces: Pieces) -> None:
        """As `write_all`, of any number of pieces."""
        for at in range(0, len(pieces), _PIECES):
            some = pieces[at : at + _PIECES]
            taken = self.gather(descriptor, some)
            if taken < sum(map(len, some)):
                self.write_all(descriptor, b"".join(some)[taken:])

    def sync(self, descriptor: int) -> None:
        """The file's data, and its size, are on the disk when this returns."""
        os.fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """The directory's entries are on the disk when this returns."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def state(self, descriptor: int) -> State:
        """Of an open file."""
        return _state(os.fstat(descriptor))

    def there(self, path: Path) -> State | None:
        """Of what stands under a name; None where there is nothing."""
        found = status(path)
        return None if found is None else _state(found)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def remove(self, path: Path) -> None:
        path.unlink()

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def put(self, wanted: Mapping[Path, Pieces]) -> None:
        """Whole new files in the places of others, whose content stands until then; their entries are not synced.

        Never the old files themselves: after a failed sync nobody can say what the kernel holds of them. All are
        written before the first is synced, so that one commit of the file system's own journal serves them.
        """
        opened: list[int] = []
        try:
            for path, pieces in wanted.items():
                opened.append(self._begin(_draft(path)))
                self.gather_all(opened[-1], pieces)
            for descriptor in opened:
                self.sync(descriptor)
        finally:
            for descriptor in opened:
                with suppress(OSError):  # what is synced is there, whatever close says
                    self.close(descriptor)
        for path in wanted:
            self.rename(_draft(path), path)

    def _begin(self, draft: Path) -> int:
        try:
            return self.create(draft)
        except FileExistsError:  # left by an attempt that failed, or by a process that died
            draft.unlink()
            return self.create(draft)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def lock(self, path: Path) -> int | None:
        """An exclusive lock that lasts until the descriptor is closed; None if another holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _state(found: os.stat_result) -> State:
    return State((found.st_dev, found.st_ino), found.st_size, found.st_nlink)


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
