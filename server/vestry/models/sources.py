"""Of which source a prepared model was made: a line beside its folder, so that other weights put there are noticed.

The line holds a digest of what the source's files look like, not of what is in them: to read gigabytes at each start
would take minutes. With it stands the digest of the manifest, so that it says nothing of a folder that took the
model's place by another way.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vestry.models import manifest
from vestry.models.catalog import Entry, Package
from vestry.models.places import Places

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""What is read of a source, and little else."""


def at_hand(entry: Entry, places: Places) -> bool:
    """Whether the original weights are on this machine, or come with the engine's environment."""
    return isinstance(entry.source, Package) or any(map(Path.is_file, places.source(entry).glob("*.safetensors")))


def look(entry: Entry, places: Places) -> str:
    """A digest of name, size and time (mtime, ns) of every file of the source."""
    total = hashlib.sha256()
    folder = places.source(entry)
    for path in sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}):
        found = path.stat()
        total.update(os.fsencode(path.name) + f"\0{found.st_size} {found.st_mtime_ns}\n".encode())
    return total.hexdigest()


def note(entry: Entry, places: Places, seen: str) -> None:
    """Keep what the source looked like when this model was made of it. A package is told by the recipe."""
    if isinstance(entry.source, Package):
        return
    _noted(entry, places).write_text(_line(entry, places, seen), encoding="ascii")


def same(entry: Entry, places: Places) -> bool:
    """Whether the prepared model was made of the source that is there. One that nobody has noted may be any other."""
    if isinstance(entry.source, Package):
        return True
    try:
        return _noted(entry, places).read_bytes() == _line(entry, places, look(entry, places)).encode()
    except FileNotFoundError:
        return False


def _noted(entry: Entry, places: Places) -> Path:
    return places.models / f".{entry.name}.source"


def _line(entry: Entry, places: Places, seen: str) -> str:
    return f"{seen}  {manifest.digest_of(places.model(entry) / manifest.NAME)}\n"
