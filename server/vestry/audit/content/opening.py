"""Opens what is kept of a call, and verifies it against the call's records. Changes nothing.

The records themselves are taken as they stand: that they are the log's is for `verify` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from vestry.audit.calls import Content
from vestry.audit.canonical import clean
from vestry.audit.content.bundles import LARGEST_KEYS, NAME, ContentDamaged, Entry, Place, blob_at, entries, entry_at
from vestry.audit.content.sealing import Context, NotOpened, Sealed, commitment, unseal
from vestry.audit.fields import RecordType
from vestry.audit.reading import COMMANDS, LogReader, NoLog, is_log, origins
from vestry.audit.scan import parse
from vestry.types import ContentMode

KINDS = {RecordType.INTENT.value: "prompt", RecordType.OUTCOME.value: "answer"}


class Leaf(Struct, omit_defaults=True):
    """What opening needs to know of an intent or an outcome."""

    type: str
    index: int = 0
    origin: str = ""
    time: str = ""
    request_id: str = ""
    tenant: str = ""
    subject: str = ""
    content_mode: ContentMode = ContentMode.METADATA
    content: Content | None = None

    @property
    def kind(self) -> str:
        return KINDS[self.type]


class Erasure(Struct):
    """What opening needs to know of a `content.erase` record."""

    type: str
    time: str = ""
    subject: str = ""
    tenant: str = ""
    before: str = ""
    newest: str = ""


class Nothing(Exception):  # noqa: N818 - what there is to open
    """Nothing to open, and nothing wrong: not kept, only hashed, erased. The sentence says which."""


class WrongKey(Exception):  # noqa: N818 - what was given
    """The private key that was given, or that there was none, is why it cannot be opened."""


class Opened(Struct, frozen=True):
    """Content that is what its record says. With the salt anybody can prove it: SHA-256(salt || content)."""

    content: bytes
    salt: bytes
    left_out: int


class Found(Struct, frozen=True):
    """The records of one call, in the directory of their log."""

    home: Path
    leaves: list[Leaf]


_DECODER = msgspec.json.Decoder(Leaf)
_ERASURES = msgspec.json.Decoder(Erasure)


def homes(directory: Path) -> list[Path]:
    """The logs under a directory, or the one that it is. Raises NoLog where there is none."""
    found = [directory / name for name in origins(directory)]
    if is_log(directory):
        found.insert(0, directory)
    if not found:
        raise NoLog(f"{directory} holds no audit log.")
    return found


def tenants_of(directory: Path) -> set[str]:
    """Whose content the logs under a directory keep, or have kept until it was erased; nobody's where there is no log.

    Raises ContentDamaged, and OSError.
    """
    try:
        places = [Place(home) for home in homes(directory)]
    except NoLog:
        return set()
    return {entry.about.tenant for place in places for name in place.names() for entry in entries(place.keys / name)}


def hashed(home: Path) -> bool:
    """Whether content beside a log was ever kept as hashes, and its entry is there still. Raises as `tenants_of`."""
    place = Place(home)
    return any(entry.about.mode == ContentMode.HASHED for name in place.names() for entry in entries(place.keys / name))


def call_of(directory: Path, request_id: str) -> Found:
    """The intent and the outcome of a call, in whichever log they stand. Raises LookupError, and what reading does."""
    for home in homes(directory):
        leaves = list(_leaves_of(home, request_id))
        if leaves:
            return Found(home, leaves)
    raise LookupError(f"no log in {directory} has a call {request_id}")


def call_at(home: Path, index: int) -> Found:
    """The call that the record at an index belongs to. Raises LookupError, and what reading does."""
    for _, leaf in LogReader(home).leaves(index, index + 1):
        record = _call_record(leaf)
        if record is None:
            raise LookupError(f"record {index} of {home} is no intent and no outcome, so it has no content")
        return Found(home, list(_leaves_of(home, record.request_id)))
    raise LookupError(f"{home} has no record {index}")


def _leaves_of(home: Path, request_id: str) -> Iterator[Leaf]:
    mark = msgspec.json.encode(request_id)
    for _, leaf in LogReader(home).leaves():
        if mark in leaf and (record := _call_record(leaf)) is not None and record.request_id == request_id:
            yield record
            if record.type == RecordType.OUTCOME:
                return


def _call_record(leaf: bytes) -> Leaf | None:
    try:
        record = _DECODER.decode(leaf)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.type in KINDS else None


def open_content(home: Path, leaf: Leaf, private: bytes | None) -> Opened:
    """The content of one record, verified. Reads no more than that.

    Raises Nothing, WrongKey, or ContentDamaged for what is missing or not what the record says.
    """
    content = _kept(leaf)
    if leaf.content_mode == ContentMode.HASHED:
        raise Nothing("only hashes of it are kept: a text can be tested against them, but not had from them")
    if leaf.content_mode == ContentMode.SEALED and private is None:
        raise WrongKey(f"it is sealed to the auditor's key {content.auditor}: give the private one with --private-key")
    entry = entry_of(home, leaf)
    blob = _blob(home, leaf, entry)
    if leaf.content_mode == ContentMode.SEALED and private is not None:
        if hashlib.sha256(blob).hexdigest() != content.sha256:
            raise ContentDamaged("its ciphertext was altered: it does not have the SHA-256 that the record has")
        salt, plain = _unsealed(leaf, entry, blob, private)
    else:
        salt, plain = entry.secret, blob
    if commitment(salt, plain) != content.commitment:
        raise ContentDamaged("it was altered: it does not fit the commitment in the record")
    return Opened(plain, salt, content.left_out)


def fits(home: Path, leaf: Leaf, candidate: bytes) -> bool:
    """Whether these bytes are the content of a `hashed` record. Raises Nothing, or ContentDamaged."""
    return commitment(entry_of(home, leaf).secret, candidate) == _kept(leaf).commitment


def entry_of(home: Path, leaf: Leaf) -> Entry:
    """The entry that a record names, living. Raises Nothing for an erased one, or ContentDamaged."""
    content, place = _kept(leaf), Place(home)
    if not NAME.fullmatch(content.bundle) or content.entry is None or not 0 <= content.entry <= LARGEST_KEYS:
        raise ContentDamaged("the record does not say where it is")
    path = place.keys / content.bundle
    try:
        entry = entry_at(path, content.entry)
    except FileNotFoundError:
        raise ContentDamaged(f"it is missing: there is no {path}") from None
    except OSError as error:
        raise ContentDamaged(f"it cannot be read: {error}") from None
    about = entry.about
    if (about.tenant, about.subject, about.request_id, about.kind, about.mode) != (
        leaf.tenant,
        leaf.subject,
        leaf.request_id,
        leaf.kind,
        leaf.content_mode,
    ):
        raise ContentDamaged(f"{path} was altered: the entry at byte {content.entry} is another call's")
    if not entry.lives:
        raise Nothing(_erased(home, entry))
    return entry


def _kept(leaf: Leaf) -> Content:
    if leaf.content_mode == ContentMode.METADATA:
        raise Nothing("nothing is kept of it: the content mode of its tenant and route was `metadata`")
    if leaf.content is None:
        raise Nothing("nothing is kept of it, because nothing of it was sent")
    if leaf.content.lost:
        raise Nothing("it could not be kept, and the call failed for that")
    return leaf.content


def _blob(home: Path, leaf: Leaf, entry: Entry) -> bytes:
    content = _kept(leaf)
    if (entry.about.offset, entry.about.length) != (content.offset, content.length):
        raise ContentDamaged("it was altered: its entry and its record name different places")
    path = Place(home).blobs / content.bundle
    try:
        return blob_at(path, entry.about.offset, entry.about.length)
    except FileNotFoundError:
        raise ContentDamaged(f"it is missing: there is no {path}") from None
    except OSError as error:
        raise ContentDamaged(f"it cannot be read: {error}") from None


def _unsealed(leaf: Leaf, entry: Entry, blob: bytes, private: bytes) -> tuple[bytes, bytes]:
    try:
        return unseal(
            private,
            Sealed(blob, entry.secret),
            Context(leaf.tenant, leaf.subject, leaf.request_id, leaf.kind),
        )
    except NotOpened as error:
        raise WrongKey(f"{error}. It was sealed to the auditor's key {clean(_kept(leaf).auditor, 100)}") from None


def _erased(home: Path, entry: Entry) -> str:
    """The sentence of an entry that says it was erased: that a record says so too, or why none can be seen.

    Raises ContentDamaged where a record should be there and is not.
    """
    logs = _of_commands(home)
    if not logs:
        return "it was erased; which record says so cannot be seen here, without the log `cli` beside this one"
    about = entry.about
    pruned = ""
    for log in logs:
        expected = 0
        for index, raw in LogReader(log).leaves():
            if index > expected and about.time <= _time(raw):  # those before were pruned, perhaps just now
                pruned = log.name
            expected = index + 1
            erasure = _erasure(raw) if b'"content.erase"' in raw else None
            if (
                erasure is not None
                and erasure.subject == about.subject
                and erasure.tenant in {"", about.tenant}
                and (not erasure.before or about.time < erasure.before)
                and max(erasure.time, erasure.newest) >= about.time
            ):
                return f"it was erased at {erasure.time}, as record {index} of the log `{log.name}` says"
    if pruned:
        return (
            f"it is marked as erased; the record that says so may have been pruned: the log `{pruned}` begins with "
            "records that are younger than the content"
        )
    named = " or ".join(f"`{log.name}`" for log in logs)
    raise ContentDamaged(f"it is marked as erased, but no record of the log {named} says that it was")


def _of_commands(home: Path) -> list[Path]:
    """The logs of commands beside a log."""
    for folder in home.absolute().parents:  # `.` has none
        found = [each for each in sorted(folder.glob("*cli")) if COMMANDS.fullmatch(each.name) and is_log(each)]
        if found:
            return found
    return []


def _time(raw: bytes) -> str:
    """When a record was written; the end of time for one that does not say."""
    record = parse(raw + b"\n")
    return "~" if record is None else record.time


def _erasure(raw: bytes) -> Erasure | None:
    try:
        found = _ERASURES.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.type == RecordType.CONTENT_ERASE else None


def shown(opened: Opened) -> dict[str, Any]:
    """The content for JSON: as it reads where it is JSON itself, else as text; with what proves it."""
    try:
        content: Any = msgspec.json.decode(opened.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = opened.content.decode("utf-8", "replace")
    return {
        "content": content,
        "text": opened.content.decode("utf-8", "replace"),
        "salt": opened.salt.hex(),
        "left_out": opened.left_out,
    }
