"""What is said to become of a call is what becomes of it, for credentials that are no good too: by HTTP and command."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.cli import Cli
from support.desk import Desk
from support.hospital import hospital
from support.house import PLAIN, House, chat
from support.tokens import claims, issuer, rsa, signed
from vestry.roles import Role

TOKENS = rsa("one")
ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"),)
HERE = (ipaddress.ip_network("127.0.0.0/8"),)
KEYS: dict[str, tuple[dict[str, Any], int, tuple[str, str]]] = {
    "active": ({}, 200, ("key is active", "yes")),
    "used from where it may be": ({"sources": HERE}, 200, ("credential may be used from there", "yes")),
    "used from elsewhere": ({"sources": ELSEWHERE}, 401, ("credential may be used from there", "no")),
    "revoked": ({"revoked": 1}, 401, ("key is active", "no: revoked")),
    "frozen": ({"frozen": 1}, 401, ("key is active", "no: frozen")),
    "expired": ({}, 401, ("key is active", "no: expired")),
    "of a project that is disabled": ({"project": "closed"}, 401, ("project is there, and not disabled", "no")),
}
USERS: dict[str, tuple[dict[str, Any], int, tuple[str, str]]] = {
    "ann": ({}, 200, ("user is not disabled", "yes")),
    "dana": ({"disabled": True}, 401, ("user is not disabled", "no")),
    "eve": ({"models": ["large"]}, 404, ("tenant, project and credential may use the model", "no")),
    "finn": ({"project": "closed"}, 401, ("project is there, and not disabled", "no")),
}


CERTIFICATES: list[dict[str, Any]] = [
    {"san": "DNS:*.far.example", "tenant": "default", "sources": ["10.0.0.0/8"]},
    {"san": "DNS:*.lab.example", "tenant": "default", "models": ["large"]},
    {"san": "DNS:head.ward.example", "tenant": "default", "subject": "head"},
    {"san": "DNS:*.ward.example", "tenant": "default"},
]
INGRESS = {"trusted_proxies": ["127.0.0.1"], "client_certificate_header": "x-forwarded-client-cert"}
HOLDERS = {
    "a.far.example": 401,
    "a.lab.example": 404,
    "head.ward.example": 401,
    "b.ward.example": 403,
    "C.ward.example": 200,
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("explaining")
    identity = {"issuers": [issuer(folder, TOKENS)], "certificates": CERTIFICATES}
    more: dict[str, Any] = {"identity": identity, "models": {"small": {}, "large": {}}, "server": INGRESS}
    with FakeEngine() as engine, House(folder / "state", [engine], **more) as running:
        yield running


@pytest.fixture(scope="module")
def admin(house: House) -> Desk:
    desk = Desk(house, Role.ADMIN, owner="ada")
    assert desk.put("/tenants/default/projects/closed", {"disabled": True}).status_code == 201
    return desk


def called(house: House, credential: str) -> int:
    """The status of a real call."""
    return house.post(json=chat(), headers={"authorization": f"Bearer {credential}"}).status_code


def explained(admin: Desk, **asked: Any) -> tuple[int, list[tuple[str, str]]]:
    """The status that is foretold, and the questions on the way."""
    answer = admin.post("/policy/explain", {"tenant": "default", "model": "small", **asked})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["allowed"] == (told["status"] == 200)
    return told["status"], [(step["asked"], step["answer"]) for step in told["steps"]]


@pytest.mark.parametrize("case", KEYS)
def test_a_key_is_explained_as_it_is(house: House, admin: Desk, case: str) -> None:
    """Its state and networks decide before anything else does."""
    fields, status, step = KEYS[case]
    if case == "expired":
        fields = {"expires": time.time_ns() // 1000 + 50_000}
    secret, key_id = house.keys.create(**fields)
    time.sleep(0.1 if case == "expired" else 0)
    found, steps = explained(admin, key=key_id)
    assert found == called(house, secret) == status
    assert step in steps


@pytest.mark.parametrize("subject", USERS)
def test_a_user_is_explained_as_the_directory_has_them(house: House, admin: Desk, subject: str) -> None:
    """Disabled, bounded or in a project: as their token is taken."""
    body, status, step = USERS[subject]
    assert admin.put(f"/tenants/default/users/{subject}", body).status_code == 201
    found, steps = explained(admin, subject=subject, issuer="hospital")
    assert found == called(house, signed(TOKENS, claims(sub=subject))) == status
    assert step in steps


def test_a_key_is_not_its_owners_to_lose(house: House, admin: Desk) -> None:
    """A user who is disabled goes on owning keys that work (docs/tenants.md), and that is what is said."""
    admin.put("/tenants/default/users/gone", {"disabled": True})
    secret, key_id = house.keys.create(owner="gone")
    assert explained(admin, key=key_id)[0] == called(house, secret) == 200


def test_an_address_and_a_time_may_be_supposed(house: House, admin: Desk) -> None:
    """A key that works there and then is explained for there and then."""
    elsewhere = house.keys.create(sources=ELSEWHERE)[1]
    assert explained(admin, key=elsewhere, source="10.1.2.3")[0] == 200
    expiring = house.keys.create(expires=4_000_000_000_000_000)[1]
    assert explained(admin, key=expiring)[0] == 200
    assert explained(admin, key=expiring, at="2098-01-01T00:00:00Z")[0] == 401


def test_what_is_lent_is_explained(house: House, admin: Desk) -> None:
    """An operator with an administrator's role on loan may call, as long as it lasts, and that is said."""
    olga, aude = Desk(house, Role.OPERATOR, owner="olga"), Desk(house, Role.AUDITOR, owner="aude")
    assert explained(admin, key=olga.key_id)[0] == called(house, olga.key) == 403
    grant = olga.post("/break-glass", {"role": "admin", "reason": "fire"}).json()["id"]
    assert aude.post(f"/break-glass/{grant}/approve").status_code == 200
    status, steps = explained(admin, key=olga.key_id)
    assert status == called(house, olga.key) == 200
    assert ("a break-glass grant lends a role", f"admin ({grant})") in steps
    assert explained(admin, key=olga.key_id, at="2998-01-01T00:00:00Z")[0] == 403
    assert olga.post(f"/break-glass/{grant}/end").status_code == 200
    assert explained(admin, key=olga.key_id)[0] == called(house, olga.key) == 403


