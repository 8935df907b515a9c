"""The shape of an API key, which anyone can check offline.

    vst_  +  43 characters of [0-9A-Za-z], each drawn at random  +  6 characters of checksum

43 such characters carry 256.03 bits. The checksum is the CRC-32 (ISO-HDLC, as in zlib) of the ASCII bytes before
it, prefix included, written in base 62 with the digits 0-9A-Za-z, most significant first, padded with 0 to six. A
secret scanner finds candidates with `PATTERN` and drops those whose checksum does not fit. It protects nothing
else: only the store knows which keys exist.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "vst_"
RANDOM = 43
CHECKSUM = 6
LENGTH = len(PREFIX) + RANDOM + CHECKSUM
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECKSUM}}}"
DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase

_RANDOM_AT = len(PREFIX)
_BODY = LENGTH - CHECKSUM
_PAIRS = tuple(high + low for high in DIGITS for low in DIGITS)


def checksum(text: str) -> str:
    """Six base-62 digits for an ASCII text."""
    upper, low = divmod(zlib.crc32(text.encode("ascii")), 3844)
    high, middle = divmod(upper, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def well_formed(presented: str) -> bool:
    """Whether a text has a key's shape and its checksum fits."""
    return (
        len(presented) == LENGTH
        and presented.isascii()
        and presented.startswith(PREFIX)
        and presented[_RANDOM_AT:].isalnum()
        and checksum(presented[:_BODY]) == presented[_BODY:]
    )


def mint() -> str:
    """A new key, from the operating system's randomness."""
    body = PREFIX + "".join(secrets.choice(DIGITS) for _ in range(RANDOM))
    return body + checksum(body)


def mint_id() -> str:
    """A new public key id: `key_` and 16 base-62 characters (95 bits)."""
    return "key_" + "".join(secrets.choice(DIGITS) for _ in range(16))


def derived_id(prefix: str, text: str) -> str:
    """The public id of somebody without a key: the prefix and 16 base-62 characters (95 bits) of a hash of the text."""
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    digits = ""
    for _ in range(16):
        number, digit = divmod(number, len(DIGITS))
        digits += DIGITS[digit]
    return prefix + digits


def user_id(issuer: str, tenant: str, subject: str) -> str:
    """The public id of a user of an identity provider: `usr_` and 16 base-62 characters, the same for all tokens."""
    return derived_id("usr_", "\n".join((issuer, tenant, subject)))
