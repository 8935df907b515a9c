"""Tokens through a real socket: who is believed, and who never is."""

from __future__ import annotations

import base64
import hmac
import json
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from fakes.engine import FakeEngine
from support.house import House, until
from support.tokens import ISSUER, claims, forged, issuer, jwks, rsa, signed

KEY = rsa("one")
STRANGER = rsa("one")
CURVE = ECKey.generate_key("P-256", {"kid": "curve"}, private=True)
EDWARDS = OKPKey.generate_key("Ed25519", {"kid": "edwards"}, private=True)
WEAK = RSAKey.generate_key(1024, {"kid": "weak"}, private=True)
SECRET = OctKey.generate_key(256, {"kid": "secret"}, private=True)
YEARS = 10 * 366 * 86_400


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tokens")
    keys = issuer(folder, KEY, CURVE, EDWARDS, WEAK)
    keys["grants"].append({"when": [{"claim": "display", "values": ["*, *, * (ward)"]}], "tenant": "default"})
    with FakeEngine() as engine, House(folder / "state", [engine], identity={"issuers": [keys]}) as running:
        yield running


def ask(house: House, token: str) -> int:
    """The status of a call with this bearer."""
    answer = house.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    if answer.status_code == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert token[:20] not in answer.text
    return answer.status_code


