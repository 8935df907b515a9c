"""Erases what is kept of one subject: finds the entries, in all bundles of all logs, then destroys them.

It goes by the entries themselves and not by the records, so that content is found whose record could not be written.
The two halves are apart, because the erasure is recorded in between. Both may be done again after a crash. The server
may write meanwhile: it appends, and what is erased lies before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from vestry.audit.content import bundles
from vestry.audit.content.bundles import ContentDamaged, Entry, Place
from vestry.audit.files import Files


class Found(Struct, frozen=True):
    """The living entries of a subject in one bundle."""

    place: Place
    name: str
    entries: list[Entry]


def find(homes: Iterable[Path], *, subject: str, tenant: str | None, before: str | None) -> list[Found]:
    """What is to be erased. `before` is a time as records have it. Raises ContentDamaged, and OSError."""
    found: list[Found] = []
    for home in homes:
        place = Place(home)
        for name in place.names():
            doomed = [
                entry
                for entry in bundles.entries(place.keys / name)
                if entry.lives
                and entry.about.subject == subject
                and tenant in {None, entry.about.tenant}
                and (before is None or entry.about.time < before)
            ]
            if doomed:
                found.append(Found(place, name, doomed))
    return found


def destroy(found: Iterable[Found], files: Files | None = None) -> None:
    """Overwrite their secrets, and what is plain text. Raises OSError; then it must be done again."""
    files = files or Files()
    for each in found:
        bundles.erase(each.place, each.name, each.entries, files)


def sweep(homes: Iterable[Path], files: Files | None = None) -> int:
    """Remove the blobs of bundles in which nothing lives any more; how many. The newest of a log is its server's."""
    files = files or Files()
    dropped = 0
    for home in homes:
        place = Place(home)
        for name in place.names()[:-1]:
            bundles.tidy(place, name, files)
            dropped += bundles.drop_blobs(place, name, files)
    return dropped


def writable(found: Iterable[Found]) -> None:
    """Raises ContentDamaged where a file that is to be overwritten cannot be: before anything is recorded."""
    for each in found:
        for path in (each.place.keys / each.name, each.place.blobs / each.name):
            if path.exists() and not os.access(path, os.W_OK):
                raise ContentDamaged(f"{path} cannot be written to by this user")
