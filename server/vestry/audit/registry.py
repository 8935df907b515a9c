"""The registry of origins: which logs a house has, signed, so that a log that is missing shows.

`origins` in the audit directory is a signed note of the house's key: `vestry origins v1`, the house's name, and one
line an origin, sorted: its name and when it was first seen (UTC, RFC 3339).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vestry.audit.files import Files
from vestry.audit.notary import replace_file
from vestry.audit.reading import ORIGIN, origins
from vestry.audit.records import Clock, rfc3339
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.notes import NOTE_BYTES, NoteRefused, PublicKey, Signer
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.regular import whole

REGISTRY = "origins"
HEAD = "vestry origins v1"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")


def parse(text: str, house: str) -> dict[str, str]:
    """Origins and when each was first seen, from the text of the note. Raises NoteRefused."""
    lines = text.split("\n")
    if len(lines) < 3 or lines[0] != HEAD or lines[1] != house or lines[-1]:
        raise NoteRefused(f"it is no registry of the house {house}")
    found: dict[str, str] = {}
    for line in lines[2:-1]:
        origin, _, seen = line.partition(" ")
        if not ORIGIN.fullmatch(origin) or not _TIME.fullmatch(seen) or origin <= next(reversed(found), ""):
            raise NoteRefused(f"`{line[:80]}` is no line of a registry, or not in its place")
        found[origin] = seen
    return found


def read(directory: Path, key: PublicKey) -> dict[str, str] | None:
    """The origins of a registry that the house's `key` has signed; None where there is none. Raises NoteRefused."""
    try:
        note = whole(directory / REGISTRY, 4 * NOTE_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoteRefused(f"it cannot be read: {error}") from error
    return parse(key.verify(note), key.name)


def register(directory: Path, origin: str, signer: Signer, *, files: Files, clock: Clock) -> list[str]:
    """Make sure that `origin` stands in the registry, and return all that do. Raises LogUnusable, or OSError."""
    with _locked(directory / f"{REGISTRY}.lock"):
        try:
            known = read(directory, signer.public)
        except NoteRefused as error:
            raise LogUnusable(
                f"The registry of logs, {directory / REGISTRY}, cannot be trusted: {error}. Restore it from a copy, or "
                "give the server the signing key that it was made with."
            ) from error
        now = rfc3339(clock.wall())
        wanted = dict.fromkeys(_adopted(directory, files), now) if known is None else known
        if origin not in wanted and files.there(directory / origin / CHECKPOINT) is not None:
            raise LogUnusable(
                f"The log `{origin}` has been signed, but does not stand in the registry of logs, "
                f"{directory / REGISTRY}: that is an older one. Restore it from a copy."
            )
        wanted = {origin: now, **wanted}
        if wanted != known:
            lines = [HEAD, signer.public.name, *(f"{name} {seen}" for name, seen in sorted(wanted.items()))]
            note = signer.sign("\n".join(lines) + "\n").encode()
            if len(note) > NOTE_BYTES:  # nobody could read it, and no log of the house could be opened
                raise LogUnusable(
                    f"The registry of logs, {directory / REGISTRY}, has no room for another one: the log `{origin}` "
                    f"cannot begin, because the registry would have more than {NOTE_BYTES} bytes. Let the server go "
                    f"on with one of the {len(wanted) - 1} logs that stand in it (`audit.origin`), or give it an audit "
                    "directory of its own."
                )
            replace_file(directory / REGISTRY, note, files)
    return sorted(wanted)


def _adopted(directory: Path, files: Files) -> list[str]:
    """The logs of a version that had no registry yet. None of them can have a checkpoint."""
    found = origins(directory)
    signed = [name for name in found if files.there(directory / name / CHECKPOINT) is not None]
    if signed:
        raise LogUnusable(
            f"The registry of logs, {directory / REGISTRY}, is missing, though there are signed logs "
            f"({', '.join(signed)}). Restore it from a copy."
        )
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
