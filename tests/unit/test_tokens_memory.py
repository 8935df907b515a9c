"""What is remembered of tokens: the whole of what was shown, and only while nothing has changed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fakes.calls import head
from fakes.directory import FakeDirectory
from support.tokens import claims, issuer, jwks, rsa, signed
from vestry.adapters.tokens.credentials import TokenCredentials
from vestry.adapters.tokens.provider import Provider
from vestry.composition.identity import providers_of
from vestry.errors import KeysUnavailable
from vestry.settings.identity import Issuer
from vestry.types import Certificate, Head, Kind, Principal

KEY, NEXT = rsa("one"), rsa("two")


class Desk:
    """Credentials over keys in a file and a directory in memory, with a clock that is moved by hand."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.file = folder / "jwks.json"
        self.now = time.time()
        self.directory = FakeDirectory()
        self.providers = providers_of((Issuer.model_validate(issuer(folder, KEY, **changes)),))
        self.credentials = TokenCredentials(self.providers, self.directory, self.directory, clock=lambda: self.now)

    @property
    def provider(self) -> Provider:
        return next(provider for _, provider in self.providers.values())

    async def read_again(self) -> None:
        await self.provider._start()

    async def find(self, token: str, certificate: Certificate | None = None) -> Principal | None:
        return await self.credentials.find(shown(token, certificate))

    def known(self, token: str, certificate: Certificate | None = None) -> Principal | None:
        return self.credentials.known(shown(token, certificate))


def shown(token: str, certificate: Certificate | None = None) -> Head:
    return replace(head(), credential=token, certificate=certificate, began=time.monotonic())


def certificate() -> Certificate:
    return Certificate("t" * 43, (), 0, 2**62)


def test_a_token_is_known_once_it_was_found_and_until_it_expires(tmp_path: Path) -> None:
    """Memory answers without a wait, for as long as the token holds."""

    async def run() -> None:
        desk = Desk(tmp_path, leeway_seconds=0)
        token = signed(KEY, claims(exp=int(desk.now) + 100))
        assert desk.known(token) is None
        found = await desk.find(token)
        assert found is not None
        assert desk.known(token) == found
        desk.now += 101
        assert desk.known(token) is None
        assert await desk.find(token) is None

    asyncio.run(run())


def test_a_token_that_is_bound_is_never_known_without_its_certificate(tmp_path: Path) -> None:
    """Neither alone, nor with another one, nor with the thumbprint written behind the token."""

    async def run() -> None:
        desk = Desk(tmp_path)
        mine, other = certificate(), replace(certificate(), thumbprint="o" * 43)
        token = signed(KEY, claims(cnf={"x5t#S256": mine.thumbprint}))
        assert await desk.find(token, mine) is not None
        assert desk.known(token, mine) is not None
        for text in (token, f"{token} {mine.thumbprint}", f"{mine.thumbprint} {token}", f"+{mine.thumbprint} {token}"):
            assert desk.known(text) is None
            assert await desk.find(text) is None
        assert desk.known(token, other) is None
        assert await desk.find(token, other) is None

    asyncio.run(run())


def test_where_tokens_must_be_bound_others_are_refused(tmp_path: Path) -> None:
    """`certificate_bound`: a token without `cnf` is refused, whatever certificate comes with it."""

    async def run() -> None:
        desk = Desk(tmp_path, certificate_bound=True)
        assert await desk.find(signed(KEY), certificate()) is None
        assert await desk.find(signed(KEY, claims(cnf={"x5t#S256": "t" * 43})), certificate()) is not None

    asyncio.run(run())


def test_other_keys_empty_the_memory_and_the_same_ones_do_not(tmp_path: Path) -> None:
    """A key that the issuer takes back is refused, from memory too, once the keys are read again."""

    async def run() -> None:
        desk = Desk(tmp_path)
        token = signed(KEY)
        assert await desk.find(token) is not None
        await desk.read_again()
        assert desk.known(token) is not None
        desk.file.write_text(json.dumps(jwks(NEXT)))
        await desk.read_again()
        assert desk.known(token) is None
        assert await desk.find(token) is None
        assert await desk.find(signed(NEXT)) is not None

    asyncio.run(run())


@pytest.mark.parametrize("kid", ["one", None], ids=["of the same name", "without a name"])
def test_a_new_key_that_no_name_tells_from_the_old_one_is_asked_for(kid: str | None, tmp_path: Path) -> None:
    """An issuer that calls all its keys the same, or by no name: what is not signed by the old one may be by the new
    one. It is asked once in half a minute, whatever is forged.
    """

    async def run() -> None:
        desk = Desk(tmp_path)
        assert await desk.find(signed(KEY, kid=kid)) is not None
        desk.file.write_text(json.dumps(jwks(NEXT, kid="one")))
        forged, good = signed(rsa("forger"), kid=kid), signed(NEXT, kid=kid)
        assert await desk.find(good) is None
        desk.provider._tried_at -= 31
        assert await desk.find(good) is not None
        tried = desk.provider._tried_at
        assert [await desk.find(forged) for _ in range(3)] == [None] * 3
        assert await desk.find(signed(KEY, kid=kid)) is None
        assert desk.provider._tried_at == tried

    asyncio.run(run())


