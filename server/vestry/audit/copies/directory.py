"""A second directory or volume: one file a checkpoint, and `latest`.

    PATH/ORIGIN/checkpoints/000000000000/000000000000016384-9f86d081884c7d65    size, and SHA-256 of the note
    PATH/ORIGIN/latest                                                          the newest one that was delivered
    PATH/registry/9f86d081884c7d65                                              every registry of origins there was
    PATH/origins                                                                the newest one that was delivered

Folders hold a million records each, so that none grows without bound. No checkpoint is ever replaced: another one of
the same size would have another name, and stand beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from vestry.audit.copies.durable import make_folder, read_bounded, write_whole
from vestry.audit.copies.sink import NOTE_LIMIT, Held, Item
from vestry.faults import cause_of
from vestry.wires import Undelivered

_FOLDER = re.compile(r"[0-9]{12}")
_FILE = re.compile(r"([0-9]{18})-[0-9a-f]{16}")
_PER_FOLDER = 1_000_000
_LOOKED_AT = 16
"""So many files are looked at for the newest checkpoint, should those of the greatest sizes be forged."""


class DirectorySink:
    """sink.Sink over a directory that exists: it is not made, so that a volume which is not mounted is seen."""

    keeps_registry = True

    def __init__(self, name: str, path: Path, origin: str, *, required: bool = False) -> None:
        self.name, self.required = name, required
        self.where = f"the directory {path}"
        self._path, self._home = path, path / origin

    def deliver(self, item: Item) -> None:
        digest = hashlib.sha256(item.note.encode()).hexdigest()[:16]
        try:
            self._stands()
            if item.kind == "registry":
                self._write(self._path / "registry" / digest, self._path / "origins", item.note)
            else:
                size = item.head().size
                folder = self._home / "checkpoints" / f"{size // _PER_FOLDER:012d}"
                self._write(folder / f"{size:018d}-{digest}", self._home / "latest", item.note)
        except OSError as error:
            raise Undelivered(f"{self.where} cannot be written to ({cause_of(error)})") from error

    def _write(self, path: Path, newest: Path, note: str) -> None:
        make_folder(path.parent)
        write_whole(path, note, over=False)
        write_whole(newest, note)

    def newest(self) -> Held:
        try:
            self._stands()
            return self._held()
        except OSError as error:
            raise Undelivered(f"{self.where} cannot be read ({cause_of(error)})") from error

    def _stands(self) -> None:
        if not self._path.is_dir():
            raise Undelivered(f"{self.where} is not there; it is made by hand, so that a missing volume shows")

    def _held(self) -> Held:
        """The files of the greatest sizes, and `latest`, which somebody may have removed or put back."""
        found = self._files()
        notes: list[str] = []
        doubts: list[str] = []
        for path in found:
            try:
                notes.append(read_bounded(path, NOTE_LIMIT))
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                doubts.append(f"{path} is no checkpoint, or cannot be read")
        return Held(notes=tuple(notes), doubts=tuple(doubts))

    def _files(self) -> list[Path]:
        found: list[Path] = []
        above = self._home / "checkpoints"
        for folder in sorted((each for each in _listed(above) if _FOLDER.fullmatch(each)), reverse=True):
            names = sorted((each for each in _listed(above / folder) if _FILE.fullmatch(each)), reverse=True)
            found += [above / folder / each for each in names[: _LOOKED_AT - len(found)]]
            if len(found) >= _LOOKED_AT:
                break
        return [*found, self._home / "latest"]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - half the cost of Path.iterdir, for up to a million names
    except (FileNotFoundError, NotADirectoryError):
        return []
