"""A program's output in a file of bounded size: at the bound it goes on in a new file, and one old one is kept."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

LARGEST = 16 * 1024 * 1024


class Journal:
    """Appends to `path`; beyond `largest` bytes that file becomes `path.1`. A context manager. Not for secrets."""

    def __init__(self, path: Path, largest: int = LARGEST):
        self._path = path
        self._largest = largest
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, piece: bytes) -> None:
        """Append. What cannot be written (a full disk) is lost: a program does not stop for its log."""
        with contextlib.suppress(OSError):
            if self._size and self._size + len(piece) > self._largest:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                old, self._descriptor = self._descriptor, self._open()
                os.close(old)
                self._size = 0
            self._size += os.write(self._descriptor, piece)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
