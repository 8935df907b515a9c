"""How kept content lies on the disk: bundles of two files, keys and blobs, in two directories beside a log.

    <log>/content/keys/20260131-000001     entries: whose, of which call, and the secret that opens it
    <log>/content/blobs/20260131-000001    ciphertexts, or plain text, one behind the other

Rules:
1. A bundle is written by one process, from its beginning on. The next process, the next day (UTC), a failed write or
   a full file begin another one. So nothing is ever appended behind what a crash left.
2. An entry is acknowledged when both files are durable (fdatasync); a record names it only after that.
3. The secret of an entry is 32 bytes of salt (hashed, full), or the wrapped key (sealed). To erase an entry is to
   overwrite its plain text, then its secret, then its state, each durable before the next: so a crash in between
   leaves an entry that still says that it lives, and erasing it again ends the work.

An entry: magic, state (`L` lives, `E` erased), length of head and of secret, CRC-32 of the head; the head, which is
canonical JSON; the secret. Numbers are big-endian.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestry.audit.files import Files
from vestry.regular import opened, whole
from vestry.types import ContentMode

KEYS_BYTES = 16 << 20
BLOBS_BYTES = 1 << 30
"""Sizes at which a bundle is full."""
LARGEST_BLOB = 256 << 20
LARGEST_KEYS = 256 << 20

NAME = re.compile(r"[0-9]{8}-[0-9]{6}")
_HEAD = struct.Struct(">4scHHI")
_MAGIC = b"VKE1"
_LIVES, _ERASED = b"L", b"E"
_ZEROS = bytes(1 << 20)
_PAGE = 4096


_Size = Annotated[int, Meta(ge=0, le=1 << 48)]


class About(Struct, frozen=True, omit_defaults=True):
    """An entry's head. `offset` and `length` are the place of its blob; a length of 0 is no blob."""

    tenant: str
    subject: str
    request_id: str
    kind: str
    mode: ContentMode
    time: str
    offset: _Size = 0
    length: _Size = 0


class Entry(Struct, frozen=True):
    """An entry as it was found. `place` is the offset of its first byte."""

    place: int
    lives: bool
    about: About
    secret: bytes
    secret_at: int

    @property
    def state_at(self) -> int:
        return self.place + len(_MAGIC)

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.secret_at + len(self.secret)


class Item(Struct, frozen=True):
    """What is to be kept: a head without its blob's place, the secret, and the blob."""

    about: About
    secret: bytes
    blob: bytes


class ContentDamaged(Exception):  # noqa: N818 - the state of a file
    """A file of kept content is not what was written. The sentence says which, and where."""


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(About)


