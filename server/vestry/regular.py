"""Opening and reading files that somebody else named: regular ones alone, and no more of them than is asked for; and
making durable what was written.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def status(path: Path) -> os.stat_result | None:
    """Of what stands under a name; None where there is nothing. Raises OSError where nobody can tell: `Path.exists`,
    `is_dir` and `is_file` call that nothing as well, since Python 3.14.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_folder(path: Path) -> bool:
    """Whether a folder is there. Raises OSError where nobody can tell."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


class NotRegular(OSError):  # noqa: N818 - what stands there
    """What stands there is a folder, a pipe, a device: no regular file."""


def opened(path: Path, *, links: bool = True) -> BinaryIO:
    """A regular file, open for reading; if `links` says so, also by a symbolic link's name. Raises OSError; NotRegular
    for what is none: a pipe would be waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular(errno.EINVAL, "it is no file", str(path))
    return os.fdopen(descriptor, "rb")


def whole(path: Path, limit: int, *, links: bool = True) -> bytes:
    """A regular file of at most so many bytes. Raises as `opened`, and ValueError for a larger one."""
    with opened(path, links=links) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data


def write_new(path: Path, content: bytes) -> None:
    """Make a file that there is not yet, for this user alone, durably but for its name. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def persist(path: Path) -> None:
    """Make a file durable, or the entries of a folder (fsync(2): a file's own does not). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
