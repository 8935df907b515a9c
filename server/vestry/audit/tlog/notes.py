"""Signed notes, their keys, and checkpoints: C2SP signed-note, tlog-checkpoint, tlog-proof; Ed25519 (RFC 8032) only.

A note is text, an empty line, and signature lines `— NAME BASE64(key id || signature)`. A public key is written
`NAME+HASH+BASE64` (a *vkey*), a private one `PRIVATE+KEY+NAME+HASH+BASE64`, both as golang.org/x/mod/sumdb/note does.

One house has one key, of the house's name. The log of origin `server` signs as `NAME/server`: same key, other name,
hence another key id; whoever trusts the house's public key trusts its logs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from vestry.audit.tlog.merkle import HASH_BYTES

PROOF_HEAD = "c2sp.org/tlog-proof@v1"
NOTE_BYTES = 65_536
_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


class NoteRefused(ValueError):  # noqa: N818 - what became of the note
    """A note, key, checkpoint or proof that is malformed, or not signed by the key. The sentence says which."""


class PublicKey(Struct, frozen=True):
    """A name and 32 bytes of an Ed25519 public key."""

    name: str
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """From a vkey. Raises NoteRefused."""
        name, raw = _key(text.strip(), "public key")
        return cls(name, raw)

    @property
    def id(self) -> bytes:
        """The 4 bytes that signature lines begin with."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    def of(self, origin: str) -> PublicKey:
        """The same key under the name of one of the house's logs."""
        return PublicKey(f"{self.name}/{origin}", self.raw)

    def verify(self, note: str) -> str:
        """The text of a note that this key has signed, with its last line feed. Raises NoteRefused.

        Signatures by unknown keys are ignored, as the specification asks; one by this key that is wrong is not.
        """
        text, signatures = split(note)
        mine = [value for name, value in signatures if name == self.name and value[:4] == self.id]
        if not mine:
            raise NoteRefused(f"it is not signed by {self}")
        public = Ed25519PublicKey.from_public_bytes(self.raw)
        for value in mine:
            try:
                public.verify(value[4:], text.encode())
            except InvalidSignature:
                raise NoteRefused(f"the signature by {self.name} does not fit the text") from None
        return text

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.raw).decode()}"


class Signer:
    """A private key and its name. `str()` shows the public key only."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        if not _NAME.fullmatch(name):
            raise NoteRefused(f"`{name}` cannot name a key: use up to 200 characters without space or plus sign")
        self._private = private
        self.public = PublicKey(name, private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Signer:
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """From its written form. Raises NoteRefused, which never shows the key."""
        prefix = "PRIVATE+KEY+"
        if not text.startswith(prefix):
            raise NoteRefused(f"it is no signing key: one begins with `{prefix}`")
        name, seed = _key(text.strip().removeprefix(prefix), "signing key", private=True)
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    def written(self) -> str:
        """The private key as text, for a file that nobody else may read."""
        seed = self._private.private_bytes_raw()
        key = base64.b64encode(_ED25519 + seed).decode()
        return f"PRIVATE+KEY+{self.public.name}+{self.public.id.hex()}+{key}"

    def of(self, origin: str) -> Signer:
        """The same key under the name of one of the house's logs."""
        return Signer(f"{self.public.name}/{origin}", self._private)

    def sign(self, text: str) -> str:
        """A note of `text`, which ends with a line feed."""
        value = base64.b64encode(self.public.id + self._private.sign(text.encode())).decode()
        return f"{text}\n— {self.public.name} {value}\n"

    def __str__(self) -> str:
        return str(self.public)


