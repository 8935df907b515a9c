"""The keys of an issuer (JWKS, RFC 7517): which of them may verify what."""

from __future__ import annotations

import json
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry, deserialize_compact
from msgspec import Struct

from vestry.adapters.tokens.compact import Compact

DOCUMENT_BYTES = 65_536
MOST = 64
TRIED = 4
LEAST_BITS, MOST_BITS = 2048, 8192
"""Sizes of RSA keys: weaker ones prove nothing, and larger ones take too long."""
KINDS: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class BadKeys(Exception):  # noqa: N818 - caught where it is told
    """What was read is no set of keys. `str()` is a sentence."""


class _Held(Struct, frozen=True):
    kid: str | None
    kind: str
    curve: str
    algorithm: str | None
    key: Key


class _Registry(JWSRegistry):
    """Signature algorithms, without joserfc's warning that RFC 9864 calls `EdDSA` by another name: providers write
    either, and here both mean Ed25519.
    """

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name] if name == "EdDSA" and name in (self.allowed or ()) else super().get_alg(name)


class KeySet:
    """Verification keys. One that is weak, private, symmetric, or for something else is left out.

    `said` is the document as it was read: two sets of the same document are the same set.
    """

    def __init__(self, keys: list[_Held], said: bytes) -> None:
        self._keys, self.said = keys, said

    @classmethod
    def read(cls, content: bytes) -> KeySet:
        """From a JWKS document. Raises BadKeys. A set that has no key of use is one too: an issuer that shows it has
        taken all of its keys back.
        """
        try:
            document = json.loads(content)
            found = document["keys"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise BadKeys("the answer is no JWKS document") from None
        if not isinstance(found, list) or len(found) > MOST:
            raise BadKeys(f"the JWKS document has no list of at most {MOST} keys")
        keys = [key for each in found if (key := _usable(each)) is not None]
        if not keys and not all(isinstance(each, dict) for each in found):
            raise BadKeys("the JWKS document has a list of what are no keys")
        return cls(keys, content)

    @property
    def empty(self) -> bool:
        """Whether there is no key that may verify anything."""
        return not self._keys

    def has(self, kid: str | None) -> bool:
        """Whether there is a key of this name; any, where a token names none."""
        return any(kid is None or each.kid == kid for each in self._keys)

    def signed(self, token: Compact) -> bool:
        """Whether a key of this set has signed it."""
        fitting = [each for each in self._keys if each.kid == token.kid or token.kid is None]
        fitting = [each for each in fitting if _fits(each, token.algorithm)][:TRIED]
        for each in fitting:
            try:
                deserialize_compact(token.text, each.key, registry=_Registry(algorithms=[token.algorithm]))
            except (JoseError, ValueError):
                continue
            return True
        return False


def _usable(described: Any) -> _Held | None:
    """The key, if it may verify signatures."""
    if not isinstance(described, dict) or "d" in described or "k" in described or "oth" in described:
        return None
    kid, kind, algorithm = described.get("kid"), described.get("kty"), described.get("alg")
    operations = described.get("key_ops")
    if described.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(kid, str | None):
        return None
    bare = {name: described[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in described}
    try:
        key = KINDS[kind].import_key(bare)
        if isinstance(key, RSAKey) and not LEAST_BITS <= key.raw_value.key_size <= MOST_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return _Held(kid, kind, str(described.get("crv", "")), algorithm if isinstance(algorithm, str) else None, key)


def _fits(key: _Held, algorithm: str) -> bool:
    """Whether a key is one for this algorithm (RFC 7518, section 3.1; RFC 8037; RFC 9864)."""
    if key.algorithm is not None and key.algorithm != algorithm and {key.algorithm, algorithm} != {"EdDSA", "Ed25519"}:
        return False
    if algorithm in {"EdDSA", "Ed25519"}:
        return key.kind == "OKP" and key.curve == "Ed25519"
    if algorithm in CURVES:
        return key.kind == "EC" and key.curve == CURVES[algorithm]
    return key.kind == "RSA"
