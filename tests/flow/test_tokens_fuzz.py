"""Tokens that are broken at random, through a real socket: nothing comes of them but 401."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.engine import FakeEngine
from support.house import House
from support.tokens import claims, forged, issuer, rsa, signed

KEY, STRANGER = rsa("one"), rsa("one")
GOOD = signed(KEY, claims(exp=int(time.time()) + 80_000))  # every other test of the suite may run before
HEADERS = ["alg", "typ", "kid", "jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty"]
CLAIMS = ["iss", "sub", "aud", "exp", "iat", "nbf", "typ", "cnf", "groups", "azp", "client_id", "nonce", "jti"]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
SHORT = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("fuzz")
    with FakeEngine() as engine, House(folder / "s", [engine], identity={"issuers": [issuer(folder, KEY)]}) as running:
        yield running


def status(house: House, token: str | bytes) -> int:
    """What a call with this bearer is answered, whatever the bytes are."""
    shown = token.encode() if isinstance(token, str) else token
    head = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer " + shown + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", house.port), timeout=10) as wire:
        wire.sendall(head)
        answer = b""
        while piece := wire.recv(65_536):
            answer += piece
    return int(answer.split(b" ", 2)[1])


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def test_the_token_that_is_broken_here_is_a_good_one(house: House) -> None:
    """Else the rest of this file would prove nothing."""
    assert status(house, GOOD) == 200


@SHORT
@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=300))
def test_any_text(house: House, text: str) -> None:
    """Bytes of any kind in a header that HTTP allows; what HTTP does not allow is 400."""
    assert status(house, text.encode("latin-1")) in ({401} if text.isprintable() and text.isascii() else {400, 401})


@SHORT
@given(st.data())
def test_one_character_changed(house: House, data: st.DataObject) -> None:
    """No character of a good token can be another one."""
    place = data.draw(st.integers(0, len(GOOD) - 1))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/"
    letter = data.draw(st.sampled_from(letters.replace(GOOD[place], "")))
    assert status(house, GOOD[:place] + letter + GOOD[place + 1 :]) == 401


@SHORT
@given(st.data())
def test_cut_and_joined(house: House, data: st.DataObject) -> None:
    """A token without a part of it, or with a part twice."""
    begin = data.draw(st.integers(0, len(GOOD) - 1))
    end = data.draw(st.integers(begin + 1, len(GOOD)))
    assert status(house, GOOD[:begin] + GOOD[end:]) == 401
    assert status(house, GOOD[:end] + GOOD[begin:end] + GOOD[end:]) == 401


@SHORT
@given(st.dictionaries(st.sampled_from(HEADERS) | TEXTS, JSON, min_size=1, max_size=4))
def test_any_header(house: House, header: dict[str, Any]) -> None:
    """A header of any kind over an honest payload and an honest signature of something else."""
    _, payload, signature = GOOD.split(".")
    assert status(house, f"{part({'alg': 'RS256', 'kid': 'one', **header})}.{payload}.{signature}") == 401
    assert status(house, f"{part(header)}.{payload}.{signature}") == 401


@SHORT
@given(st.dictionaries(st.sampled_from(CLAIMS), JSON, min_size=1, max_size=4))
def test_any_claims_that_the_issuer_has_signed(house: House, said: dict[str, Any]) -> None:
    """A provider that signs nonsense: refused, or as good as before where it changed what nobody asks for."""
    token = signed(KEY, json.dumps(claims() | said).encode("utf-8", "surrogatepass"))
    needed = {"iss", "aud", "exp", "groups"} & said.keys()
    assert status(house, token) in ({401} if needed else {200, 401})


@SHORT
@given(JSON, st.binary(max_size=80))
def test_any_payload_that_nobody_has_signed(house: House, said: Any, signature: bytes) -> None:
    """Whatever it says, it is not the issuer's."""
    head = forged({"alg": "RS256", "kid": "one"}).partition(".")[0]
    shown = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    assert status(house, f"{head}.{part(said)}.{shown}") == 401
    assert status(house, signed(STRANGER, claims())) == 401
