"""Client certificates as credentials: real handshakes, rules over names, revocation, connections that stay open."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.engine import FakeEngine
from support.certificates import Clients
from support.house import House, chat, until
from support.keys import ran, sqlite_directory
from support.outcomes import metric
from support.site import Site
from support.wire import Handshake, Wire, request
from vestry.admin.bodies import Project, plain
from vestry.edge import door
from vestry.edge.certificates import of_connection
from vestry.types import Certificate, Kind

TRIAGE = "URI:spiffe://hospital.example/ns/er/sa/triage"
GRANTS: list[dict[str, Any]] = [
    {"san": "URI:spiffe://hospital.example/ns/*/sa/triage", "tenant": "default"},
    {"san": "DNS:head.radiology.internal", "tenant": "default", "models": ["other"], "subject": "head"},
    {"san": "DNS:*.radiology.internal", "tenant": "default", "roles": ["user", "auditor"], "project": "scans"},
    {"san": "DNS:elsewhere.internal", "tenant": "nowhere"},
    {"san": "email:*@hospital.example", "tenant": "default", "sources": ["127.8.0.0/16"]},
]
TENANTS = {"default": {"concurrency": 256, "key_concurrency": 256}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Certificates of the module."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that asks for client certificates, and knows whom they stand for."""
    house = made(tmp_path_factory.mktemp("house"), shared_engine, site.settings())
    keep(house, Kind.PROJECT, "scans", plain(Project()))
    with house:
        yield house


def made(folder: Path, engine: FakeEngine, server: dict[str, Any], **more: Any) -> House:
    """A house with the rules of these tests."""
    models: dict[str, Any] = {"small": {}, "other": {}}
    return House(
        folder, [engine], server=server, models=models, tenants=TENANTS, **more, identity={"certificates": GRANTS}
    )


def keep(house: House, kind: Kind, name: str, body: dict[str, Any]) -> None:
    """Write a document of the tenant `default`, as another process does."""

    async def change() -> None:
        directory = sqlite_directory(house.settings.keys_database, b"p" * 32)
        await directory.prepare()
        async with directory.changing() as change:
            await change.put(kind, "default", name, body)
        await directory.close()

    ran(change())


def client(house: House, context: ssl.SSLContext, **options: Any) -> httpx.Client:
    """A client without a key."""
    return httpx.Client(base_url=f"https://localhost:{house.port}", verify=context, timeout=10, **options)


def asked(house: House, context: ssl.SSLContext, **options: Any) -> httpx.Response:
    """A call on a connection of its own."""
    with client(house, context, **options) as http:
        return http.post("/v1/chat/completions", json=chat())


def caller(house: House) -> tuple[Any, ...]:
    """Who the last call was recorded for."""
    last = house.records("intent")[-1]
    return tuple(last.get(name) for name in ("tenant", "subject", "role"))


def test_openais_client_calls_with_a_certificate_for_its_key(house: House, site: Site) -> None:
    """No key at all: the name in the certificate is who calls, in an answer and a stream, and in the record."""

    def without_key(request: httpx.Request) -> None:
        del request.headers["authorization"]

    context = site.context(site.clients.issue(TRIAGE))
    http = openai.DefaultHttpxClient(verify=context, event_hooks={"request": [without_key]})
    url = f"https://localhost:{house.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", http_client=http, max_retries=0) as api:
        assert api.chat.completions.create(**chat()).choices[0].message.content
        assert list(api.chat.completions.create(**chat(stream=True)))
    assert caller(house) == ("default", TRIAGE, "user")
    intent, outcome = house.records("intent")[-1], house.records("outcome")[-1]
    assert intent["key_id"].startswith("crt_")
    assert len(intent["key_id"]) == 20
    assert outcome["ending"] == "complete"


MAPPED: dict[str, tuple[list[str], tuple[str, str, str]]] = {
    "a part of a path": ([TRIAGE], ("default", TRIAGE, "user")),
    "a host": (["DNS:CT1.Radiology.internal"], ("default", "DNS:ct1.radiology.internal", "auditor,user")),
    "the second name": (["DNS:x.example", TRIAGE], ("default", TRIAGE, "user")),
    "the first rule of two": (["DNS:a.radiology.internal", TRIAGE], ("default", TRIAGE, "user")),
}


@pytest.mark.parametrize("case", MAPPED)
def test_a_name_in_the_certificate_is_somebody(case: str, house: House, site: Site) -> None:
    """The first rule that a name fits gives tenant, subject and roles."""
    names, who = MAPPED[case]
    assert asked(house, site.context(site.clients.issue(*names))).status_code == 200
    assert caller(house) == who


