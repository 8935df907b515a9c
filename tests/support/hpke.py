"""HPKE's base mode with X25519, HKDF-SHA256 and AES-256-GCM, written from RFC 9180 alone: what the library is held to.

Section numbers are the RFC's. Unlike the library's one call it takes associated data, which the RFC's vectors have.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEM, KDF, AEAD = (0x0020).to_bytes(2, "big"), (0x0001).to_bytes(2, "big"), (0x0002).to_bytes(2, "big")
KEM_SUITE, SUITE = b"KEM" + KEM, b"HPKE" + KEM + KDF + AEAD
VERSION = b"HPKE-v1"


def _extract(suite: bytes, salt: bytes, label: bytes, keying: bytes) -> bytes:
    """LabeledExtract (4)."""
    return hmac.digest(salt or bytes(32), VERSION + suite + label + keying, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand (4), by HKDF-Expand (RFC 5869, section 2.3)."""
    labeled = length.to_bytes(2, "big") + VERSION + suite + label + info
    found, block, number = b"", b"", 1
    while len(found) < length:
        block = hmac.new(key, block + labeled + bytes([number]), hashlib.sha256).digest()
        found, number = found + block, number + 1
    return found[:length]


def _shared(private: X25519PrivateKey, public: bytes, enc: bytes, recipient: bytes) -> bytes:
    """ExtractAndExpand of DHKEM (4.1)."""
    exchanged = private.exchange(X25519PublicKey.from_public_bytes(public))
    key = _extract(KEM_SUITE, b"", b"eae_prk", exchanged)
    return _expand(KEM_SUITE, key, b"shared_secret", enc + recipient, 32)


def _schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and base nonce of KeySchedule (5.1), mode base."""
    context = b"\x00" + _extract(SUITE, b"", b"psk_id_hash", b"") + _extract(SUITE, b"", b"info_hash", info)
    secret = _extract(SUITE, shared, b"secret", b"")
    return _expand(SUITE, secret, b"key", context, 32), _expand(SUITE, secret, b"base_nonce", context, 12)


def seal(ephemeral: bytes, recipient: bytes, info: bytes, aad: bytes, plain: bytes) -> tuple[bytes, bytes]:
    """SealBase (6.1) with a given ephemeral private key: the encapsulated key and the ciphertext."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    key, nonce = _schedule(_shared(private, recipient, enc, recipient), info)
    return enc, AESGCM(key).encrypt(nonce, plain, aad)


def unseal(private: bytes, enc: bytes, info: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    """OpenBase (6.1)."""
    key_pair = X25519PrivateKey.from_private_bytes(private)
    recipient = key_pair.public_key().public_bytes_raw()
    key, nonce = _schedule(_shared(key_pair, enc, enc, recipient), info)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)
