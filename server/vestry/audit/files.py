"""The system calls of the log, one method each, so that tests can make any of them fail, hang or lie."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vestry.regular import status


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

    def put(self, wanted: Mapping[Path, bytes]) -> None:
        """Whole new files in the places of others, whose content stands until then; their entries are not synced.

        Never the old files themselves: after a failed sync nobody can say what the kernel holds of them. All are
        written before the first is synced, so that one commit of the file system's own journal serves them.
        """
        opened: list[int] = []
        try:
            for path, data in wanted.items():
                draft = _draft(path)
                draft.unlink(missing_ok=True)
                opened.append(self.create(draft))
                self.write_all(opened[-1], data)
            for descriptor in opened:
                self.sync(descriptor)
        finally:
            for descriptor in opened:
                with suppress(OSError):  # what is synced is there, whatever close says
                    self.close(descriptor)
        for path in wanted:
            self.rename(_draft(path), path)

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