def test_a_token_makes_a_call_and_its_holder_stands_in_the_record(house: House) -> None:
    """A signed token of a known issuer is as good as a key: tenant and roles come from its claims."""
    answer = house.client(signed(KEY)).chat.completions.create(
        model="small", messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.choices
    found = [each for each in house.records() if each["type"] == "intent"][-1]
    assert (found["tenant"], found["subject"], found["role"]) == ("default", "alice", "user")
    assert found["key_id"].startswith("usr_")
    assert found["issuer"] == "hospital"


@pytest.mark.parametrize("key", [KEY, CURVE, EDWARDS], ids=["RS256", "ES256", "EdDSA"])
def test_every_algorithm_that_is_allowed_works(house: House, key: Any) -> None:
    """RSA, elliptic and Edwards curves."""
    assert ask(house, signed(key)) == 200
    if key is KEY:
        assert ask(house, signed(key, alg="PS256")) == 200


def test_what_is_allowed_is_not_warned_of(house: House) -> None:
    """joserfc warns of `EdDSA` on standard error, where the server's log is, as soon as one token has it."""
    token = signed(EDWARDS, claims(jti="unwarned"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert ask(house, token) == 200
    assert [each for each in warned if "EdDSA" in str(each.message)] == []


def _pem() -> bytes:
    return KEY.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _keyed(secret: bytes) -> str:
    """A token whose HMAC is keyed with this."""
    head = forged({"alg": "HS256", "kid": "one"}).rpartition(".")[0]
    mac = hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _encrypted() -> str:
    """An encrypted token with 10 MB of zeros in a kilobyte."""
    bomb = zlib.compress(b"0" * 10_000_000, wbits=-15)
    parts = [b'{"alg":"dir","enc":"A128GCM","zip":"DEF"}', b"", b"i" * 12, bomb, b"t" * 16]
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts)


def _spare_bits(token: str) -> str:
    """The same token with another last character, which decodes to the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    return token[:-1] + alphabet[last ^ 1]


NOW = int(time.time())
REFUSED: dict[str, Any] = {
    "alg none": lambda: forged({"alg": "none", "typ": "JWT"}, signature=b""),
    "alg none with a signature": lambda: forged({"alg": "none", "typ": "JWT", "kid": "one"}),
    "HS256 keyed with the public PEM": lambda: _keyed(_pem()),
    "HS256": lambda: signed(SECRET),
    "an empty HMAC key": lambda: _keyed(b""),
    "jwk in the header": lambda: signed(STRANGER, jwk=STRANGER.as_dict(private=False)),
    "jku in the header": lambda: signed(KEY, jku="https://127.0.0.1:1/jwks"),
    "x5u in the header": lambda: signed(KEY, x5u="https://127.0.0.1:1/x"),
    "unknown crit": lambda: forged({"alg": "RS256", "kid": "one", "crit": ["exp"], "exp": NOW}),
    "b64 false": lambda: forged({"alg": "RS256", "kid": "one", "b64": False, "crit": ["b64"]}),
    "the JSON form": lambda: json.dumps({"payload": "e30", "protected": "e30", "signature": "eA"}),
    "JWE with a compression bomb": _encrypted,
    "padding appended": lambda: signed(KEY) + "==",
    "spare bits": lambda: _spare_bits(signed(KEY)),
    "kid is a path": lambda: signed(KEY, kid="../../etc/passwd"),
    "kid is SQL": lambda: signed(KEY, kid="' OR 1=1 --"),
    "kid of 10 kB": lambda: signed(KEY, kid="k" * 10_000),
    "kid is no text": lambda: forged({"alg": "RS256", "kid": 1}),
    "another key of the same name": lambda: signed(STRANGER),
    "a weak key": lambda: signed(WEAK),
    "an algorithm that is not allowed": lambda: signed(KEY, alg="RS512"),
    "an algorithm of another kind of key": lambda: forged({"alg": "ES256", "kid": "one"}),
    "a deeply nested payload": lambda: signed(KEY, b'{"a":' * 900 + b"1" + b"}" * 900),
    "a payload that is a list": lambda: signed(KEY, b"[]"),
    "a payload that is no JSON": lambda: signed(KEY, b"\xff\xfe"),
    "a claim twice": lambda: signed(KEY, json.dumps(claims()).encode()[:-1] + b',"sub":"bob"}'),
    "NaN": lambda: signed(KEY, json.dumps(claims(exp=float("nan"))).encode()),
    "no iss": lambda: signed(KEY, claims(iss=None)),
    "another iss": lambda: signed(KEY, claims(iss=ISSUER + "/")),
    "iss in another case": lambda: signed(KEY, claims(iss=ISSUER.upper())),
    "iss is a list": lambda: signed(KEY, claims(iss=[ISSUER])),
    "no aud": lambda: signed(KEY, claims(aud=None)),
    "another aud": lambda: signed(KEY, claims(aud=["other"])),
    "aud is an object": lambda: signed(KEY, claims(aud={"vestry": 1})),
    "no exp": lambda: signed(KEY, claims(exp=None)),
    "expired": lambda: signed(KEY, claims(exp=NOW - 3600, iat=NOW - 7200)),
    "exp is a text": lambda: signed(KEY, claims(exp=str(NOW + 300))),
    "exp is true": lambda: signed(KEY, claims(exp=True)),
    "exp ten years out": lambda: signed(KEY, claims(exp=NOW + YEARS)),
    "exp beyond all numbers": lambda: signed(KEY, claims(exp=10**400)),
    "iat in the future": lambda: signed(KEY, claims(iat=NOW + 3600, exp=NOW + 7200)),
    "made two days ago": lambda: signed(KEY, claims(iat=NOW - 2 * 86_400)),
    "nbf in the future": lambda: signed(KEY, claims(nbf=NOW + 3600)),
    "an ID token": lambda: signed(KEY, claims(nonce="n", at_hash="h")),
    "Keycloak's ID token": lambda: signed(KEY, claims(typ="ID")),
    "a type that is a list": lambda: signed(KEY, claims(typ=["ID"], groups=["none"])),
    "good for longer than a day": lambda: signed(KEY, claims(iat=NOW - 80_000, exp=NOW + 80_000)),
    "a logout token": lambda: signed(KEY, typ="logout+jwt"),
    "a logout token that does not say so": lambda: signed(
        KEY, claims(events={"http://schemas.openid.net/event/backchannel-logout": {}})
    ),
    "no grant": lambda: signed(KEY, claims(groups=["cardiology"])),
    "no subject": lambda: signed(KEY, claims(sub=None)),
    "an empty subject": lambda: signed(KEY, claims(sub="")),
    "a subject with a line end": lambda: signed(KEY, claims(sub="alice\nbob")),
    "a subject of 200": lambda: signed(KEY, claims(sub="a" * 200)),
    "bound to a certificate": lambda: signed(KEY, claims(cnf={"x5t#S256": "x" * 43})),
    "bound to some key": lambda: signed(KEY, claims(cnf={"jkt": "x" * 43})),
    "four parts": lambda: signed(KEY) + ".eA",
    "a space within": lambda: signed(KEY).replace(".", ". ", 1),
    "17 kB": lambda: signed(KEY, claims(more="x" * 13_000)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_good_token_is_401(house: House, case: str) -> None:
    """Each row of the list of bad tokens gets the one refusal, and nothing of it is echoed."""
    assert ask(house, REFUSED[case]()) == 401


def test_a_bearer_of_a_mebibyte_never_gets_that_far(house: House) -> None:
    """The door refuses headers of that size."""
    answer = house.get("/v1/models", headers={"authorization": "Bearer " + "a" * 1_048_576})
    assert answer.status_code == 431


def test_tokens_that_begin_alike_are_different_identities(house: House) -> None:
    """Two tokens with the same header, and so the same first characters, are each its own."""
    first, second = signed(KEY, claims(sub="alice")), signed(KEY, claims(sub="bob"))
    assert first[:40] == second[:40]
    for _ in range(2):
        assert ask(house, first) == ask(house, second) == 200
    subjects = [each["subject"] for each in house.records() if each["type"] == "outcome" and each.get("subject")]
    assert subjects[-4:] == ["alice", "bob", "alice", "bob"]


def test_a_remembered_token_ends_with_its_time(house: House) -> None:
    """A token that memory knows is refused once it has expired, leeway and all."""
    token = signed(KEY, claims(exp=int(time.time()) - 29))
    assert ask(house, token) == 200
    deadline = time.monotonic() + 10
    while ask(house, token) == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_grant_of_the_same_tenant_adds_its_roles(house: House) -> None:
    """Who is in two groups has the roles of both."""
    assert ask(house, signed(KEY, claims(groups=["heads", "radiology"]))) == 200
    assert [each for each in house.records() if each["type"] == "outcome"][-1]["role"] == "tenant-admin,user"


def test_a_claim_that_was_made_for_a_pattern_holds_nobody_up(house: House) -> None:
    """Whoever may choose their own name at the provider cannot stop the server with it."""
    token = signed(KEY, claims(display=", " * 1500))
    began = time.monotonic()
    assert ask(house, token) == 200
    assert time.monotonic() - began < 8


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten in its place, or replaced by a rename as Kubernetes does it: long before `refresh_seconds`."""
    monkeypatch.setattr("vestry.adapters.tokens.provider.LOOK_SECONDS", 0.05)
    other, file, draft = rsa("two"), tmp_path / "jwks.json", tmp_path / "draft"
    keys = issuer(tmp_path, KEY, refresh_seconds=86_400, stale_seconds=172_800)
    with FakeEngine() as engine, House(tmp_path / "state", [engine], identity={"issuers": [keys]}) as house:
        old, new = signed(KEY), signed(other)
        assert ask(house, old) == 200
        draft.write_text(json.dumps(jwks(other)))
        draft.rename(file)
        until(lambda: ask(house, old) == 401, what="the key that was taken back to be refused")
        assert ask(house, new) == 200
        file.write_text(json.dumps(jwks(KEY)))
        until(lambda: ask(house, new) == 401, what="the key that was taken back to be refused")
        assert ask(house, old) == 200
        file.write_text("half of a set of ke")
        time.sleep(0.3)
        assert ask(house, signed(KEY, claims(jti="another"))) == 200
        file.write_text(json.dumps(jwks()))
        until(lambda: ask(house, old) == 401, what="the last key to be refused")
