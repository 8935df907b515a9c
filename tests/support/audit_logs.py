"""Audit directories as a server leaves them: journal, tiles, checkpoints, registry; and ways to damage them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vestry.audit.canonical import encode
from vestry.audit.files import Files
from vestry.audit.records import rfc3339
from vestry.audit.scan import name_of
from vestry.audit.tlog.notes import Checkpoint, PublicKey, Signer
from vestry.audit.tlog.tiles import WIDTH, bundled, tile_path, unbundled
from vestry.audit.tree import Tree

NAME = "hospital.example/vestry"
BEGAN = 1_800_000_000_000_000
Record = dict[str, Any]


class FastFiles(Files):
    """Real files, without waiting for the disk: nothing here is read after a power loss."""

    def sync(self, descriptor: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


def signer(seed: int = 1, name: str = NAME) -> Signer:
    """The same key each time."""
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def calls(number: int) -> Iterator[Record]:
    """A server's start, and intents with their outcomes; `number` records in all, with an odd one left open."""
    yield {"type": "server.start", "version": "0.1.0", "origins": ["server"]}
    for at in range(number - 1):
        kind = "outcome" if at % 2 else "intent"
        yield {"type": kind, "request_id": f"req_{at // 2:032x}", "tenant": "radiology"}


def leaf(record: Record, index: int, origin: str) -> bytes:
    """The canonical bytes of a record at its place, with a time that grows by a millisecond a record."""
    whole = {"schema": 1, "time": rfc3339(BEGAN + index * 1000), **record, "index": index, "origin": origin}
    return encode(whole)


class Log:
    """One log under construction: `add` writes journal and tree, `checkpoint` makes what it has so far count."""

    def __init__(self, directory: Path, origin: str, key: Signer, *, segment: int = 300) -> None:
        self.home, self.origin, self.key, self.segment = directory / origin, origin, key.of(origin), segment
        self.home.mkdir(parents=True, exist_ok=True)
        self.tree = Tree(self.home, FastFiles())
        self.checkpoints: list[str] = []

    def add(self, records: Iterable[Record]) -> Log:
        """Append records."""
        lines: list[bytes] = []
        first = self.tree.size
        for record in records:
            made = leaf(record, self.tree.size, self.origin)
            self.tree.add([made])
            lines.append(made)
            if (self.tree.size % self.segment) == 0:
                self._write(first, lines)
                first, lines = self.tree.size, []
        self._write(first, lines)
        return self

    def _write(self, first: int, lines: list[bytes]) -> None:
        if lines:
            path = self.home / name_of(first - first % self.segment)
            with path.open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")

    def checkpoint(self) -> str:
        """Write tiles and a signed checkpoint of all there is; drop covered segments but the newest two."""
        self.tree.settle()
        note = self.key.sign(Checkpoint(self.key.public.name, self.tree.size, self.tree.root()).text())
        (self.home / "checkpoint").write_text(note)
        self.checkpoints.append(note)
        for path in sorted(self.home.glob("*.jsonl"))[:-2]:
            path.unlink()
        return note

    def prune(self, minimum: int) -> None:
        """Remove what ends at or below `minimum`, after its `log.prune` record and a checkpoint over that."""
        self.add([{"type": "log.prune", "minimum_index": minimum, "cause": "retention"}])
        self.checkpoint()
        for level in ("entries", *range(4)):
            each = WIDTH if level == "entries" else WIDTH << 8 * int(level)
            for number in range(minimum // each):
                (self.home / tile_path(level, number)).unlink(missing_ok=True)


class House:
    """An audit directory with its registry."""

    def __init__(self, directory: Path, seed: int = 1) -> None:
        self.directory, self.signer = directory, signer(seed)
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def key(self) -> PublicKey:
        return self.signer.public

    def log(self, origin: str, number: int = 0, **more: Any) -> Log:
        """A log with `number` records and a checkpoint, in the registry."""
        log = Log(self.directory, origin, self.signer, **more)
        if number:
            log.add(calls(number)).checkpoint()
        self.register(*self.listed(), origin)
        return log

    def listed(self) -> list[str]:
        path = self.directory / "origins"
        return (
            [line.split(" ")[0] for line in path.read_text().split("\n\n")[0].split("\n")[2:]] if path.exists() else []
        )

    def register(self, *origins: str) -> None:
        """Write the registry anew."""
        rows = [f"{name} {rfc3339(BEGAN)}" for name in sorted(set(origins))]
        text = "\n".join(["vestry origins v1", self.signer.public.name, *rows]) + "\n"
        (self.directory / "origins").write_text(self.signer.sign(text))


def copied(directory: Path, to: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(directory, to))


def bundle_of(home: Path, index: int) -> Path:
    """The file with the record of this index, whole or partial."""
    path = home / tile_path("entries", index // WIDTH)
    return path if path.exists() else next((path.parent / f"{path.name}.p").iterdir())


def tile_of(home: Path, level: int, number: int) -> Path:
    path = home / tile_path(level, number)
    return path if path.exists() else next((path.parent / f"{path.name}.p").iterdir())


def change(home: Path, index: int, edit: Callable[[list[bytes], int], None]) -> None:
    """Edit the records of a bundle: `edit` gets them, and the place of the one with this index."""
    path = bundle_of(home, index)
    leaves = unbundled(path.read_bytes())
    edit(leaves, index % WIDTH)
    path.write_bytes(b"".join(bundled(each) for each in leaves))


def flip(path: Path, at: int) -> None:
    """Turn one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
