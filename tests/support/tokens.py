"""An identity provider's keys and tokens, made in the test's process: what a real provider will not sign."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

ISSUER = "https://idp.test/realms/hospital"
AUDIENCE = "vestry"


def rsa(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"}, private=True)


def jwks(*keys: Key, **more: Any) -> dict[str, Any]:
    """The public halves, as a JWKS document."""
    return {"keys": [{**key.as_dict(private=False), **more} for key in keys]}


def claims(**changes: Any) -> dict[str, Any]:
    """What an ordinary access token says; None leaves a claim out."""
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": AUDIENCE,
        "exp": now + 300,
        "iat": now,
        "groups": ["radiology"],
        **changes,
    }
    return {name: value for name, value in usual.items() if value is not None}


def signed(key: Key, said: dict[str, Any] | bytes | None = None, **header: Any) -> str:
    """A token. `header` changes the header; None leaves a field out."""
    full = {"alg": _algorithm(key), "typ": "JWT", "kid": key.kid, **header}
    payload = said if isinstance(said, bytes) else json.dumps(claims() if said is None else said).encode()
    shown = {name: value for name, value in full.items() if value is not None}
    return jws.serialize_compact(shown, payload, key, algorithms=[shown["alg"]])


def forged(header: dict[str, Any], said: dict[str, Any] | None = None, signature: bytes = b"x" * 64) -> str:
    """A token that nobody has signed."""
    parts = [json.dumps(header).encode(), json.dumps(claims() if said is None else said).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts)


def _algorithm(key: Key) -> str:
    if isinstance(key, RSAKey):
        return "RS256"
    if isinstance(key, OctKey):
        return "HS256"
    if isinstance(key, OKPKey):
        return "EdDSA"
    assert isinstance(key, ECKey)
    return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[str(key.curve_name)]


def issuer(folder: Path, *keys: Key, **changes: Any) -> dict[str, Any]:
    """Settings of an issuer whose keys are in a file."""
    file = folder / "jwks.json"
    file.write_text(json.dumps(jwks(*keys)))
    return {
        "name": "hospital",
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256", "PS256", "ES256", "EdDSA"],
        "jwks_file": str(file),
        "grants": [
            {"when": [{"claim": "groups", "values": ["radiology"]}], "tenant": "default"},
            {"when": [{"claim": "groups", "values": ["heads"]}], "tenant": "default", "roles": ["tenant-admin"]},
        ],
        **changes,
    }