NOBODY = {
    "no rule": ["URI:spiffe://hospital.example/ns/er/sa/other"],
    "a star is one part of a path": ["URI:spiffe://hospital.example/ns/er/x/sa/triage"],
    "a hidden slash": ["URI:spiffe://hospital.example/ns/er%2Fx/sa/triage"],
    "a step back": ["URI:spiffe://hospital.example/ns/../sa/triage"],
    "a star is one label": ["DNS:a.b.radiology.internal"],
    "a wildcard": ["DNS:*.radiology.internal"],
    "a longer host": ["DNS:a.radiology.internal.evil.example"],
    "another domain": ["URI:spiffe://hospital.example.evil/ns/er/sa/triage"],
    "another kind": ["DNS:hospital.example", "email:triage@evil.example"],
    "a tenant that there is not": ["DNS:elsewhere.internal"],
    "no name": [],
    "another address": ["email:alice@hospital.example"],
}


@pytest.mark.parametrize("case", NOBODY)
def test_a_certificate_that_fits_no_rule_is_nobodys(case: str, house: House, site: Site) -> None:
    """Signed by the right authority, and still 401, as for a wrong key."""
    answer = asked(house, site.context(site.clients.issue(*NOBODY[case])))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.json() == house_says_no(house, site)


def house_says_no(house: House, site: Site) -> Any:
    """What a wrong key is told."""
    return asked(house, site.context(None), headers={"authorization": "Bearer vst_wrong"}).json()


def test_a_rule_may_bound_models_and_addresses(house: House, site: Site) -> None:
    """Models that the rule does not name are not there; the certificate works only from where it may be used."""
    head = site.context(site.clients.issue("DNS:head.radiology.internal"))
    with client(house, head) as http:
        assert [each["id"] for each in http.get("/v1/models").json()["data"]] == ["other"]
        assert http.post("/v1/chat/completions", json=chat()).status_code == 404
    alice = site.context(site.clients.issue("email:alice@hospital.example"))
    for source, status in (("127.8.1.1", 200), ("127.7.1.1", 401)):
        with Wire(house.port, source=source, context=alice) as wire:
            wire.send(request("GET", "/v1/models"))
            assert wire.answer().status_code == status


def test_a_key_counts_before_the_certificate(house: House, site: Site) -> None:
    """Whoever shows both is the holder of the key; a wrong key is not made good by a certificate."""
    context = site.context(site.clients.issue(TRIAGE))
    assert asked(house, context, headers={"authorization": f"Bearer {house.key}"}).status_code == 200
    assert caller(house)[1] == "tester"
    assert house.records("intent")[-1]["key_id"].startswith("key_")
    for header in ("Bearer vst_wrong", "Bearer token", "Basic x", ""):
        assert asked(house, context, headers={"authorization": header}).status_code == 401


def test_neither_key_nor_certificate_is_nobody(house: House, site: Site) -> None:
    """A certificate is optional here, a credential is not."""
    assert asked(house, site.context(None)).status_code == 401


def test_a_renewed_certificate_is_the_same_caller(house: House, site: Site) -> None:
    """The public id comes from the name: limits and records go on over renewals, and differ between names."""
    ids = []
    for name in (TRIAGE, TRIAGE, TRIAGE.replace("/er/", "/icu/")):
        assert asked(house, site.context(site.clients.issue(name))).status_code == 200
        ids.append(house.records("intent")[-1]["key_id"])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("case", ["another authority", "expired", "not yet valid"])
def test_a_bad_certificate_is_refused_in_the_handshake(case: str, house: House, site: Site) -> None:
    """No answer at all, however good its name."""
    shown = {
        "another authority": lambda: Clients().issue(TRIAGE),
        "expired": lambda: site.clients.issue(TRIAGE, begins=-7200, ends=-60),
        "not yet valid": lambda: site.clients.issue(TRIAGE, begins=600),
    }[case]()
    with pytest.raises(httpx.TransportError):
        asked(house, site.context(shown))


def test_a_certificate_that_expires_on_an_open_connection_is_refused(house: House, site: Site) -> None:
    """The handshake was good; from the second on in which the certificate ends, calls on it are refused."""
    with client(house, site.context(site.clients.issue(TRIAGE, ends=2))) as http:
        assert http.get("/v1/models").status_code == 200
        until(lambda: http.get("/v1/models").status_code == 401, seconds=15, what="the end of the certificate")


def test_a_disabled_user_is_refused(house: House, site: Site) -> None:
    """A document of the user in the directory counts within two seconds, on open connections too."""
    name = TRIAGE.replace("/er/", "/lab/")

    with client(house, site.context(site.clients.issue(name))) as http:
        assert http.get("/v1/models").status_code == 200
        keep(house, Kind.USER, name, {"disabled": True})
        until(lambda: http.get("/v1/models").status_code == 401, seconds=15, what="the user to be refused")
        keep(house, Kind.USER, name, {"models": ["other"]})
        until(lambda: http.get("/v1/models").status_code == 200, seconds=15, what="the user to be let in")
        assert [each["id"] for each in http.get("/v1/models").json()["data"]] == ["other"]


