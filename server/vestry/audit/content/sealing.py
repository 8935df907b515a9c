"""The cryptography of kept content: commitments, keyed hashes, sealing to an auditor.

- A commitment is SHA-256(salt || content), with 32 random bytes of salt: it says nothing of the content to whoever
  does not have the salt, and binds whoever shows both.
- A keyed hash is HMAC-SHA-256 (RFC 2104) under the tenant's key, which is HKDF-SHA-256 (RFC 5869) of one secret.
- Sealed is salt || content under AES-256-GCM (NIST SP 800-38D) with a key made for this one content, so that a
  constant nonce never meets its key twice; and that key under the auditor's public key by HPKE (RFC 9180), base mode,
  DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Both are bound to tenant, subject, request and kind.
"""

from __future__ import annotations

import hashlib
import hmac
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from vestry.auditor import AuditorKey

SALT_BYTES = 32
KEY_BYTES = 32

_NONCE = bytes(12)
_LABEL = b"vestry sealed content v1\n"
_HASH_LABEL = b"vestry content hash v1\n"
_ENCODER = msgspec.json.Encoder(order="sorted")


class NotOpened(Exception):  # noqa: N818 - what became of it
    """Sealed content that this key does not open: another auditor's, or altered."""


class Context(Struct, frozen=True):
    """What a sealed content belongs to. `kind` is `prompt` or `answer`."""

    tenant: str
    subject: str
    request_id: str
    kind: str

    def encode(self) -> bytes:
        """The bytes that are authenticated: a label, then canonical JSON of these four texts."""
        return _LABEL + _ENCODER.encode(self)


class Sealed(Struct, frozen=True):
    """`ciphertext` is for the blobs, `wrapped` for the keys: the encapsulated key, then the sealed one with its tag, 80
    bytes in all.
    """

    ciphertext: bytes
    wrapped: bytes


def new_salt() -> bytes:
    return os.urandom(SALT_BYTES)


def commitment(salt: bytes, content: bytes) -> str:
    """SHA-256(salt || content), in hex."""
    digest = hashlib.sha256(salt)
    digest.update(content)
    return digest.hexdigest()


def tenant_key(secret: bytes, tenant: str) -> bytes:
    """The key (32 bytes) of a tenant's keyed hashes."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=_HASH_LABEL + tenant.encode()).derive(secret)


def keyed_hash(key: bytes, content: bytes) -> str:
    """HMAC-SHA-256, in hex."""
    return hmac.digest(key, content, "sha256").hex()


class Sealer:
    """Seals to one auditor. Raises ValueError for a public key that no private key can belong to."""

    def __init__(self, auditor: AuditorKey) -> None:
        self.auditor = auditor
        self._suite = _suite()
        self._key = X25519PublicKey.from_public_bytes(auditor.public)
        self._suite.encrypt(b"", self._key)  # a point of small order is refused here, and not in a call

    def seal(self, salt: bytes, content: bytes, context: Context) -> Sealed:
        """The key that it makes is nowhere but in `wrapped` when this returns."""
        bound = context.encode()
        key = AESGCM.generate_key(256)
        ciphertext = AESGCM(key).encrypt(_NONCE, salt + content, bound)
        return Sealed(ciphertext, self._suite.encrypt(key, self._key, bound))


def unseal(private: bytes, sealed: Sealed, context: Context) -> tuple[bytes, bytes]:
    """Salt and content. Raises NotOpened."""
    bound = context.encode()
    try:
        key = _suite().decrypt(sealed.wrapped, X25519PrivateKey.from_private_bytes(private), bound)
    except (InvalidTag, ValueError) as error:
        raise NotOpened(
            "this private key does not open it: it was sealed to another, or its key was altered"
        ) from error
    try:
        plain = AESGCM(key).decrypt(_NONCE, sealed.ciphertext, bound)
    except (InvalidTag, ValueError) as error:
        raise NotOpened("the sealed content was altered") from error
    return plain[:SALT_BYTES], plain[SALT_BYTES:]


def new_private() -> tuple[bytes, AuditorKey]:
    """A new key pair of an auditor: the private half's 32 bytes, and the public half."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), AuditorKey(private.public_key().public_bytes_raw())


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
