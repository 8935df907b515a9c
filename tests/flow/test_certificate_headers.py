"""Certificates that an ingress vouches for: believed from a trusted proxy alone, and only where the header is whole."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fakes.engine import FakeEngine
from support.certificates import Clients, Shown
from support.house import House, chat
from support.ingress import ingress
from support.refusal import Visit
from support.site import Site
from support.wire import Wire, request

PROXY = "127.9.0.1"
TRIAGE = "URI:spiffe://hospital.example/ns/er/sa/triage"
GRANTS = [{"san": TRIAGE, "tenant": "default"}, {"san": "DNS:proxy.internal", "tenant": "default", "subject": "proxy"}]
CLIENTS = Clients()
TRIAGES = CLIENTS.issue(TRIAGE)
OTHERS = CLIENTS.issue("DNS:other.example")
Make = Callable[[Shown], tuple[str, ...]]


def made(folder: Path, engine: FakeEngine, header: str, **server: Any) -> House:
    """A house behind a proxy that writes this header."""
    server = {"trusted_proxies": [PROXY], "client_certificate_header": header, **server}
    return House(folder, [engine], server=server, identity={"certificates": GRANTS})


@pytest.fixture(scope="module")
def houses(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, House]]:
    """One house for each header."""
    names = ("x-forwarded-client-cert", "client-cert", "ssl-client-cert")
    with (
        made(tmp_path_factory.mktemp("xfcc"), shared_engine, names[0]) as envoy,
        made(tmp_path_factory.mktemp("rfc"), shared_engine, names[1]) as standard,
        made(tmp_path_factory.mktemp("nginx"), shared_engine, names[2]) as nginx,
    ):
        yield dict(zip(names, (envoy, standard, nginx), strict=True))


def ask(house: House, *lines: str, source: str = PROXY) -> httpx.Response:
    """A request with these header lines, from the proxy or from somebody else."""
    with Wire(house.port, source=source) as wire:
        wire.send(request("GET", "/v1/models", *lines))
        return wire.answer()


def escaped(shown: Shown) -> str:
    """PEM as Envoy and nginx write it."""
    return quote(shown.pem.decode(), safe="")


def base64_of(shown: Shown) -> str:
    return base64.b64encode(shown.der).decode()


def digest(shown: Shown) -> str:
    return hashlib.sha256(shown.der).hexdigest()


def by(element: str) -> str:
    """An element of XFCC with what Envoy writes before."""
    return f"By=spiffe://hospital.example/ns/llm/sa/vestry;{element}"


TOLD: dict[str, tuple[str, Make]] = {
    "Envoy, the certificate": (
        "x-forwarded-client-cert",
        lambda shown: (f'x-forwarded-client-cert: {by(f"Hash={digest(shown)};")}Cert="{escaped(shown)}"',),
    ),
    "Envoy, names alone": (
        "x-forwarded-client-cert",
        lambda shown: (
            f'X-Forwarded-Client-Cert: {by(f"Hash={digest(shown)};")}Subject="CN=\\"a, b;\\"";URI={TRIAGE[4:]};DNS=x',
        ),
    ),
    "Envoy, behind what a client claims": (
        "x-forwarded-client-cert",
        lambda shown: (f"x-forwarded-client-cert: Hash={'0' * 64};URI=spiffe://x/y,Cert={escaped(shown)}",),
    ),
    "RFC 9440": ("client-cert", lambda shown: (f"Client-Cert: :{base64_of(shown)}:",)),
    "RFC 9440, without padding": ("client-cert", lambda shown: (f"Client-Cert: :{base64_of(shown).rstrip('=')}:",)),
    "ingress-nginx": (
        "ssl-client-cert",
        lambda shown: (f"ssl-client-cert: {escaped(shown)}", "ssl-client-verify: SUCCESS"),
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_trusted_proxy_is_believed_about_a_certificate(case: str, houses: dict[str, House]) -> None:
    """The client that the proxy has verified is who calls; asked again it costs no reading."""
    name, make = TOLD[case]
    assert [ask(houses[name], *make(TRIAGES)).status_code for _ in range(2)] == [200, 200]
    with Wire(houses[name].port, source=PROXY) as wire:
        body = b'{"model": "small", "messages": [{"role": "user", "content": "hi"}]}'
        lines = ("content-type: application/json", "x-forwarded-for: 203.0.113.7", *make(TRIAGES))
        wire.send(request("POST", "/v1/chat/completions", *lines, body=body))
        assert wire.answer().status_code == 200
    intent = houses[name].records("intent")[-1]
    assert (intent["tenant"], intent["subject"], intent["source"]) == ("default", TRIAGE, "203.0.113.7")
    assert intent["key_id"].startswith("crt_")


@pytest.mark.parametrize("case", TOLD)
def test_anybody_else_is_not_believed(case: str, houses: dict[str, House], engine: FakeEngine) -> None:
    """The same header from a peer that is no trusted proxy is not even read: whoever writes it is nobody."""
    name, make = TOLD[case]
    visit = Visit(houses[name], engine)
    visit.refused(visit.send(request("GET", "/v1/models", *make(TRIAGES))), 401, "invalid_api_key")
    forwarded = (*make(TRIAGES), f"x-forwarded-for: {PROXY}")
    visit.refused(visit.send(request("GET", "/v1/models", *forwarded)), 401, "invalid_api_key")


def test_a_header_that_is_not_the_configured_one_is_ignored(houses: dict[str, House]) -> None:
    """A proxy passes on what it does not set itself: only the header that it sets counts."""
    for name, house in houses.items():
        for told, make in TOLD.values():
            if told != name:
                assert ask(house, *make(TRIAGES)).status_code == 401


XFCC, RFC, NGINX = "x-forwarded-client-cert", "client-cert", "ssl-client-cert"
GOOD = "ssl-client-verify: SUCCESS"
SPOILT: dict[str, tuple[str, tuple[str, ...]]] = {
    "XFCC, no header": (XFCC, ()),
    "XFCC, empty": (XFCC, (f"{XFCC}: ",)),
    "XFCC, twice": (XFCC, (f"{XFCC}: Cert={escaped(TRIAGES)}", f"{XFCC}: Cert={escaped(TRIAGES)}")),
    "XFCC, another behind it": (XFCC, (f"{XFCC}: Cert={escaped(TRIAGES)},Cert={escaped(OTHERS)}",)),
    "XFCC, two certificates": (XFCC, (f"{XFCC}: Cert={escaped(TRIAGES)};Cert={escaped(OTHERS)}",)),
    "XFCC, another hash": (XFCC, (f"{XFCC}: Hash={digest(OTHERS)};Cert={escaped(TRIAGES)}",)),
    "XFCC, names without a hash": (XFCC, (f"{XFCC}: URI={TRIAGE[4:]}",)),
    "XFCC, a hash that is none": (XFCC, (f"{XFCC}: Hash=xyz;URI={TRIAGE[4:]}",)),
    "XFCC, a name inside a name": (XFCC, (f'{XFCC}: Hash={digest(OTHERS)};Subject="CN=a;URI={TRIAGE[4:]}"',)),
    "XFCC, an open quote": (XFCC, (f'{XFCC}: Hash={digest(OTHERS)};URI={TRIAGE[4:]};Subject="CN=a',)),
    "XFCC, text behind a quote": (XFCC, (f'{XFCC}: Hash={digest(OTHERS)};Subject="a"b;URI={TRIAGE[4:]}',)),
    "XFCC, a comma at the end": (XFCC, (f"{XFCC}: Cert={escaped(TRIAGES)},",)),
    "XFCC, too large": (XFCC, (f"{XFCC}: Subject={'x' * 17_000};Cert={escaped(TRIAGES)}",)),
    "RFC 9440, not between colons": (RFC, (f"{RFC}: {base64_of(TRIAGES)}",)),
    "RFC 9440, twice": (RFC, (f"{RFC}: :{base64_of(TRIAGES)}:", f"{RFC}: :{base64_of(TRIAGES)}:")),
    "RFC 9440, two in one": (RFC, (f"{RFC}: :{base64_of(TRIAGES)}:, :{base64_of(OTHERS)}:",)),
    "RFC 9440, more behind it": (RFC, (f"{RFC}: :{base64.b64encode(TRIAGES.der + b'x').decode()}:",)),
    "RFC 9440, half of it": (RFC, (f"{RFC}: :{base64_of(TRIAGES)[:400]}:",)),
    "RFC 9440, no base64": (RFC, (f"{RFC}: :?!:",)),
    "RFC 9440, nothing": (RFC, (f"{RFC}: ::",)),
    "nginx, not verified": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}", "ssl-client-verify: FAILED:expired")),
    "nginx, no verdict": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}",)),
    "nginx, two verdicts": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}", "ssl-client-verify: NONE", GOOD)),
    "nginx, two certificates": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}", f"{NGINX}: {escaped(TRIAGES)}", GOOD)),
    "nginx, a chain": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}{escaped(OTHERS)}", GOOD)),
    "nginx, half an escape": (NGINX, (f"{NGINX}: {escaped(TRIAGES)}%0", GOOD)),
    "nginx, a verdict alone": (NGINX, (GOOD,)),
    "nginx, no PEM": (NGINX, (f"{NGINX}: certificate", GOOD)),
    "nginx, nobody's name": (NGINX, (f"{NGINX}: {escaped(OTHERS)}", GOOD)),
    "nginx, expired": (NGINX, (f"{NGINX}: {escaped(CLIENTS.issue(TRIAGE, begins=-7200, ends=-60))}", GOOD)),
    "nginx, not yet valid": (NGINX, (f"{NGINX}: {escaped(CLIENTS.issue(TRIAGE, begins=600))}", GOOD)),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_header_that_is_not_whole_is_no_certificate(case: str, houses: dict[str, House]) -> None:
    """Doubled, malformed, contradictory, too large, expired: 401 from any proxy, and a key works beside it."""
    name, lines = SPOILT[case]
    answer = ask(houses[name], *lines)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ask(houses[name], *lines, f"authorization: Bearer {houses[name].key}").status_code == 200


def test_a_proxys_own_certificate_is_not_its_clients(tmp_path: Path, engine: FakeEngine) -> None:
    """A proxy that shows a certificate itself lends it to nobody; without its header there is none."""
    site = Site(tmp_path)
    house = made(tmp_path / "state", engine, NGINX, **site.settings("required"))
    with house:
        context = site.context(site.clients.issue("DNS:proxy.internal"))
        for source, lines, status in (
            (PROXY, (), 401),
            (PROXY, (f"{NGINX}: {escaped(TRIAGES)}", GOOD), 200),
            ("127.0.0.1", (f"{NGINX}: {escaped(TRIAGES)}", GOOD), 200),
        ):
            with Wire(house.port, source=source, context=context) as wire:
                body = b'{"model": "small", "messages": [{"role": "user", "content": "hi"}]}'
                wire.send(request("POST", "/v1/chat/completions", "content-type: application/json", *lines, body=body))
                assert wire.answer().status_code == status
        assert [each["subject"] for each in house.records("intent")] == [TRIAGE, "proxy"]


def test_addresses_of_ipv4_are_the_same_on_a_socket_of_ipv6(tmp_path: Path, engine: FakeEngine) -> None:
    """On `::` a peer is `::ffff:127.9.0.1`: trusted, or not, as 127.9.0.1 is; so are the addresses of a credential."""
    with made(tmp_path, engine, RFC, host="::") as house:
        header = f"{RFC}: :{base64_of(TRIAGES)}:"
        assert ask(house, header).status_code == 200
        assert ask(house, header, source="127.0.0.1").status_code == 401
        bound = house.new_key(sources=networks("127.8.0.0/16", "203.0.113.0/24", "2001:db8::/32"))
        for source, lines, status in ALLOWED:
            assert ask(house, f"authorization: Bearer {bound}", *lines, source=source).status_code == status


def networks(*texts: str) -> tuple[Any, ...]:
    """These networks."""
    return tuple(ipaddress.ip_network(each) for each in texts)


ALLOWED = [
    ("127.8.3.4", (), 200),
    ("127.7.3.4", (), 401),
    ("127.7.3.4", ("x-forwarded-for: 127.8.3.4",), 401),
    ("127.8.3.4", ("x-forwarded-for: 127.7.3.4",), 200),
    (PROXY, (), 401),
    (PROXY, ("x-forwarded-for: 203.0.113.9",), 200),
    (PROXY, ("x-forwarded-for: ::ffff:203.0.113.9",), 200),
    (PROXY, ("x-forwarded-for: 2001:db8::7",), 200),
    (PROXY, ("x-forwarded-for: 203.0.113.9, 198.51.100.1",), 401),
    (PROXY, ("x-forwarded-for: nonsense",), 401),
]
"""Peer, headers, and whether a key for 127.8.0.0/16, 203.0.113.0/24 and 2001:db8::/32 works."""


@pytest.mark.parametrize("case", range(len(ALLOWED)))
def test_a_key_works_from_its_addresses_alone(case: int, houses: dict[str, House]) -> None:
    """By the peer's address, or the one that a trusted proxy tells; never by what a stranger tells."""
    source, lines, status = ALLOWED[case]
    house = houses[RFC]
    bound = house.new_key(sources=networks("127.8.0.0/16", "203.0.113.0/24", "2001:db8::/32"))
    answer = ask(house, f"authorization: Bearer {bound}", *lines, source=source)
    assert answer.status_code == status
    if status == 401:
        assert answer.json() == ask(house, "authorization: Bearer vst_wrong", source=source).json()


def test_a_real_nginx_is_the_ingress(tmp_path: Path, houses: dict[str, House]) -> None:
    """nginx verifies clients and tells the server; what a client writes into the header itself does not get through."""
    site, house = Site(tmp_path), houses[NGINX]
    forged = {NGINX: escaped(site.clients.issue(TRIAGE)), "ssl-client-verify": "SUCCESS"}
    with ingress(tmp_path / "nginx", house.port, site.folder, source=PROXY) as port:

        def asked(shown: Shown | None, **headers: str) -> httpx.Response:
            with httpx.Client(verify=site.context(shown), headers=headers, timeout=10) as http:
                return http.post(f"https://localhost:{port}/v1/chat/completions", json=chat())

        triage = site.clients.issue(TRIAGE)
        assert asked(triage).status_code == 200
        assert house.records("intent")[-1]["subject"] == TRIAGE
        assert asked(None).status_code == 401
        assert asked(None, **forged).status_code == 401
        assert asked(site.clients.issue("DNS:other.example"), **forged).status_code == 401
        assert asked(Clients().issue(TRIAGE)).status_code == 400  # nginx's own answer
        assert asked(None, authorization=f"Bearer {house.key}").status_code == 200
