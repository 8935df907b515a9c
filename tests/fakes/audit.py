"""What the tests of the record share: a strict reader, a clock set by hand, and a disk that fails."""

from __future__ import annotations

import errno
import functools
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vestry.audit.fields import RecordType
from vestry.audit.files import Files, Pieces, State
from vestry.audit.notary import Signing
from vestry.audit.reading import LogReader, is_log
from vestry.audit.records import Clock
from vestry.audit.schema import document
from vestry.audit.tlog.notes import Signer

ORIGIN = "server"
SIGNING = Signing(Signer("house.test/vestry", Ed25519PrivateKey.from_private_bytes(b"t" * 32)))
"""The house's key of these tests, the same in every process; checkpoints as seldom as a server makes them."""


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """For records of a type; made when the first one is read, for it takes a while."""
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{RecordType(kind)}", "$defs": _definitions()})


@functools.cache
def _definitions() -> Any:
    return document()["$defs"]


def read(directory: Path, origin: str = ORIGIN) -> list[dict[str, Any]]:
    """Every record of a log, after the checks that any reader can make.

    The last segment is whole; each record is canonical by an independent implementation, and fits the schema; indices
    count from 0 without a gap.
    """
    found: list[dict[str, Any]] = []
    for last in sorted((directory / origin).glob("*.jsonl"))[-1:]:
        assert last.read_bytes().endswith(b"\n"), f"{last} has a torn tail"
    home = directory / origin
    for index, leaf in LogReader(home).leaves() if is_log(home) else ():
        record = json.loads(leaf)
        assert rfc8785.dumps(record) == leaf
        assert record["index"] == index == len(found)
        assert record["origin"] == origin
        validator(record["type"]).validate(record)
        found.append(record)
    return found


def kinds(directory: Path, origin: str = ORIGIN) -> list[str]:
    """The types of a log's records, in order."""
    return [record["type"] for record in read(directory, origin)]


class HandClock:
    """Both clocks, moved by hand. `both` moves them together, as time does."""

    def __init__(self) -> None:
        self.wall = 1_000_000_000_000_000
        self.monotonic = 100.0

    def both(self, seconds: float) -> None:
        self.wall += round(seconds * 1_000_000)
        self.monotonic += seconds

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)


class FaultyFiles(Files):
    """Real files, with a switch on every system call.

    `faults[name]` is an OSError to raise, `short` to write half, `lie` to do the work and then raise EIO, or `hang`
    to block until `released`. `left` bounds how often a fault strikes; None is always. The lock is never faulty.
    """

    def __init__(self) -> None:
        self.faults: dict[str, OSError | str] = {}
        self.left: int | None = None
        self.released = threading.Event()
        self.calls: Counter[str] = Counter()

    def fail(self, name: str, fault: int | str = errno.EIO, *, times: int | None = None) -> None:
        self.faults[name] = OSError(fault, f"injected {errno.errorcode[fault]}") if isinstance(fault, int) else fault
        self.left = times

    def mend(self) -> None:
        self.faults.clear()
        self.released.set()

    def write(self, descriptor: int, data: bytes) -> int:
        fault = self._strikes("write")
        if fault == "short":
            return super().write(descriptor, data[: len(data) // 2])
        if isinstance(fault, OSError):
            if fault.errno == errno.ENOSPC:
                super().write(descriptor, data[: len(data) // 3])
            raise fault
        return super().write(descriptor, data)

    def gather(self, descriptor: int, pieces: Pieces) -> int:
        if "write" in self.faults:
            return self.write(descriptor, b"".join(pieces))
        self.calls["write"] += 1
        return super().gather(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        fault = self._strikes("sync")
        if isinstance(fault, OSError):
            raise fault
        super().sync(descriptor)
        if fault == "lie":
            raise OSError(errno.EIO, "injected EIO after the data was written")

    def sync_directory(self, path: Path) -> None:
        self._raise("sync_directory")
        super().sync_directory(path)

    def create(self, path: Path) -> int:
        self._raise("create")
        return super().create(path)

    def append_to(self, path: Path) -> int:
        self._raise("append_to")
        return super().append_to(path)

    def state(self, descriptor: int) -> State:
        self._raise("state")
        return super().state(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        self._raise("truncate")
        super().truncate(descriptor, size)

    def remove(self, path: Path) -> None:
        self._raise("remove")
        super().remove(path)

    def rename(self, old: Path, new: Path) -> None:
        self._raise("rename")
        super().rename(old, new)

    def _strikes(self, name: str) -> OSError | str | None:
        self.calls[name] += 1
        fault = self.faults.get(name)
        if fault is None or self.left == 0:
            return None
        if self.left is not None:
            self.left -= 1
        if fault == "hang":
            assert self.released.wait(30), "nobody released the hung call"
            return None
        return fault

    def _raise(self, name: str) -> None:
        fault = self._strikes(name)
        if isinstance(fault, OSError):
            raise fault