@pytest.mark.parametrize("left", [jwks(), jwks(NEXT, use="enc")], ids=["none", "one for encryption"])
def test_an_issuer_that_takes_all_its_keys_back_is_believed(
    left: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A set without a key of use is an answer and no outage: 401 at once, not the old keys for `stale_seconds`."""

    async def run() -> None:
        desk = Desk(tmp_path)
        token = signed(KEY)
        assert await desk.find(token) is not None
        desk.file.write_text(json.dumps(left))
        await desk.read_again()
        assert desk.known(token) is None
        assert await desk.find(token) is None
        assert await desk.find(signed(KEY, kid=None)) is None
        assert desk.provider.failures == 0
        assert "hospital shows no key that may verify signatures" in caplog.text
        desk.file.write_text(json.dumps(jwks(KEY)))
        await desk.read_again()
        assert await desk.find(token) is not None

    asyncio.run(run())


@pytest.mark.parametrize("shown", ["{}", '{"keys": {}}', '{"keys": [5]}', "<html>"])
def test_what_is_no_set_of_keys_takes_none_back(shown: str, tmp_path: Path) -> None:
    """A provider's page for maintenance is an outage: the keys that were read last hold."""

    async def run() -> None:
        desk = Desk(tmp_path)
        token = signed(KEY)
        assert await desk.find(token) is not None
        desk.file.write_text(shown)
        await desk.read_again()
        assert desk.provider.failures == 1
        assert desk.known(token) is not None

    asyncio.run(run())


def test_a_change_of_the_directory_empties_the_memory(tmp_path: Path) -> None:
    """A user who is disabled is refused at the next call; their document gives roles, models and bounds."""

    async def run() -> None:
        desk = Desk(tmp_path)
        token = signed(KEY)
        assert await desk.find(token) is not None
        await desk.directory.write(Kind.USER, "default", "alice", {"roles": ["auditor"], "models": ["small"]})
        assert desk.known(token) is None
        found = await desk.find(token)
        assert found is not None
        assert (found.role, found.models) == ("auditor,user", frozenset({"small"}))
        await desk.directory.write(Kind.USER, "default", "alice", {"disabled": True})
        assert desk.known(token) is None
        assert await desk.find(token) is None

    asyncio.run(run())


def test_keys_that_are_too_old_are_no_keys(tmp_path: Path) -> None:
    """When the provider's keys have not been read for `stale_seconds`, nobody can tell: 503, not 401."""

    async def run() -> None:
        desk = Desk(tmp_path)
        assert await desk.find(signed(KEY)) is not None
        desk.file.unlink()
        await desk.read_again()
        assert desk.provider.failures == 1
        assert await desk.find(signed(KEY, claims(jti="another"))) is not None
        desk.provider._clock = lambda: time.monotonic() + 3601
        with pytest.raises(KeysUnavailable):
            await desk.find(signed(KEY, claims(jti="a third")))

    asyncio.run(run())


def test_a_clock_that_is_set_back_keeps_no_token_in_memory_for_longer(tmp_path: Path) -> None:
    """Its keys are too old an hour after they were read, whatever the wall clock says by then."""

    async def run() -> None:
        desk = Desk(tmp_path)
        token = signed(KEY)
        assert await desk.find(token) is not None
        desk.file.unlink()
        desk.now -= 36_000
        later = replace(shown(token), began=time.monotonic() + 3601)
        assert desk.credentials.known(later) is None
        desk.provider._clock = lambda: time.monotonic() + 3601
        with pytest.raises(KeysUnavailable):
            await desk.credentials.find(later)

    asyncio.run(run())


def test_all_tokens_of_one_user_count_as_one(tmp_path: Path) -> None:
    """Their public id is the same; another subject, tenant or issuer has another."""

    async def run() -> None:
        desk = Desk(tmp_path)
        first, second = await desk.find(signed(KEY)), await desk.find(signed(KEY, claims(jti="2")))
        other = await desk.find(signed(KEY, claims(sub="bob")))
        assert first is not None
        assert second is not None
        assert other is not None
        assert first.key_id == second.key_id != other.key_id
        assert first.key_id.startswith("usr_")
        assert len(first.key_id) == 20

    asyncio.run(run())