def test_who_has_a_token_is_explained_by_the_id_that_rules_name(house: House, admin: Desk) -> None:
    """A rule for one credential is for that user of that issuer, here as there."""
    token = signed(TOKENS, claims(sub="gus"))
    shown = {"authorization": f"Bearer {token}"}
    assert admin.put("/tenants/default/users/gus", {"roles": ["tenant-admin"]}).status_code == 201
    me = admin.get("/whoami", **shown).json()
    rule = {"name": "not-gus", "effect": "deny", "keys": [me["credential"]]}
    assert admin.put("/policy", {"rules": [rule]}).status_code == 201
    status, steps = explained(admin, subject="gus", issuer="hospital")
    assert status == called(house, token) == 403
    assert ("rule", "decides: deny") in steps
    assert explained(admin, subject="gus")[0] == 200
    admin.delete("/policy", if_match="*")


def test_the_token_of_an_issuer_that_there_is_not_is_not_explained(admin: Desk) -> None:
    """Its call would be refused with 401, whatever the rules say."""
    answer = admin.post("/policy/explain", {"tenant": "default", "model": "small", "issuer": "hospitl"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "issuer")


def shown(name: str) -> dict[str, str]:
    """What an ingress says of a certificate."""
    return {"x-forwarded-client-cert": f"Hash={'a' * 64};DNS={name}"}


@pytest.mark.parametrize("name", HOLDERS)
def test_who_has_a_certificate_is_explained_as_the_settings_say(house: House, admin: Desk, name: str) -> None:
    """By the rule for its name: networks, models, subject; and by the id that rules name."""
    assert admin.put("/tenants/default/users/head", {"disabled": True}).status_code in {200, 201}
    certified = httpx.get(f"{house.admin}/admin/v1/whoami", headers=shown("b.ward.example"), verify=PLAIN).json()
    rule = {"name": "not-b", "effect": "deny", "keys": [certified["credential"]]}
    assert admin.put("/policy", {"rules": [rule]}, if_match="*").status_code in {200, 201}
    status, _ = explained(admin, certificate=f"DNS:{name}")
    assert status == house.post(json=chat(), headers=shown(name)).status_code == HOLDERS[name]
    admin.delete("/policy", if_match="*")


def test_a_certificate_that_is_nobodys_is_not_explained(admin: Desk) -> None:
    """Nobody here has such a name: its call would be refused with 401."""
    for name in ("DNS:a.sea.example", "a.ward.example", "DNS:", "x" * 500):
        answer = admin.post("/policy/explain", {"tenant": "default", "model": "small", "certificate": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "certificate")


ZONES = ("Pacific/Kiritimati", "Pacific/Pago_Pago")
AROUND = [{"name": f"r{number}", "hours": [{"timezone": zone}]} for number, zone in enumerate(ZONES)]
FAR = ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1970-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00")


def test_a_time_at_the_end_of_the_calendar_is_none(admin: Desk) -> None:
    """Hours of rules are looked at in their own zones, and there is no day before the first: 400, and which years."""
    assert admin.put("/policy", {"rules": AROUND}).status_code == 201
    asked = {"tenant": "default", "model": "small"}
    for at in FAR:
        answer = admin.post("/policy/explain", {**asked, "at": at})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "at")
        assert "the years 1971 to 2999" in answer.json()["error"]["message"]
    for at in ("1971-01-01T00:00:00+14:00", "2999-12-31T23:59:59-12:00"):
        assert admin.post("/policy/explain", {**asked, "at": at}).status_code == 200
    admin.delete("/policy", if_match="*")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return hospital(tmp_path)


def typed(cli: Cli, *asked: str) -> tuple[int, str]:
    """Exit status and output of `vestry policy explain`."""
    done = cli("policy", "explain", "--model", "scan", *asked)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def test_the_command_says_it_too(cli: Cli) -> None:
    """Keys that are frozen, revoked or used from elsewhere; users and projects that are disabled: status 1, and why."""
    new = ("keys", "create", "--tenant", "radiology", "--owner", "a", "--source", "10.0.0.0/8", "--json")
    key = json.loads(cli.ok(*new))["id"]
    assert typed(cli, "--key", key, "--from", "10.1.2.3")[0] == 0
    status, said = typed(cli, "--key", key)
    assert (status, "credential may be used from there: no" in said, "refused with 401" in said) == (1, True, True)
    for act in ("frozen", "revoked"):
        cli.ok("keys", {"frozen": "freeze", "revoked": "revoke"}[act], key)
        status, said = typed(cli, "--key", key, "--from", "10.1.2.3")
        assert (status, f"key is active: no: {act}" in said, "refused with 401" in said) == (1, True, True)
    dana = ("--tenant", "radiology", "--subject", "dana")
    assert typed(cli, *dana)[0] == 0
    cli.ok("users", "set", "dana", "--tenant", "radiology", "--disabled")
    status, said = typed(cli, *dana)
    assert (status, "user is not disabled: no" in said, "refused with 401" in said) == (1, True, True)
    cli.ok("projects", "set", "closed", "--tenant", "radiology", "--disabled")
    status, said = typed(cli, "--tenant", "radiology", "--project", "closed")
    assert (status, "project is there, and not disabled: no" in said, "refused with 401" in said) == (1, True, True)
    assert typed(cli, "--tenant", "radiology", "--subject", "\udcff")[0] == 0


def test_the_command_knows_the_calendar_too(cli: Cli, tmp_path: Path) -> None:
    """A sentence, and no traceback."""
    (tmp_path / "rules.yaml").write_text(json.dumps({"rules": AROUND}))
    cli.ok("policy", "set", "--file", str(tmp_path / "rules.yaml"))
    for at in FAR:
        status, said = typed(cli, "--tenant", "radiology", "--at", at)
        assert (status, "--at: a call comes in the years 1971 to 2999." in said) == (2, True)
    assert typed(cli, "--tenant", "radiology", "--at", "2999-12-31T23:59:59-12:00")[0] == 0
    assert "needs its offset" in typed(cli, "--tenant", "radiology", "--at", "0001-01-01T00:00:00")[1]


def test_the_command_takes_no_issuer_and_no_tenant_that_cannot_be(cli: Cli, tmp_path: Path) -> None:
    """An issuer that the settings do not have, and a key of another tenant: a sentence, and status 2."""
    status, said = typed(cli, "--tenant", "radiology", "--subject", "dana", "--issuer", "hospitl")
    assert (status, "There is no issuer of this name" in said) == (2, True)
    key = json.loads(cli.ok("keys", "create", "--tenant", "radiology", "--owner", "a", "--json"))["id"]
    status, said = typed(cli, "--key", key, "--tenant", "surgery")
    assert (status, "The key is of the tenant radiology" in said) == (2, True)
    assert typed(cli, "--key", key, "--tenant", "radiology")[0] == 0


def test_the_command_knows_certificates_too(cli: Cli) -> None:
    """The rule for the name says whose it is; a name that is nobody's, or somebody's of another tenant, is refused."""
    cli.variables |= {
        "VESTRY_IDENTITY": "{certificates: [{san: 'DNS:*.far.example', tenant: radiology, sources: [10.0.0.0/8]}]}",
        "VESTRY_SERVER": "{trusted_proxies: [127.0.0.1], client_certificate_header: x-forwarded-client-cert}",
    }
    name = ("--certificate", "DNS:a.far.example")
    assert typed(cli, *name, "--from", "10.1.2.3")[0] == 0
    status, said = typed(cli, *name)
    assert (status, "credential may be used from there: no" in said) == (1, True)
    for asked in (("--certificate", "DNS:far.example"), (*name, "--tenant", "surgery")):
        assert "nobody of this tenant by the name" in typed(cli, *asked)[1]
    cli.ok("users", "set", "DNS:a.far.example", "--disabled")
    assert "user is not disabled: no" in typed(cli, *name, "--from", "10.1.2.3")[1]
