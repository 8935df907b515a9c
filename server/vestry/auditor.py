"""An auditor's keys as text: an X25519 key pair (RFC 7748), each half on one line with a checksum.

`vestry-auditor-` or `VESTRY-AUDITOR-SECRET-`, then base64url (RFC 4648, section 5) of the 32 bytes of the key and
the first 4 bytes of the SHA-256 of prefix and key. So a slip of the pen is found, and neither half passes for the
other. It stands outside `audit/` because settings hold public keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from msgspec import Struct

PUBLIC = "vestry-auditor-"
SECRET = "VESTRY-AUDITOR-SECRET-"  # noqa: S105 - what stands before one

_KEY_BYTES, _SUM_BYTES = 32, 4
_BODY = re.compile(r"[A-Za-z0-9_-]{48}")


class NoAuditorKey(ValueError):  # noqa: N818 - what the text is
    """A text that is no such key. The sentence says why, and repeats nothing of it."""


class AuditorKey(Struct, frozen=True):
    """A public key: 32 bytes, and the name that records give it."""

    public: bytes

    @property
    def id(self) -> str:
        """16 hex digits, the first of the key's SHA-256."""
        return hashlib.sha256(self.public).hexdigest()[:16]

    @classmethod
    def parse(cls, text: str) -> AuditorKey:
        """Raises NoAuditorKey."""
        return cls(_decode(PUBLIC, text, "public"))

    def __str__(self) -> str:
        return _encode(PUBLIC, self.public)


def secret_text(private: bytes) -> str:
    """The line that a private key's file holds."""
    return _encode(SECRET, private)


def parse_secret(text: str) -> bytes:
    """The 32 bytes of a private key; lines that begin with `#` are comments. Raises NoAuditorKey."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise NoAuditorKey(f"there should be one line that begins with {SECRET}, and there are {len(lines)} lines")
    return _decode(SECRET, lines[0], "private")


def _encode(prefix: str, key: bytes) -> str:
    return prefix + base64.urlsafe_b64encode(key + _sum(prefix, key)).decode("ascii")


def _decode(prefix: str, text: str, half: str) -> bytes:
    if not text.startswith(prefix):
        other = SECRET if prefix == PUBLIC else PUBLIC
        if text.startswith(other):
            raise NoAuditorKey(f"this is the other half of an auditor's key: the {half} one begins with {prefix}")
        raise NoAuditorKey(f"this is not an auditor's {half} key, which begins with {prefix}")
    body = text.removeprefix(prefix)
    try:
        content = base64.urlsafe_b64decode(body) if _BODY.fullmatch(body) else b""
    except binascii.Error:
        content = b""
    key, checksum = content[:_KEY_BYTES], content[_KEY_BYTES:]
    if len(content) != _KEY_BYTES + _SUM_BYTES or checksum != _sum(prefix, key):
        raise NoAuditorKey(f"this auditor's {half} key was cut or mistyped: its checksum is wrong")
    return key


def _sum(prefix: str, key: bytes) -> bytes:
    return hashlib.sha256(prefix.encode("ascii") + key).digest()[:_SUM_BYTES]
