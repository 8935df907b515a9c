"""Cosignatures of witnesses: C2SP tlog-cosignature, version 1 with Ed25519 (signature type 0x04).

A cosignature is a line below a checkpoint, as the log's own signature is. It says: at this time this was the largest
tree that I had seen of this log, and it continues every one that I had seen before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from vestry.audit.tlog.notes import NoteRefused, split

_TYPE = b"\x04"
_VKEY = re.compile(r"([^\s+]{1,200})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})")
_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_VALUE_BYTES = 4 + 8 + 64


class Cosigner(Struct, frozen=True):
    """A witness as a verifier knows it: its name, and 32 bytes of its Ed25519 public key."""

    name: str
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Cosigner:
        """From a vkey `NAME+HASH+BASE64` of signature type 0x04. Raises NoteRefused."""
        found = _VKEY.fullmatch(text.strip())
        if found is None:
            raise NoteRefused("it is no witness's public key: NAME+HASH+KEY is expected")
        try:
            data = base64.b64decode(found[3], validate=True)
        except binascii.Error:
            raise NoteRefused("the witness's public key is no base64") from None
        if len(data) != 33 or data[:1] != _TYPE:
            raise NoteRefused("it is no witness's Ed25519 key (cosignature/v1, signature type 0x04)")
        key = cls(found[1], data[1:])
        if key.id.hex() != found[2]:
            raise NoteRefused("the witness's public key is damaged: its hash does not fit")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes that its signature lines begin with."""
        return hashlib.sha256(self.name.encode() + b"\n" + _TYPE + self.raw).digest()[:4]

    def cosigned(self, note: str) -> list[int]:
        """When this witness cosigned a note: seconds since the epoch, one for each of its lines; [] if it did not.

        Raises NoteRefused for a line under its name and key id that does not fit the text.
        """
        text, signatures = split(note)
        return [self._verify(text, value) for name, value in signatures if name == self.name and value[:4] == self.id]

    def lines(self, text: str, answer: str) -> list[str]:
        """Its cosignature lines for a checkpoint's text among the lines of a witness's answer; others are ignored.

        Raises NoteRefused for one of its own that does not verify.
        """
        found = []
        for line in answer.split("\n"):
            match = _LINE.fullmatch(line)
            if match is None or match[1] != self.name:
                continue
            try:
                value = base64.b64decode(match[2], validate=True)
            except binascii.Error:
                continue
            if value[:4] == self.id:
                self._verify(text, value)
                found.append(line)
        return found

    def _verify(self, text: str, value: bytes) -> int:
        if len(value) != _VALUE_BYTES:
            raise NoteRefused(f"the cosignature by {self.name} has not the length of one")
        time = int.from_bytes(value[4:12], "big")
        message = f"cosignature/v1\ntime {time}\n{text}".encode()
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(value[12:], message)
        except InvalidSignature:
            raise NoteRefused(f"the cosignature by {self.name} does not fit the text") from None
        if not 0 < time < 1 << 63:
            raise NoteRefused(f"the cosignature by {self.name} bears no time")
        return time

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_TYPE + self.raw).decode()}"