class Place(Struct, frozen=True):
    """Where the two files of a log's bundles lie."""

    log: Path

    @property
    def keys(self) -> Path:
        return self.log / "content" / "keys"

    @property
    def blobs(self) -> Path:
        return self.log / "content" / "blobs"

    def names(self) -> list[str]:
        """The bundles that are there, oldest first."""
        try:
            return sorted(path.name for path in self.keys.iterdir() if NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def make(self, files: Files) -> None:
        """Make the directories, for their owner alone, durable. Raises OSError."""
        for path in (self.log / "content", self.keys, self.blobs):
            if not path.is_dir():
                path.mkdir(mode=0o700)
                files.sync_directory(path.parent)


class Bundle:
    """A bundle that this process writes. Methods raise OSError; after that it is of no use but to be closed."""

    def __init__(self, place: Place, name: str, files: Files) -> None:
        self.name = name
        self._place, self._files = place, files
        self._keys = files.create(place.keys / name)
        try:
            self._blobs = files.create(place.blobs / name)
        except BaseException:
            files.close(self._keys)
            _forget(files, place.keys / name)
            raise
        self._keys_size = self._blobs_size = 0
        try:
            files.sync_directory(place.keys)
            files.sync_directory(place.blobs)
        except BaseException:
            self.discard()
            raise

    @classmethod
    def begin(cls, place: Place, day: str, files: Files) -> Bundle:
        """The next bundle, on a day (`20260131`); its name comes after all others, though the clock went back."""
        newest = max([*place.names(), f"{day}-000000"])
        day, number = newest[:8], int(newest[9:]) + 1
        while (place.blobs / f"{day}-{number:06d}").exists():
            number += 1
        return cls(place, f"{day}-{number:06d}", files)

    @property
    def full(self) -> bool:
        return self._keys_size >= KEYS_BYTES or self._blobs_size >= BLOBS_BYTES

    def append(self, items: Sequence[Item]) -> list[tuple[int, int]]:
        """Keep these; they are durable when this returns. The places of each one's entry and blob."""
        keys, blobs = bytearray(), bytearray()
        places = []
        for item in items:
            at = self._blobs_size + len(blobs)
            places.append((self._keys_size + len(keys), at))
            keys += encode(msgspec.structs.replace(item.about, offset=at, length=len(item.blob)), item.secret)
            blobs += item.blob
        try:
            if blobs:
                self._files.write_all(self._blobs, bytes(blobs))
                self._files.sync(self._blobs)
            self._files.write_all(self._keys, bytes(keys))
            self._files.sync(self._keys)
        except OSError:
            self._cut_back()
            raise
        self._keys_size += len(keys)
        self._blobs_size += len(blobs)
        return places

    def probe(self) -> None:
        """Write and sync a page, and take it back: raises OSError where content could not be kept."""
        try:
            self._files.write_all(self._blobs, bytes(_PAGE))
            self._files.sync(self._blobs)
        finally:
            self._cut_back()

    def discard(self) -> None:
        """Close it after a failure; an outage leaves no files with nothing in them."""
        self.close()
        if self._keys_size == 0:
            _forget(self._files, self._place.blobs / self.name, self._place.keys / self.name)

    def close(self) -> None:
        for descriptor in (self._keys, self._blobs):
            with suppress(OSError):
                self._files.close(descriptor)

    def _cut_back(self) -> None:
        """Take back what no record will name. Where even that fails, the next start does it (`tidy`)."""
        for descriptor, size in ((self._keys, self._keys_size), (self._blobs, self._blobs_size)):
            with suppress(OSError):
                self._files.truncate(descriptor, size)
                self._files.sync(descriptor)


def _forget(files: Files, *paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            files.remove(path)


def encode(about: About, secret: bytes) -> bytes:
    """The bytes of an entry that lives."""
    head = _ENCODER.encode(about)
    return _HEAD.pack(_MAGIC, _LIVES, len(head), len(secret), zlib.crc32(head)) + head + secret


def entries(path: Path) -> Iterator[Entry]:
    """The whole entries of a file of keys, in order; torn and damaged stretches are passed over.

    Raises ContentDamaged for a file that is larger than any could be, and OSError.
    """
    yield from _entries(_content(path))


def damaged_at(path: Path) -> int | None:
    """Where the first bytes of a file of keys stand that are neither an entry nor what a crash leaves at the end.

    Raises as `entries` does.
    """
    data = _content(path)
    end = 0
    for entry in _entries(data):
        if entry.place != end:
            return end
        end = entry.end
    return None if _torn(data[end:]) else end


def _entries(data: bytes) -> Iterator[Entry]:
    at = 0
    while (at := data.find(_MAGIC, at)) >= 0:
        entry = _entry(data, at)
        if entry is None:
            at += 1
            continue
        yield entry
        at = entry.end


def entry_at(path: Path, place: int) -> Entry:
    """The entry at an offset. Raises ContentDamaged, and OSError."""
    with opened(path) as file:
        file.seek(place)
        data = file.read(_HEAD.size + 2 * 65_535)
    entry = _entry(data, 0)
    if entry is None:
        raise ContentDamaged(f"{path} is damaged at byte {place}: no entry stands there")
    return Entry(place, entry.lives, entry.about, entry.secret, place + entry.secret_at)


def blob_at(path: Path, offset: int, length: int) -> bytes:
    """A blob. Raises ContentDamaged where the file is shorter, and OSError."""
    if length > LARGEST_BLOB:
        raise ContentDamaged(f"{path} cannot hold a blob of {length} bytes")
    with opened(path) as file:
        file.seek(offset)
        found = file.read(length)
    if len(found) != length:
        raise ContentDamaged(f"{path} is damaged: it ends before byte {offset + length}")
    return found


def tidy(place: Place, name: str, files: Files) -> None:
    """Cut off what a crash left at the end of a bundle that nobody writes to. Raises OSError, or ContentDamaged.

    Only what is behind the last whole entry and its blob: no record names it. Where that is no torn entry but a
    damaged one, a record may name it and its blob, and both files stay as they are (`damaged_at`).
    """
    data = _content(place.keys / name)
    keys_end = blobs_end = 0
    for entry in _entries(data):
        keys_end = entry.end
        blobs_end = max(blobs_end, entry.about.offset + entry.about.length)
    if not _torn(data[keys_end:]):
        return
    for path, end in ((place.keys / name, keys_end), (place.blobs / name, blobs_end)):
        if (found := files.there(path)) is not None and found.size > end:
            overwrite(path, [(end, found.size - end)], files)
            os.truncate(path, end)


def erase(place: Place, name: str, doomed: Sequence[Entry], files: Files) -> None:
    """Destroy the plain text and the secrets of these entries of one bundle. Raises OSError; may be done again."""
    keys, blobs = place.keys / name, place.blobs / name
    plain = [(each.about.offset, each.about.length) for each in doomed if each.about.mode == ContentMode.FULL]
    if plain and files.there(blobs) is not None:
        overwrite(blobs, plain, files)
    overwrite(keys, [(each.secret_at, len(each.secret)) for each in doomed], files)
    overwrite(keys, [(each.state_at, 1) for each in doomed], files, _ERASED)


def drop_blobs(place: Place, name: str, files: Files) -> bool:
    """Remove the blobs of a bundle in which nothing lives any more; whether there were any.

    What a damaged entry keeps may live, so that bundle stays. Raises OSError, or ContentDamaged.
    """
    path, keys = place.blobs / name, place.keys / name
    if files.there(path) is None or damaged_at(keys) is not None or any(entry.lives for entry in entries(keys)):
        return False
    files.remove(path)
    files.sync_directory(place.blobs)
    return True


def overwrite(path: Path, spans: Sequence[tuple[int, int]], files: Files, byte: bytes = b"\0") -> None:
    """Write the byte over these stretches (offset, length), as far as the file goes; durable when this returns."""
    pattern = _ZEROS if byte == b"\0" else byte * (1 << 12)
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        for offset, length in spans:
            at, end = offset, min(offset + length, size)
            while at < end:
                at += os.pwrite(descriptor, pattern[: end - at], at)
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def _content(path: Path) -> bytes:
    try:
        return whole(path, LARGEST_KEYS)
    except ValueError as error:
        raise ContentDamaged(f"{error}, and so is no file of keys") from None


def _torn(rest: bytes) -> bool:
    """Whether what stands behind the last whole entry can be what a crash left: an entry's beginning, or zeros.

    Anything else was an entry once. One that claims to end behind the file is torn, unless its head is there as a
    whole and only its length is wrong.
    """
    if not rest.strip(b"\0"):
        return True
    if len(rest) < _HEAD.size:
        return rest.startswith(_MAGIC[: len(rest)])
    magic, _, head_bytes, secret_bytes, _ = _HEAD.unpack_from(rest)
    if magic != _MAGIC or len(rest) >= _HEAD.size + head_bytes + secret_bytes:
        return False
    try:
        _, ends = json.JSONDecoder().raw_decode(rest[_HEAD.size :].decode("latin-1"))
    except (ValueError, RecursionError):
        return True
    return bool(ends == head_bytes)


def _entry(data: bytes, at: int) -> Entry | None:
    """The entry whose first byte is at this offset of the data; None where there is no whole one."""
    if len(data) < at + _HEAD.size:
        return None
    magic, state, head_bytes, secret_bytes, checksum = _HEAD.unpack_from(data, at)
    head_at = at + _HEAD.size
    secret_at = head_at + head_bytes
    head = data[head_at:secret_at]
    if magic != _MAGIC or len(data) < secret_at + secret_bytes or zlib.crc32(head) != checksum:
        return None
    try:
        about = _DECODER.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Entry(at, state != _ERASED, about, data[secret_at : secret_at + secret_bytes], secret_at)
