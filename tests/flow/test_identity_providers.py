"""Real identity providers: whoever signs on there calls here, whatever becomes of keys and of the provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from fakes.engine import FakeEngine
from support.house import House, until
from support.providers import CLIENT, RESOURCE, OidcProvider
from support.tokens import claims, rsa, signed

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider(rsa("first")) as running:
        yield running


def issuer(provider: OidcProvider, **changes: Any) -> dict[str, Any]:
    """Settings for it."""
    return {
        "name": "company",
        "issuer": provider.issuer,
        "audiences": [RESOURCE],
        "typ": "at+jwt",
        "clients": [CLIENT],
        "grants": [
            {"when": [{"claim": "groups", "values": ["radiology"]}], "tenant": "default"},
            {"when": [{"claim": "groups", "values": ["heads"]}], "tenant": "default", "roles": ["tenant-admin"]},
        ],
        **changes,
    }


@pytest.fixture(scope="module")
def house(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("providers")
    with FakeEngine() as engine, House(folder, [engine], identity={"issuers": [issuer(provider)]}) as running:
        yield running


def call(house: House, token: str) -> None:
    """A call through OpenAI's own client, with the token as its key. Raises what the client raises."""
    assert house.client(token).chat.completions.create(model="small", messages=MESSAGES).choices


def test_a_programs_token_is_its_key(provider: OidcProvider, house: House) -> None:
    """Client credentials: the token goes where an API key would, and the client stands in the record."""
    call(house, provider.client_credentials())
    intent = house.records("intent")[-1]
    assert (intent["tenant"], intent["subject"], intent["role"], intent["issuer"]) == (
        "default",
        CLIENT,
        "user",
        "company",
    )


def test_a_persons_token_is_their_key(provider: OidcProvider, house: House) -> None:
    """Authorization code: who has signed on calls with their access token; their groups give their roles."""
    token, _ = provider.authorization_code("alice")
    call(house, token)
    intent = house.records("intent")[-1]
    assert (intent["subject"], intent["role"]) == ("alice", "tenant-admin,user")


def test_an_id_token_is_no_access_token(provider: OidcProvider, house: House) -> None:
    """What the provider gave the client about the person opens no door here."""
    _, id_token = provider.authorization_code("bob")
    with pytest.raises(openai.AuthenticationError):
        call(house, id_token)


def test_streams_too(provider: OidcProvider, house: House) -> None:
    """The same for an answer that streams, through the asynchronous client."""

    async def stream() -> str:
        async with openai.AsyncOpenAI(base_url=house.url + "/v1", api_key=provider.client_credentials()) as client:
            chunks = await client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    assert asyncio.run(stream())


def test_keys_change_with_overlap(tmp_path: Path) -> None:
    """A new key works at once, the old one as long as the provider shows it, and then no more."""
    first, second = rsa("first"), rsa("second")
    provider = OidcProvider(first)
    with provider:
        settings = issuer(provider, refresh_seconds=30)
        with FakeEngine() as engine, House(tmp_path, [engine], identity={"issuers": [settings]}) as house:
            old = provider.client_credentials()
            call(house, old)
            keys = house.issuer
            provider.__exit__()
            provider.keys = [second, first]  # the provider signs with the first of them
            with provider:
                new = provider.client_credentials()
                keys._tried_at = float("-inf")  # as if 30 seconds had passed
                call(house, new)
                call(house, old)
            provider.keys = [second]
            with provider:
                house.read_issuer()
                until(lambda: keys.age < 1 and keys.generation >= 3, what="the keys to be read again")
                call(house, new)
                with pytest.raises(openai.AuthenticationError):
                    call(house, old)
            provider.__enter__()


def test_while_the_provider_is_down_its_keys_hold_for_a_while(tmp_path: Path) -> None:
    """Down: tokens go on working until its keys are too old, then the answer is 503, not 401; up again: they work."""
    key = rsa("first")
    provider = OidcProvider(key)
    with provider:
        settings = issuer(provider, typ="any", refresh_seconds=30, stale_seconds=40)
        with FakeEngine() as engine, House(tmp_path, [engine], identity={"issuers": [settings]}) as house:
            token = provider.client_credentials()
            call(house, token)
            keys = house.issuer
            provider.__exit__()
            call(house, token)
            call(house, another(provider, key))
            keys._clock = lambda: time.monotonic() + 41
            with pytest.raises(openai.InternalServerError) as failed:
                call(house, another(provider, key))
            assert failed.value.status_code == 503
            assert failed.value.code == "authentication_unavailable"
            assert "vestry_issuer_key_failures_total" in house.metrics()
            with provider:
                house.read_issuer()
                until(lambda: keys.left > 0, what="the keys to be read again")
                call(house, another(provider, key))
            provider.__enter__()


def another(provider: OidcProvider, key: Any) -> str:
    """A token that nobody has seen, as the provider would sign it."""
    now = int(time.time())
    said = claims(iss=provider.issuer, aud=RESOURCE, client_id=CLIENT, jti=str(time.monotonic_ns()), iat=now)
    return signed(key, said, typ="at+jwt")


def test_a_flood_of_unknown_keys_asks_the_provider_once(provider: OidcProvider, house: House) -> None:
    """However many tokens name a key that nobody knows, its provider is asked once in half a minute."""
    keys = house.issuer
    before = keys.generation
    stranger = rsa("nobody's")
    for number in range(200):
        said = claims(iss=provider.issuer, aud=RESOURCE, client_id=CLIENT, jti=str(number))
        answer = house.get(
            "/v1/models",
            headers={"authorization": f"Bearer {signed(stranger, said, typ='at+jwt', kid=f'kid-{number}')}"},
        )
        assert answer.status_code == 401
    assert keys.generation - before <= 1
