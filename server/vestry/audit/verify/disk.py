"""Reading a copy that may be hostile: only regular files, never more of one than it may have."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vestry.audit.tlog.tiles import TILE_BYTES, WIDTH, tile_path
from vestry.regular import NotRegular, whole

NOTE_BYTES = 1 << 20
_SMALL = re.compile(r"[0-9]{3}")
_DEEPER = re.compile(r"x[0-9]{3}")
_DEPTH = 6


class Unreadable(Exception):  # noqa: N818 - what the file is
    """A file that is there, but cannot be what it should be. A whole clause."""


def read(path: Path, limit: int) -> bytes | None:
    """A regular file of at most `limit` bytes; None where there is none. Raises Unreadable."""
    try:
        return whole(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegular:
        raise Unreadable(f"{path} is no file") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Unreadable(str(error)) from None


def text(path: Path) -> str | None:
    """A note; None where there is no file. Raises Unreadable."""
    data = read(path, NOTE_BYTES)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is no UTF-8 text") from None


def regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def tile(home: Path, level: int | str, index: int, width: int, *, limit: int = TILE_BYTES) -> tuple[bytes | None, Path]:
    """The bytes of a tile or bundle and where it lies; the whole one where a partial one is not there any more.

    Raises Unreadable.
    """
    path = home / tile_path(level, index, width)
    data = read(path, limit)
    if data is None and width != WIDTH:
        whole = home / tile_path(level, index)
        return read(whole, limit), whole
    return data, path


def whole_bundles(home: Path, below: int) -> Iterator[int]:
    """Numbers of the whole bundles that are there, in order, those below `below`.

    The directories are walked, instead of asking for each number: however large a log says it is, the work is bounded
    by what lies on the disk. Raises OSError for one that cannot be listed: it is not to be taken for an empty one.
    """
    for depth in range(_DEPTH):
        yield from _walk(home / "tile" / "entries", 0, depth, below)


def _walk(folder: Path, prefix: int, depth: int, below: int) -> Iterator[int]:
    try:
        names = sorted(each for each in os.listdir(folder) if (_DEEPER if depth else _SMALL).fullmatch(each))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        number = prefix * 1000 + int(name[-3:])
        if depth and number:
            yield from _walk(folder / name, number, depth - 1, below)
        elif not depth and number < below:
            yield number


def folders(directory: Path) -> Iterator[Path]:
    """The directories in a directory; no links, which could lead in a circle. Raises OSError where it is closed."""
    try:
        with os.scandir(directory) as found:
            names = sorted(each.name for each in found if each.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (directory / name for name in names)
