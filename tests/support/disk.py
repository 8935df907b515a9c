"""The disk under the record of a house in this process, made slow or broken on demand."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from vestry.audit.files import Files


class Disk:
    """Stands in for the log's system calls. What fails, fails for every log in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self._open.set()
        self.held = False
        """Whether fdatasync hangs, with a record under it."""
        self._faults: dict[str, int] = {}
        write, sync, create = Files.write, Files.sync, Files.create

        def failing_write(files: Files, descriptor: int, data: bytes) -> int:
            self._raise("write")
            return write(files, descriptor, data)

        def failing_sync(files: Files, descriptor: int) -> None:
            self.held = not self._open.is_set()
            assert self._open.wait(30), "nobody released the disk"
            self.held = False
            self._raise("sync")
            sync(files, descriptor)

        def failing_create(files: Files, path: Path) -> int:
            self._raise("create")
            return create(files, path)

        monkeypatch.setattr(Files, "write", failing_write)
        monkeypatch.setattr(Files, "sync", failing_sync)
        monkeypatch.setattr(Files, "create", failing_create)

    def _raise(self, name: str) -> None:
        number = self._faults.get(name)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def fail(self, number: int, *names: str) -> None:
        """Let these calls (`write`, `sync`, `create`) fail with this errno, until `mend`."""
        self._faults.update(dict.fromkeys(names, number))

    def block(self) -> None:
        """Let fdatasync hang, until `mend`."""
        self._open.clear()

    def mend(self) -> None:
        """All is well again; what hung returns."""
        self._faults.clear()
        self._open.set()
