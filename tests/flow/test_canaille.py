"""Canaille, another real provider: people sign on there, and call here; keys, outage and recovery as with any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from fakes.engine import FakeEngine
from support.house import House, until
from support.providers import CLIENT, Canaille
from support.tokens import rsa

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
FIRST, SECOND = rsa("first"), rsa("second")


def issuer(provider: Canaille) -> dict[str, Any]:
    """Settings for it: its access tokens are good for ten days, and name no client beside their audience."""
    return {
        "name": "clinic",
        "issuer": provider.issuer,
        "audiences": [CLIENT],
        "greatest_age_seconds": 864_000,
        "stale_seconds": 60,
        "refresh_seconds": 30,
        "grants": [
            {"when": [{"claim": "email", "values": ["*@a.test"]}], "tenant": "default", "models": ["small"]},
            {"when": [{"claim": "sub", "values": ["bob"]}], "tenant": "default", "roles": ["tenant-admin"]},
        ],
    }


@pytest.fixture(scope="module")
def provider() -> Iterator[Canaille]:
    with Canaille(FIRST) as running:
        yield running


@pytest.fixture(scope="module")
def house(provider: Canaille, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("canaille")
    with FakeEngine() as engine, House(folder, [engine], identity={"issuers": [issuer(provider)]}) as running:
        yield running


def call(house: House, token: str) -> None:
    """A call through OpenAI's own client. Raises what the client raises."""
    assert house.client(token).chat.completions.create(model="small", messages=MESSAGES).choices


def test_a_persons_token_is_their_key(provider: Canaille, house: House) -> None:
    """Authorization code: who has signed on calls with their access token; claims give tenant and roles."""
    for login, role in (("alice", "user"), ("bob", "tenant-admin,user")):
        call(house, provider.authorization_code(login)[0])
        intent = house.records("intent")[-1]
        assert (intent["subject"], intent["role"], intent["issuer"]) == (login, role, "clinic")


def test_what_is_no_access_token_is_refused(provider: Canaille, house: House) -> None:
    """The ID token, and the opaque token that it gives to programs, open no door here."""
    for token in (provider.authorization_code("alice")[1], provider.client_credentials()):
        with pytest.raises(openai.AuthenticationError):
            call(house, token)


def test_down_and_up_again_with_another_key(provider: Canaille, house: House) -> None:
    """While it is down its keys hold; up again with a new key, the new one works and the old one does not."""
    keys = house.issuer
    old = provider.authorization_code("alice")[0]
    provider.__exit__()
    call(house, old)
    provider.keys = [SECOND]
    provider.__enter__()
    before = keys.generation
    house.read_issuer()
    until(lambda: keys.generation > before, what="the keys to be read again")
    call(house, provider.authorization_code("alice")[0])
    with pytest.raises(openai.AuthenticationError):
        call(house, old)
