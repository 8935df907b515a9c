"""Tokens that are bound to a client certificate (RFC 8705): worth nothing without it, over TLS or behind an ingress."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator

import pytest

from fakes.engine import FakeEngine
from support.certificates import Shown
from support.house import House
from support.site import Site
from support.tokens import claims, issuer, rsa, signed
from support.wire import Wire, request

KEY = rsa("one")
PROXY = "127.9.0.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose issuer binds every token, with clients of its own and an ingress. No certificate is anybody."""
    folder = tmp_path_factory.mktemp("bound")
    identity = {"issuers": [issuer(folder, KEY, certificate_bound=True)]}
    server = {**site.settings(), "trusted_proxies": [PROXY], "client_certificate_header": "client-cert"}
    with House(folder / "state", [shared_engine], identity=identity, server=server) as house:
        yield house


def bound_to(shown: Shown) -> str:
    """A token for the holder of this certificate."""
    return signed(KEY, claims(cnf={"x5t#S256": shown.thumbprint}))


def asked(house: House, context: ssl.SSLContext, token: str, *lines: str, source: str = "127.0.0.1") -> int:
    """The status of a request with this token."""
    with Wire(house.port, source=source, context=context) as wire:
        wire.send(request("GET", "/v1/models", f"Authorization: Bearer {token}", *lines))
        return wire.answer().status_code


def test_a_bound_token_works_with_its_certificate_alone(house: House, site: Site) -> None:
    """Not without one, not with another of the same name, and not after it has worked once with the right one."""
    mine, other = site.clients.issue("DNS:a.example"), site.clients.issue("DNS:a.example")
    token = bound_to(mine)
    shown = [site.context(mine), site.context(other), site.context(None), site.context(mine)]
    assert [asked(house, context, token) for context in shown] == [200, 401, 401, 200]
    assert asked(house, site.context(mine), signed(KEY)) == 401


def test_an_ingress_may_say_which_certificate_it_was(house: House, site: Site) -> None:
    """The header counts from the trusted proxy; from anybody else only the handshake does."""
    mine, other = site.clients.issue("DNS:a.example"), site.clients.issue("DNS:b.example")
    token, line = bound_to(mine), f"Client-Cert: :{base64.b64encode(mine.der).decode()}:"
    assert asked(house, site.context(None), token, line, source=PROXY) == 200
    assert asked(house, site.context(mine), token, source=PROXY) == 401
    assert asked(house, site.context(other), token, line) == 401


def test_a_token_stops_with_its_certificate(house: House, site: Site) -> None:
    """A certificate that has ended is none, for a token too that would be good for longer."""
    mine = site.clients.issue("DNS:a.example", begins=-7200, ends=-60)
    line = f"Client-Cert: :{base64.b64encode(mine.der).decode()}:"
    assert asked(house, site.context(None), bound_to(mine), line, source=PROXY) == 401
