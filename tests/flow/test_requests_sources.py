"""Who calls: an address is believed from a trusted proxy only, and a credential must be one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House, chat
from support.refusal import Visit
from support.wire import Wire, chat_request, request
from vestry.roles import Role

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server behind two proxies, at 127.9.0.1 and somewhere in 10.0.0.0/8, written as IPv6 has it."""
    server = {"trusted_proxies": ["127.9.0.1", "::ffff:10.0.0.0/104"]}
    with House(tmp_path_factory.mktemp("proxied"), [shared_engine], server=server) as house:
        yield house


CHAINS = {
    "no header": ((), "127.9.0.1"),
    "one hop": (("X-Forwarded-For: 203.0.113.7",), "203.0.113.7"),
    "a hop of IPv6": (("X-Forwarded-For: 2001:db8::1",), "2001:db8::1"),
    "IPv4 as IPv6 has it": (("X-Forwarded-For: ::ffff:203.0.113.7, ::ffff:10.1.2.3",), "203.0.113.7"),
    "IPv4 in the digits of IPv6": (("X-Forwarded-For: [::FFFF:CB00:7107]:51234",), "203.0.113.7"),
    "IPv6 at full length": (("X-Forwarded-For: 2001:DB8:0:0:0:0:0:1",), "2001:db8::1"),
    "behind a second proxy": (("X-Forwarded-For: 203.0.113.7, 10.1.2.3",), "203.0.113.7"),
    "with a forged start": (("X-Forwarded-For: 1.1.1.1, 127.0.0.1, 203.0.113.7, 10.1.2.3",), "203.0.113.7"),
    "only proxies": (("X-Forwarded-For: 10.9.9.9, 10.1.2.3",), "10.9.9.9"),
    "with a port": (("X-Forwarded-For: 203.0.113.7:51234, 10.1.2.3:80",), "203.0.113.7"),
    "IPv6 with a port": (("X-Forwarded-For: [2001:db8::1]:51234",), "2001:db8::1"),
    "IPv6 in brackets": (("X-Forwarded-For: [2001:db8::1]",), "2001:db8::1"),
    "not an address": (("X-Forwarded-For: unknown, 10.1.2.3",), None),
    "an attack": (("X-Forwarded-For: '; DROP TABLE keys; --",), None),
    "nothing": (("X-Forwarded-For: ",), None),
    "two headers": (("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 203.0.113.7"), "203.0.113.7"),
    "two headers, a proxy in the last": (
        ("X-Forwarded-For: 1.1.1.1, 203.0.113.7", "X-Forwarded-For: 10.1.2.3"),
        "203.0.113.7",
    ),
    "3,000 hops": (("X-Forwarded-For: 1.1.1.1" + ",10.1.1.1" * 3000,), "10.1.1.1"),
    "a hop of 20,000 characters": (("X-Forwarded-For: " + "1" * 20_000,), None),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_trusted_proxy_is_believed_about_one_hop(name: str, house: House, engine: FakeEngine) -> None:
    """Going back from the proxy, the first address that is no trusted proxy is the caller; the rest is its word.

    Where that is no address there is none: the record does not name a proxy as the caller.
    """
    lines, source = CHAINS[name]
    with Wire(house.port, source="127.9.0.1") as wire:
        wire.send(chat_request(house.key, chat(), *lines))
        assert wire.answer().status_code == 200
    assert house.records("intent")[-1].get("source") == source


def test_a_caller_whose_address_cannot_be_told_is_in_no_network(house: House) -> None:
    """A key for the proxies' own network does not work for somebody whose address the proxy does not know."""
    networks = (ip_network("127.9.0.0/16"), ip_network("10.0.0.0/8"))
    key = house.new_key(sources=networks)
    for line, status in (("X-Forwarded-For: 10.2.0.1", 200), ("X-Forwarded-For: unknown", 401)):
        with Wire(house.port, source="127.9.0.1") as wire:
            wire.send(chat_request(key, chat(), line))
            assert wire.answer().status_code == status


@pytest.mark.parametrize("network", ["::ffff:127.9.0.0/112", "127.9.0.0/16", "::ffff:127.9.0.0/120"])
def test_a_network_of_ipv4_may_be_written_as_ipv6_has_it(network: str, house: House) -> None:
    """A rule that denies it denies, and a key for it works: addresses of callers are IPv4 either way."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    made = admin.post("/tenants/default/keys", {"owner": "ward", "sources": [network]}).json()["secret"]

    def status() -> int:
        with Wire(house.port, source="127.9.0.7") as wire:
            wire.send(chat_request(made, chat()))
            return wire.answer().status_code

    assert status() == 200
    rule = {"name": "not-the-ward", "effect": "deny", "sources": [network]}
    assert admin.put("/policy", {"rules": [rule]}).status_code == 201
    assert (status(), admin.delete("/policy", if_match="*").status_code) == (403, 204)


@pytest.mark.parametrize(
    "line",
    ["X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7", "X-Real-IP: 203.0.113.7", "X-Client-IP: 203.0.113.7",
     "X-Forwarded-Client-Cert: Subject=admin", "X-SSL-Client-S-DN: CN=admin", "CF-Connecting-IP: 203.0.113.7"],
)  # fmt: skip
def test_a_stranger_is_not_believed_about_addresses(line: str, house: House, engine: FakeEngine) -> None:
    """From a peer that is no trusted proxy such headers are ignored, in the record and in the decision."""
    visit = Visit(house, engine)
    assert visit.send(chat_request(visit.key, chat(), line)).status_code == 200
    assert house.records("intent")[-1]["source"] == visit.source
    del engine.asked[:]
    visit.refused(visit.send(request("GET", "/v1/models", line)), 401, "invalid_api_key", unlike=("203.0.113",))


GOOD_KEYS = {
    "bearer": "Authorization: Bearer {key}",
    "bearer, lower case": "authorization: bearer {key}",
    "bearer, with spaces": "Authorization: Bearer   {key}  ",
    "x-api-key": "X-API-Key: {key}",
}


@pytest.mark.parametrize("name", GOOD_KEYS)
def test_a_key_is_read_from_either_header(name: str, house: House) -> None:
    """RFC 6750's header, by any case, or `x-api-key`."""
    with Wire(house.port) as wire:
        wire.send(request("GET", "/v1/models", GOOD_KEYS[name].format(key=house.key)))
        assert wire.answer().status_code == 200


BAD_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "an empty one": ("Authorization: Bearer ",),
    "an empty header": ("Authorization: ",),
    "no scheme": ("Authorization: {key}",),
    "another scheme": ("Authorization: Basic {key}",),
    "two keys": ("Authorization: Bearer {key}", "Authorization: Bearer vst_other"),
    "the same key twice": ("Authorization: Bearer {key}", "Authorization: Bearer {key}"),
    "a key in each header": ("Authorization: Bearer {key}", "X-API-Key: {key}"),
    "two of the other header": ("X-API-Key: {key}", "X-API-Key: {key}"),
    "two keys in one": ("Authorization: Bearer {key}, Bearer {key}",),
    "a key and a word": ("Authorization: Bearer {key} x",),
    "a key with an equals sign": ("Authorization: Bearer {key}==",),
    "a key in another case": ("Authorization: Bearer VST{tail}",),
    "a key in a query": ("Cookie: key={key}",),
    "a key that is not ASCII": ("Authorization: Bearer vst_\xe9\xff",),
    "a key of 20,000 characters": ("Authorization: Bearer " + "a" * 20_000,),
    "SQL": ("Authorization: Bearer vst_' OR 1=1 --",),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_what_is_not_one_key_is_refused(name: str, house: House, engine: FakeEngine) -> None:
    """A missing, doubled or misspelt credential is 401, and never says which it was."""
    visit = Visit(house, engine)
    lines = [line.format(key=visit.key, tail=visit.key[3:]) for line in BAD_KEYS[name]]
    with visit.wire() as wire:
        wire.send(request("GET", f"/v1/models?api_key={visit.key}", *lines))
        answer = wire.answer()
    assert answer.headers["www-authenticate"] == "Bearer"
    visit.refused(answer, 401, "invalid_api_key", param=None, unlike=(visit.key, "OR 1=1"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((f"traceparent: {TRACE}",), TRACE),
        ((f"traceparent: {TRACE.upper()}",), None),
        ((f"traceparent: {TRACE}-extra",), None),
        (("traceparent: 00-" + "0" * 500,), None),
        (("traceparent: x\t\xff",), None),
    ],
)
def test_a_trace_is_passed_on_only_if_it_is_one(
    lines: tuple[str, ...], expected: str | None, house: House, engine: FakeEngine
) -> None:
    """The record and the engine get a W3C trace context as it came, and nothing that merely looks like one."""
    with Wire(house.port) as wire:
        wire.send(chat_request(house.key, chat(), *lines))
        assert wire.answer().status_code == 200
    assert house.records("intent")[-1].get("traceparent") == expected
    assert engine.calls[0].headers.get("traceparent") == expected


def test_no_header_of_the_clients_reaches_an_engine(house: House, engine: FakeEngine) -> None:
    """The engine gets the server's own headers, and the id that the server gave the call."""
    lines = ("X-Request-Id: theirs", "Cookie: a=b", "X-Forwarded-For: 1.1.1.1", "X-Data-Parallel-Rank: 7", "TE: gzip")
    with Wire(house.port) as wire:
        wire.send(chat_request(house.key, chat(), *lines))
        answer = wire.answer()
    assert set(engine.calls[0].headers) <= {
        "host", "authorization", "content-type", "content-length", "x-request-id", "accept", "connection", "user-agent",
    }  # fmt: skip
    assert engine.calls[0].headers["x-request-id"] == answer.headers["x-request-id"] != "theirs"
    assert house.records("intent")[-1]["client_request_id"] == "theirs"
