"""Secrets kept in files: read with care, made at need.

`key-hash` is the pepper of the API keys' hashes: 32 random bytes. `engine-key` is the key that engines ask for: a line
of printable ASCII. `content-hash`, 32 random bytes, is there once a tenant's content is `hashed`. Each may be put there
beforehand, by Kubernetes for example.

A secret file must be a regular file that nobody else may read. As for PostgreSQL's key files, one that belongs
to root may be readable by its group, which is how Kubernetes mounts a Secret into a pod with an `fsGroup`.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vestry.faults import ConfigurationError, Fault
from vestry.regular import NotRegular, opened, persist, write_new
from vestry.settings.tree import Settings

KEY_HASH = "key-hash"
ENGINE_KEY = "engine-key"
CONTENT_HASH = "content-hash"
LARGEST = 4096

_TOKEN = re.compile(rb"[\x21-\x7e]{16,512}")


class SecretFault(ConfigurationError):  # noqa: N818 - one fault of a configuration
    """A secret cannot be used. It says why and what mends it, never what the file holds."""

    def __init__(self, path: Path, what: str, mend: str):
        self.fault = Fault(str(path), what, mend)
        super().__init__([self.fault])


def state_directory(path: Path) -> None:
    """Make the state directory, for this user alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def key_hash(settings: Settings, *, make: bool = True) -> bytes:
    """The pepper of the key store, made if there is none yet, unless that is not to be. Raises SecretFault."""
    path = settings.secrets_directory / KEY_HASH
    if fault := lost_pepper(settings):
        raise fault
    if not make and not os.path.lexists(path):
        mend = "Restore it from a copy, or from another server's; for a new store, `vestry store migrate` makes it"
        raise SecretFault(path, "it is missing, and the store's keys cannot be told without it", mend)
    read_or_make(path, lambda: secrets.token_bytes(32))
    return read(path, 32)


def engine_key(settings: Settings) -> str:
    """The key that engines ask for, made if there is none yet. Raises SecretFault."""
    path = settings.secrets_directory / ENGINE_KEY
    read_or_make(path, lambda: secrets.token_hex(32).encode())
    return _token(path)


def _token(path: Path) -> str:
    """The token in a secret file. Raises SecretFault."""
    content = read(path).strip()
    if not _TOKEN.fullmatch(content):
        raise SecretFault(path, "it is not one line of 16 to 512 printable ASCII characters", "Write such a line")
    return content.decode("ascii")


def content_hash(settings: Settings) -> bytes:
    """The secret that every tenant's key of content hashes is derived from, made if there is none yet.

    Raises SecretFault.
    """
    path = settings.secrets_directory / CONTENT_HASH
    read_or_make(path, lambda: secrets.token_bytes(32))
    return read(path, 32)


def useless(settings: Settings) -> Iterator[SecretFault]:
    """Of the secrets that are there, those that cannot be used."""
    folder = settings.secrets_directory
    readers: dict[Path, Callable[[Path], object]] = {
        folder / KEY_HASH: partial(read, least=32),
        folder / ENGINE_KEY: _token,
        folder / CONTENT_HASH: partial(read, least=32),
    }
    for path, reader in readers.items():
        if os.path.lexists(path):
            try:
                reader(path)
            except SecretFault as fault:
                yield fault


def lost_pepper(settings: Settings) -> SecretFault | None:
    """The fault that there are keys, but not the pepper of their hashes. A new one would make them all worthless."""
    path, keys = settings.secrets_directory / KEY_HASH, settings.keys_database
    if settings.store.url is not None:
        return None  # whether a new one fits is seen when the database is asked
    if not os.path.lexists(keys) or os.path.lexists(path):  # in this order: the store is made after the pepper
        return None
    mend = f"Restore it from a copy; or, to begin anew without any of the old keys, move {keys} away"
    return SecretFault(path, f"it is missing, and the keys in {keys} cannot be used without it", mend)


def looked_at(path: Path) -> os.stat_result | None:
    """What stat(2) says of a path; None where it says nothing, for whatever reason."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def is_folder(path: Path) -> bool:
    """Whether this user can see that a folder is there. Unlike `regular.is_folder` it never raises."""
    status = looked_at(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def exposure(path: Path, status: os.stat_result, *, by_group: bool = False) -> SecretFault | None:
    """Why a file or folder with this status is not private, or None. `by_group` lets the owner's group read it."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {0, os.geteuid()}:
        return SecretFault(path, "it belongs to another user", f"Give it to this one: chown {os.geteuid()} {path}")
    if stat.S_ISDIR(status.st_mode):
        if mode & 0o022 and not mode & stat.S_ISVTX:  # in a sticky folder nobody can replace another's file
            return SecretFault(path, f"others may write to it (mode {mode:04o})", f"Close it: chmod go-w {path}")
        return None
    forbidden = 0o037 if by_group or status.st_uid == 0 else 0o077
    if mode & forbidden:
        return SecretFault(path, f"others may read or write it (mode {mode:04o})", f"Close it: chmod 600 {path}")
    return None


def read(path: Path, least: int = 16, *, by_group: bool = False) -> bytes:
    """The secret's bytes, as they stand in the file: `least` or more. Raises SecretFault.

    `by_group` is for a token that Kubernetes projects: where the pod has `runAsUser` and `fsGroup` its mode is 0640.
    """
    try:
        file = opened(path)
    except NotRegular:
        raise SecretFault(path, "it is not a regular file", "Put the secret into a plain file of its own") from None
    except OSError as error:
        raise SecretFault(path, f"it cannot be opened ({error.strerror})", "Restore it, or its permissions") from error
    with file:
        try:
            if fault := exposure(path, os.fstat(file.fileno()), by_group=by_group):
                raise fault
            content = os.read(file.fileno(), LARGEST + 1)
        except OSError as error:
            raise SecretFault(path, f"it cannot be read ({error.strerror})", "Restore it from a copy") from error
    if not least <= len(content) <= LARGEST:
        raise SecretFault(path, f"it holds fewer than {least} bytes, or more than {LARGEST}", "Restore it from a copy")
    return content


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The secret; what `make` gives where there was none. Raises SecretFault.

    Of several processes that start at once, all get the same secret: it is written whole beside its place, and
    linked into it only if nothing stands there.
    """
    if not os.path.lexists(path):
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            for folder in (*reversed(path.parent.parents), path.parent):  # `parents` would leave those above open
                folder.mkdir(mode=0o700, exist_ok=True)
            write_new(draft, make())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass  # another process was first: its secret is the one
            finally:
                draft.unlink()
            persist(path.parent)
        except OSError as error:
            mend = "Make its folder writable, or put a secret there"
            raise SecretFault(path, f"it is missing and cannot be made ({error.strerror})", mend) from error
    return read(path, 16)
