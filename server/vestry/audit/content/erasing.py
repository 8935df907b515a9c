"""Erases what is kept of one subject: finds the entries, in all bundles of all logs, then destroys them.

It goes by the entries themselves and not by the records, so that content is found whose record could not be written.
The two halves are apart, because the erasure is recorded in between. Both may be done again after a crash. The server
may write meanwhile: it appends, and what is erased lies before. One bundle's entries are in memory at a time.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from vestry.audit.content import bundles
from vestry.audit.content.bundles import ContentDamaged, Entry, Place
from vestry.audit.files import Files
from vestry.regular import status


class Wanted(Struct, frozen=True):
    """What is to be erased. `subject` and `before` are as records have them; None is no bound."""

    subject: str
    tenant: str | None = None
    before: str | None = None

    def covers(self, entry: Entry) -> bool:
        """Whether this entry lives, and is to be erased."""
        about = entry.about
        return (
            entry.lives
            and about.subject == self.subject
            and self.tenant in {None, about.tenant}
            and (self.before is None or about.time < self.before)
        )


class Found(Struct, frozen=True):
    """How many entries of a bundle are to be erased, of which tenants, and when the newest was kept. The last one
    begins before `end`.
    """

    place: Place
    name: str
    count: int
    tenants: frozenset[str]
    end: int
    newest: str


def find(homes: Iterable[Path], wanted: Wanted) -> list[Found]:
    """The bundles in which something is to be erased. Changes nothing.

    Raises ContentDamaged where a file is not what it should be, or could not be overwritten; and OSError.
    """
    return [
        found
        for home in homes
        for name in Place(home).names()
        if (found := _look(Place(home), name, wanted)) is not None
    ]


def _look(place: Place, name: str, wanted: Wanted) -> Found | None:
    count, end, newest, tenants = 0, 0, "", set()
    for entry in bundles.entries(place.keys / name):
        if wanted.covers(entry):
            count, end, newest = count + 1, entry.place + 1, max(newest, entry.about.time)
            tenants.add(entry.about.tenant)
    if not count:
        return None
    for path in (place.keys / name, place.blobs / name):
        if status(path) is not None and not os.access(path, os.W_OK):
            raise ContentDamaged(f"{path} cannot be written to by this user")
    return Found(place, name, count, frozenset(tenants), end, newest)


def destroy(found: Iterable[Found], wanted: Wanted, files: Files | None = None) -> None:
    """Overwrite their secrets, and what is plain text. Raises OSError; then it must be done again."""
    files = files or Files()
    for each in found:
        bundles.erase(each.place, each.name, list(_doomed(each, wanted)), files)


def _doomed(found: Found, wanted: Wanted) -> Iterator[Entry]:
    for entry in bundles.entries(found.place.keys / found.name):
        if entry.place < found.end and wanted.covers(entry):
            yield entry


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


def alike(homes: Iterable[Path], given: str, recorded: str) -> list[str]:
    """Of whom else something lives, as records have it, whose name differs in case, spaces or the form of its accents
    alone from one that is `given` and stands in records as `recorded`.

    Raises ContentDamaged, and OSError.
    """
    places = [Place(home) for home in homes]
    found = {
        entry.about.subject
        for place in places
        for name in place.names()
        for entry in bundles.entries(place.keys / name)
        if entry.lives and entry.about.subject != recorded
    }
    return sorted(each for each in found if _folded(each) in {_folded(given), _folded(recorded)})


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def damaged(homes: Iterable[Path]) -> list[str]:
    """Sentences of the files in which entries are damaged: whose they are cannot be told, so they are left as they are.

    Raises ContentDamaged, and OSError.
    """
    return [
        f"{path} is damaged at byte {at}: whose content the entry there keeps cannot be told, so it was left. Restore "
        "the file from a copy, and erase again."
        for home in homes
        for name in Place(home).names()
        if (at := bundles.damaged_at(path := Place(home).keys / name)) is not None
    ]