class Checkpoint(Struct, frozen=True):
    """A tree's head: the name of the log as it signs (`HOUSE/ORIGIN`), its size in records, and its root."""

    name: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.name}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """From the text of a note; extension lines are allowed and ignored. Raises NoteRefused."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise NoteRefused("it is no checkpoint: three lines (log, size, root) are needed")
        if not _SIZE.fullmatch(lines[1]):
            raise NoteRefused("it is no checkpoint: its second line is no size")
        return cls(lines[0], int(lines[1]), _hash(lines[2], "its third line"))

    @classmethod
    def open(cls, note: str, key: PublicKey) -> Checkpoint:
        """From a note that `key` (the key of this very log) has signed. Raises NoteRefused."""
        found = cls.parse(key.verify(note))
        if found.name != key.name:
            raise NoteRefused(f"it is a checkpoint of {found.name}, not of {key.name}")
        return found


class Proof(Struct, frozen=True):
    """A C2SP tlog-proof: where a record stands, the hashes that lead to the root, the signed checkpoint, extra data."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes = b""

    def written(self) -> str:
        extra = [f"extra {base64.b64encode(self.extra).decode()}"] if self.extra else []
        hashes = [base64.b64encode(each).decode() for each in self.hashes]
        return "\n".join([PROOF_HEAD, *extra, f"index {self.index}", *hashes, "", self.checkpoint])

    @classmethod
    def parse(cls, text: str) -> Proof:
        """From its written form. Raises NoteRefused."""
        head, empty, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if lines[0] != PROOF_HEAD or not empty:
            raise NoteRefused(f"it is no proof: its first line is not `{PROOF_HEAD}`, or its checkpoint is missing")
        extra = b""
        if len(lines) > 1 and lines[1].startswith("extra "):
            extra = _bytes(lines.pop(1).removeprefix("extra "), "its extra data")
        index = lines[1].removeprefix("index ") if len(lines) > 1 and lines[1].startswith("index ") else ""
        if not _SIZE.fullmatch(index):
            raise NoteRefused("it is no proof: the line with the index is missing or malformed")
        hashes = tuple(_hash(line, f"hash {number}") for number, line in enumerate(lines[2:], start=1))
        return cls(int(index), hashes, checkpoint, extra)


def split(note: str) -> tuple[str, Sequence[tuple[str, bytes]]]:
    """The text of a note, and its signatures as names and bytes (key id first). Raises NoteRefused."""
    if len(note) > NOTE_BYTES:
        raise NoteRefused(f"it is no signed note: it has more than {NOTE_BYTES} characters")
    if any(each < " " and each != "\n" for each in note):
        raise NoteRefused("it is no signed note: it holds control characters")
    text, empty, below = note.rpartition("\n\n")
    if not empty or not below.endswith("\n"):
        raise NoteRefused("it is no signed note: signatures are missing, or cut off")
    signatures = []
    for line in below[:-1].split("\n"):
        found = _SIGNATURE.fullmatch(line)
        value = b"" if found is None else _bytes(found[2], "a signature")
        if found is None or len(value) < 5:
            raise NoteRefused("it is no signed note: a signature line is malformed")
        signatures.append((found[1], value))
    return text + "\n", signatures


def _key(text: str, what: str, *, private: bool = False) -> tuple[str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or not re.fullmatch("[0-9a-f]{8}", parts[1]):
        raise NoteRefused(f"it is no {what}: NAME+HASH+KEY is expected")
    raw = _bytes(parts[2], f"the {what}")
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise NoteRefused(f"it is no Ed25519 {what}")
    seed = raw[1:]
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() if private else seed
    if PublicKey(parts[0], public).id.hex() != parts[1]:
        raise NoteRefused(f"the {what} is damaged: its hash does not fit")
    return parts[0], seed


def _hash(text: str, what: str) -> bytes:
    value = _bytes(text, what)
    if len(value) != HASH_BYTES:
        raise NoteRefused(f"{what} is no SHA-256 hash")
    return value


def _bytes(text: str, what: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteRefused(f"{what} is no base64") from None
    if base64.b64encode(value).decode() != text:
        raise NoteRefused(f"{what} is no canonical base64")
    return value
