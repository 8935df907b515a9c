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
from collections.abc import Iterator
from pathlib import Path

from vestry.audit.copies.durable import make_folder, read_bounded, write_whole
from vestry.audit.copies.sink import NOTE_LIMIT, Held, Item, Reading
from vestry.audit.tlog.notes import PublicKey
from vestry.faults import cause_of
from vestry.regular import is_folder
from vestry.wires import Undelivered

_FOLDER = re.compile(r"[0-9]{12}")
_FILE = re.compile(r"([0-9]{18})-[0-9a-f]{16}")
_PER_FOLDER = 1_000_000
_MOST = 10_000
"""After so many files of which none is a checkpoint of the log, the directory has not answered."""


class DirectorySink:
    """sink.Sink over a directory that exists: it is not made, so that a volume which is not mounted is seen.

    `public` is the log's own key; without it every checkpoint that stands under its right name is taken for the log's.
    """

    keeps_registry = True

    def __init__(
        self, name: str, path: Path, origin: str, *, required: bool = False, public: PublicKey | None = None
    ) -> None:
        self.name, self.required = name, required
        self._public = public
        self.where = f"the directory {path}"
        self._path, self._home = path, path / origin

    def deliver(self, item: Item) -> None:
        try:
            self._stands()
            if item.kind == "registry":
                self._write(self._path / "registry" / _digest(item.note), self._path / "origins", item.note)
            else:
                self._write(self._place(item.head().size, item.note), self._home / "latest", item.note)
        except OSError as error:
            raise Undelivered(f"{self.where} cannot be written to ({cause_of(error)})") from error

    def _place(self, size: int, note: str) -> Path:
        """Where a checkpoint stands."""
        folder = self._home / "checkpoints" / f"{size // _PER_FOLDER:012d}"
        return folder / f"{size:018d}-{_digest(note)}"

    def _write(self, path: Path, newest: Path, note: str) -> None:
        """One that stays, and the newest: drafts of both are above, so that the folders may be append-only."""
        make_folder(path.parent)
        write_whole(path, note, over=False, drafts=newest.parent)
        write_whole(newest, note)

    def newest(self) -> Held:
        try:
            self._stands()
            return self._held()
        except OSError as error:
            raise Undelivered(f"{self.where} cannot be read ({cause_of(error)})") from error

    def _stands(self) -> None:
        if not is_folder(self._path):
            raise Undelivered(f"{self.where} is not there; it is made by hand, so that a missing volume shows")

    def _held(self) -> Held:
        """The files of the greatest sizes, and `latest`, which somebody may have removed or put back.

        Further down as well, until one is the log's own: however many somebody puts above it, it is found, or the
        directory has not answered.
        """
        reading = Reading(self._public, self._place)
        unread: list[str] = []
        for number, path in enumerate(self._files(unread)):
            if reading.enough:
                break
            if number >= _MOST:
                raise Undelivered(f"{self.where} holds {_MOST} files above its newest checkpoint that are none")
            _read(path, reading)
        _read(self._home / "latest", reading)
        return Held(notes=tuple(reading.notes), doubts=tuple(reading.doubts), unread=unread[0] if unread else "")

    def _files(self, unread: list[str]) -> Iterator[Path]:
        """Those of checkpoints, the greatest size first. Folders that cannot be read are passed over, into `unread`."""
        above = self._home / "checkpoints"
        for folder in sorted((each for each in _listed(above) if _FOLDER.fullmatch(each)), reverse=True):
            try:
                names = [each for each in _listed(above / folder) if _FILE.fullmatch(each)]
            except OSError as error:
                unread.append(f"{above / folder} cannot be read ({cause_of(error)})")
                continue
            for name in sorted(names, reverse=True):
                yield above / folder / name


def _read(path: Path, reading: Reading) -> None:
    try:
        note = read_bounded(path, NOTE_LIMIT)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        note = None
    reading.take(path, note, f"{path} is no checkpoint, or cannot be read")


def _digest(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:16]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - half the cost of Path.iterdir, for up to a million names
    except (FileNotFoundError, NotADirectoryError):
        return []