def test_the_administration_knows_certificates_too(house: House, site: Site) -> None:
    """On its own port the same rules say who it is; one that is nobody's gets nothing."""
    for name, status in (("DNS:ct.radiology.internal", 200), ("DNS:nobody.example", 401)):
        context = site.context(site.clients.issue(name))
        url = house.admin.replace("127.0.0.1", "localhost")
        with httpx.Client(base_url=url, verify=context, timeout=10) as http:
            answer = http.get("/admin/v1/whoami")
        assert answer.status_code == status, answer.text
        if status == 200:
            assert answer.json()["subject"] == "DNS:ct.radiology.internal"


def test_required_certificates_and_keys_are_two_things(tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """Where certificates are required, one that is nobody's still lets in whoever has a key."""
    with made(tmp_path, engine, site.settings("required")) as house:
        context = site.context(site.clients.issue("DNS:proxy.internal"))
        assert asked(house, context).status_code == 401
        assert asked(house, context, headers={"authorization": f"Bearer {house.key}"}).status_code == 200
        with pytest.raises(httpx.TransportError):
            asked(house, site.context(None))


def test_a_certificate_is_read_once_a_connection(
    house: House, site: Site, tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three calls on two connections: two readings. A server that asks for none never looks for one."""
    read: list[Any] = []

    def counted(transport: asyncio.BaseTransport) -> Certificate | None:
        read.append(transport)
        return of_connection(transport)

    monkeypatch.setattr(door, "of_connection", counted)
    context = site.context(site.clients.issue(TRIAGE))
    for calls in (2, 1):
        with client(house, context) as http:
            assert [http.get("/v1/models").status_code for _ in range(calls)] == [200] * calls
    assert len(read) == 2
    with House(tmp_path, [engine], server=site.settings("none")) as plain, client(plain, context) as http:
        assert http.get("/v1/models").status_code == 401
    assert len(read) == 2


# Revocation ------------------------------------------------------------------------------------------------------


def refused(house: House, context: ssl.SSLContext) -> bool:
    """Whether a new connection is refused."""
    try:
        return asked(house, context).status_code != 200
    except httpx.TransportError:
        return True


def test_a_revoked_certificate_is_refused(tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """By the list as it was at the start, and as it is changed; open connections end with their next answer."""
    good, bad = site.clients.issue(TRIAGE), site.clients.issue(TRIAGE)
    crl = site.put("clients.crl", site.clients.revoked(bad.serial))
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        assert asked(house, site.context(good)).status_code == 200
        with pytest.raises(httpx.TransportError):
            asked(house, site.context(bad))
        with Wire(house.port, context=site.context(good)) as wire:
            wire.send(request("GET", "/v1/models"))
            assert wire.answer().status_code == 200
            site.put("clients.crl", site.clients.revoked(good.serial, bad.serial))
            assert wire.closed()
        assert refused(house, site.context(good))
        site.put("clients.crl", site.clients.revoked(bad.serial))
        until(lambda: not refused(house, site.context(good)), seconds=15, what="the shorter list")
        assert refused(house, site.context(bad))


def test_the_clients_of_a_revoked_authority_are_refused(tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """One between them and the root, too: its own list says nothing of itself. Nor is anybody let in where the root's
    list is missing; whom the root has signed itself is not touched.
    """
    root, between = site.clients, Clients("Ward", site.clients)
    below, beside = site.context(between.issue(TRIAGE)), site.context(root.issue(TRIAGE))
    crl = site.put("clients.crl", root.revoked() + between.revoked())
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        assert asked(house, below).status_code == asked(house, beside).status_code == 200
        site.put("clients.crl", root.revoked(between.certificate.serial_number) + between.revoked())
        until(lambda: refused(house, below), seconds=15, what="the list")
        assert asked(house, beside).status_code == 200
        site.put("clients.crl", root.revoked() + between.revoked())
        until(lambda: not refused(house, below), seconds=15, what="the shorter list")
        site.put("clients.crl", between.revoked())
        until(lambda: refused(house, below), seconds=15, what="the missing list")


def test_an_issuing_authority_may_be_trusted_without_its_root(tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """Whom it has signed gets in, and nobody else of the root's."""
    root, ward = site.clients, Clients("Ward", site.clients)
    with made(tmp_path, engine, site.settings(client_ca=site.put("ward.crt", ward.pem))) as house:
        assert asked(house, site.context(ward.issue(TRIAGE))).status_code == 200
        assert refused(house, site.context(root.issue(TRIAGE)))


def test_an_authority_without_a_list_is_named(
    tmp_path: Path, engine: FakeEngine, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """In the server's log, at the start and whenever the lists change: of a refused client nothing stands there."""
    caplog.set_level(logging.INFO, "vestry")
    root, between = site.clients, Clients("Ward", site.clients)
    crl = site.put("clients.crl", between.revoked())
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        assert refused(house, site.context(between.issue(TRIAGE)))
        assert "`client_crl` has no list of these, so clients below them are refused: CN=Clients" in caplog.text
        caplog.clear()
        site.put("clients.crl", root.revoked() + between.revoked())
        until(lambda: "loaded the changed certificate" in caplog.text, what="the list")
        assert "has no list" not in caplog.text


def test_a_root_that_is_missing_beside_lists_is_named(
    tmp_path: Path, engine: FakeEngine, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """With lists a chain goes on to its root: where `client_ca` lacks that, nobody gets in, and the log says why."""
    ward = Clients("Ward", site.clients)
    crl = site.put("clients.crl", site.clients.revoked() + ward.revoked())
    with made(tmp_path, engine, site.settings(client_ca=site.put("ward.crt", ward.pem), client_crl=crl)) as house:
        assert refused(house, site.context(ward.issue(TRIAGE)))
        assert "`client_ca` lacks these" in caplog.text
        assert "refused: CN=Clients" in caplog.text


def test_a_handshake_that_a_revocation_overtakes_serves_one_call(
    tmp_path: Path, engine: FakeEngine, site: Site
) -> None:
    """Begun before and ended after it: as for a connection that was open, the next answer is the last."""
    good = site.clients.issue(TRIAGE)
    crl = site.put("clients.crl", site.clients.revoked())
    with (
        made(tmp_path, engine, site.settings(client_crl=crl)) as house,
        Handshake(house.port, site.context(good)) as slow,
    ):
        site.put("clients.crl", site.clients.revoked(good.serial))
        until(lambda: refused(house, site.context(good)), seconds=15, what="the list")
        slow.finish()
        assert b" 200 OK" in slow.ask(request("GET", "/v1/models"))
        assert slow.ask(request("GET", "/v1/models")) == b""


def test_metrics_say_when_the_first_list_ends(tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """Once it has, its authority's clients are refused: who watches is to know before. A newer list shows."""
    name, later = "vestry_tls_crl_expiry_timestamp_seconds", Clients("Others").revoked(ends=7200)
    crl = site.put("clients.crl", later + site.clients.revoked(ends=3600))
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        assert 0 < metric(house, name) - time.time() < 3601
        assert metric(house, "vestry_tls_crl_lifetime_seconds") == 2 * 86_400 + 3600
        site.put("clients.crl", later + site.clients.revoked(ends=86_400))
        until(lambda: 3601 < metric(house, name) - time.time() < 7201, what="the newer list")


def test_a_list_that_is_half_written_leaves_the_old_one(
    tmp_path: Path, engine: FakeEngine, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever it revoked stays out, others are served; the log says which file it is. The whole one is taken up."""
    good, bad = site.clients.issue(TRIAGE), site.clients.issue(TRIAGE)
    crl = site.put("clients.crl", site.clients.revoked(bad.serial))
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        whole = site.clients.revoked(good.serial)
        site.put("clients.crl", whole[: len(whole) // 2])
        until(lambda: f"was not loaded: {crl} cannot be used" in caplog.text, what="a word in the log")
        assert asked(house, site.context(good)).status_code == 200
        assert refused(house, site.context(bad))
        crl.write_bytes(whole)
        until(lambda: refused(house, site.context(good)), seconds=15, what="the whole list")


LISTS: dict[str, Callable[[Clients], bytes]] = {
    "an expired list": lambda clients: clients.revoked(ends=-60),
    "the list of another authority": lambda clients: Clients("Others").revoked(),
}


@pytest.mark.parametrize("case", LISTS)
def test_without_a_current_list_nobody_is_let_in(case: str, tmp_path: Path, engine: FakeEngine, site: Site) -> None:
    """It cannot be told whether a certificate was revoked: refused, in the handshake. Others are served."""
    crl = site.put("clients.crl", LISTS[case](site.clients))
    with made(tmp_path, engine, site.settings(client_crl=crl)) as house:
        with pytest.raises(httpx.TransportError):
            asked(house, site.context(site.clients.issue(TRIAGE)))
        assert asked(house, site.context(None), headers={"authorization": f"Bearer {house.key}"}).status_code == 200
