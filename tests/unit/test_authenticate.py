"""A credential becomes a principal, or the same refusal whatever was wrong."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from fakes.calls import head
from fakes.keys import FakeKeys
from vestry.adapters.key_format import mint
from vestry.authenticate import authenticate
from vestry.errors import InvalidKey, KeysUnavailable
from vestry.house import House
from vestry.settings.tree import Tenant
from vestry.types import Principal

ALICE = Principal("key_1", "radiology", "alice")


class Hospital:
    """Where calls arrive."""

    house = House({"radiology": Tenant()})


def test_a_key_makes_its_holder() -> None:
    """The holder of a key of a known tenant is who calls."""
    keys = FakeKeys()
    assert asyncio.run(authenticate(head(credential=keys.add(ALICE)), keys, Hospital())) == ALICE


@pytest.mark.parametrize("case", ["none", "empty", "unknown", "revoked", "expired", "other tenant", "two keys"])
def test_every_failure_is_the_same(case: str) -> None:
    """Missing, unknown, revoked, expired, or of a tenant that is not there: nobody can tell which it was."""
    keys = FakeKeys(clock=lambda: 1_000)
    key = keys.add(ALICE)
    revoked = keys.add(ALICE)
    keys.revoke(revoked)
    credentials = {
        "none": None,
        "empty": "",
        "unknown": mint(),
        "revoked": revoked,
        "expired": keys.add(ALICE, expires=1_000),
        "other tenant": keys.add(Principal("key_2", "research", "bob")),
        "two keys": f"{key},{key}",
    }
    with pytest.raises(InvalidKey) as refused:
        asyncio.run(authenticate(head(credential=credentials[case]), keys, Hospital()))
    assert refused.value.body() == InvalidKey().body()
    assert refused.value.headers() == InvalidKey().headers()


def test_an_unreadable_store_is_no_wrong_key() -> None:
    """While keys cannot be checked the answer is 503, not 401: clients must not throw their keys away."""
    keys = FakeKeys()
    key = keys.add(ALICE)
    keys.broken = True
    with pytest.raises(KeysUnavailable):
        asyncio.run(authenticate(head(credential=key), keys, Hospital()))


def test_no_credential_asks_no_store() -> None:
    """A request without a key costs no look-up."""
    keys = FakeKeys()
    with pytest.raises(InvalidKey):
        asyncio.run(authenticate(head(), keys, Hospital()))
    assert keys.asked == 0


def test_a_credential_for_some_networks_is_refused_from_everywhere_else() -> None:
    """An address that cannot be read is elsewhere, too; an IPv4 address within IPv6 is the IPv4 address."""
    keys = FakeKeys()
    key = keys.add(Principal("key_1", "radiology", "alice", sources=(ip_network("10.0.0.0/8"),)))

    def ask(source: str) -> Principal:
        return asyncio.run(authenticate(head(credential=key, source=source), keys, Hospital()))

    assert ask("10.1.2.3").subject == ask("::ffff:10.1.2.3").subject == "alice"
    for source in ("192.168.0.1", "", "nowhere", "2001:db8::1"):
        with pytest.raises(InvalidKey):
            ask(source)
