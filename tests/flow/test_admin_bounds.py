"""What tenants' administrators cannot do, through the real port: outlive their own rights, or shut out the house's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import PLAIN, House, until
from support.tokens import claims, issuer, rsa, signed
from vestry.roles import Role

KEY = rsa("one")
ANY = {"if_match": "*"}
HERE = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house whose identity provider knows people of one tenant."""
    folder: Path = tmp_path_factory.mktemp("bounds")
    provider = issuer(folder, KEY)
    root = {"when": [{"claim": "groups", "values": ["root"]}], "tenant": "default", "roles": ["admin"]}
    provider["grants"] += [root, {**root, "when": [{"claim": "groups", "values": ["ops"]}], "project": "ops"}]
    with House(folder / "state", [shared_engine], identity={"issuers": [provider]}) as house:
        yield house


def signed_in(house: House, subject: str, path: str, **more: Any) -> httpx.Response:
    """What somebody with a token of the provider's is answered by the administration."""
    token = signed(KEY, claims(sub=subject, **more))
    url = f"{house.admin}/admin/v1{path}"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=20, verify=PLAIN)


def refused(answer: httpx.Response, param: str | None, says: str) -> None:
    """403, about this field, in words that say why."""
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("permission_denied", param)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("bound", "says"),
    [({"sources": HERE}, "fewer addresses"), ({"expires": time.time_ns() // 1000 + 10**9}, "expires")],
    ids=["networks", "end"],
)
def test_who_has_rights_for_a_while_or_from_some_networks_gives_no_user_a_role(
    bound: dict[str, Any], says: str, house: House
) -> None:
    """The user would administer from anywhere, and for good. What is there may stay, or be less; without either bound
    roles are given as before.
    """
    tess = Desk(house, Role.TENANT_ADMIN, owner="tess", **bound)
    other = Desk(house, Role.TENANT_ADMIN, owner="other")
    alice = "/tenants/default/users/alice"
    for body in ({"roles": ["tenant-admin"]}, {"roles": ["user"]}, {"roles": ["tenant-admin"], "disabled": True}):
        refused(tess.put(alice, body, **ANY), "roles", says)
    assert signed_in(house, "alice", "/tenants/default/keys").status_code == 403
    assert tess.put(alice, {"concurrency": 2}).status_code == 201
    refused(tess.put(alice, {"roles": ["tenant-admin"]}, **ANY), "roles", says)
    assert other.put(alice, {"roles": ["tenant-admin"]}, **ANY).status_code == 200
    until(lambda: signed_in(house, "alice", "/tenants/default/keys").status_code == 200, what="alice's role")
    for more in ({"description": "d"}, {"disabled": True}):
        assert tess.put(alice, {"roles": ["tenant-admin"], **more}, **ANY).status_code == 200
    refused(tess.put(alice, {"roles": ["tenant-admin"]}, **ANY), "roles", says)  # to let her in is to give it
    for less in ({"roles": ["user"], "disabled": True}, {}):
        assert tess.put(alice, less, **ANY).status_code == 200
    assert tess.delete(alice, **ANY).status_code == 204


def test_who_signs_in_at_the_provider_gives_roles(house: House) -> None:
    """Every token expires, and another follows: it is no bound on what its holder may give."""
    token = signed(KEY, claims(sub="hana", groups=["heads"]))
    hana = Desk(house, Role.USER, owner="hana")
    hana.key = token
    assert hana.put("/tenants/default/users/bert", {"roles": ["tenant-admin"]}).status_code == 201
    assert hana.delete("/tenants/default/users/bert", **ANY).status_code == 204


def test_a_tenants_administrator_shuts_no_administrator_of_the_house_out_as_a_user(house: House) -> None:
    """Only a token says whose roles reach the house, so what a tenant's administrator disables does not bind them; what
    the house disables does, and is not undone by who reaches one tenant.
    """
    ada, tess = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.TENANT_ADMIN, owner="tess")
    rita = "/tenants/default/users/rita"

    def status(*groups: str) -> int:
        return signed_in(house, "rita", "/whoami", groups=list(groups)).status_code

    made = tess.put(rita, {"disabled": True, "except_house": False})
    assert (made.status_code, made.json()["spec"]["except_house"]) == (201, True)
    until(lambda: status("radiology") == 401, what="her own tenant to refuse her")
    assert status("root") == 200
    assert tess.put(rita, {"disabled": True}).status_code == 200  # as it is
    assert tess.put(rita, {}, **ANY).status_code == 200
    until(lambda: status("radiology") == 200, what="her to be let in")
    assert ada.put(rita, {"disabled": True}, **ANY).status_code == 200
    until(lambda: status("root") == 401, what="the house to refuse her")
    for body in ({}, {"disabled": True}, {"disabled": True, "description": "d"}):
        refused(tess.put(rita, body, **ANY), "disabled", "house")
    refused(tess.delete(rita, **ANY), "disabled", "house")
    assert status("root") == 401
    assert ada.delete(rita, **ANY).status_code == 204


def test_a_tenants_administrator_shuts_no_administrator_of_the_house_out_by_a_project(house: House) -> None:
    """A project with a key of the house is neither disabled nor let in again by who reaches one tenant; people of the
    identity provider administer whatever becomes of the project that they are in.
    """
    root, tess = Desk(house, Role.ADMIN, owner="root"), Desk(house, Role.TENANT_ADMIN, owner="tess")
    ops, stop = "/tenants/default/projects/ops", {"disabled": True}
    assert root.put(ops, {}).status_code == 201
    ada = Desk(house, Role.ADMIN, owner="ada", project="ops")
    refused(tess.put(ops, stop, **ANY), "disabled", "whole house")
    assert tess.put(ops, {"description": "d"}, **ANY).status_code == 200
    assert ada.get("/whoami").status_code == 200
    assert root.put(ops, stop, **ANY).status_code == 200
    until(lambda: ada.get("/whoami").status_code == 401, what="the house to stop its own")
    refused(tess.put(ops, {}, **ANY), "disabled", "whole house")
    assert root.post(f"/keys/{ada.key_id}/revoke").status_code == 200
    assert tess.put(ops, {}, **ANY).status_code == 200
    uma = Desk(house, Role.USER, owner="uma", project="ops")
    assert tess.put(ops, stop, **ANY).status_code == 200
    until(lambda: uma.get("/whoami").status_code == 401, what="the project's own to be refused")
    assert signed_in(house, "olga", "/whoami", groups=["ops"]).status_code == 200
    assert tess.put("/tenants/default/users/rita", {"project": "ops"}).status_code == 201
    assert signed_in(house, "rita", "/whoami", groups=["root"]).status_code == 200
    assert signed_in(house, "rita", "/whoami", groups=["heads"]).status_code == 401


@pytest.mark.parametrize("beside", [Role.AUDITOR, Role.OPERATOR])
def test_a_role_of_the_house_that_writes_nothing_there_lifts_no_tenants_administrator(
    beside: Role, house: House
) -> None:
    """Neither role may do these things to the house's people, so whoever has both may not: roles add up, and make no
    third one. What one of the two may, freezing as an operator, they may.
    """
    ada, both = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.TENANT_ADMIN, beside, owner="both")
    rita, ops = f"/tenants/default/users/rita-{beside}", f"/tenants/default/projects/ops-{beside}"
    assert ada.put(rita, {"disabled": True}).status_code == ada.put(ops, {}).status_code == 201
    Desk(house, Role.ADMIN, owner="olga", project=f"ops-{beside}")
    refused(both.post(f"/keys/{ada.key_id}/revoke"), None, "whole house")
    refused(both.put(rita, {}, **ANY), "disabled", "house")
    refused(both.delete(rita, **ANY), "disabled", "house")
    refused(both.put(ops, {"disabled": True}, **ANY), "disabled", "whole house")
    zoe = both.put(f"/tenants/default/users/zoe-{beside}", {"disabled": True})
    assert (zoe.status_code, zoe.json()["spec"]["except_house"]) == (201, True)
    for step in ("freeze", "thaw"):
        assert both.post(f"/keys/{ada.key_id}/{step}").status_code == (200 if beside == Role.OPERATOR else 403)
    assert ada.get("/whoami").status_code == 200


def test_who_gives_a_key_that_there_is_a_role_that_approves_would_be_two_people(house: House) -> None:
    """Programs' keys are known to those who run them: an administrator's own break-glass is not approved with one. A
    role that approves nothing is given as before; who has one that does may get another.
    """
    ada, batch = Desk(house, Role.ADMIN, owner="asker"), Desk(house, Role.USER, owner="batch")
    path = f"/keys/{batch.key_id}"
    for roles in (["operator"], ["user", "admin"]):
        said = "make a new one"
        refused(ada.put(path, {"owner": "batch", "roles": roles}, **ANY), "roles", said)
    assert ada.put(path, {"owner": "batch", "roles": ["tenant-admin"]}, **ANY).status_code == 200
    asked = ada.post("/break-glass", {"role": "auditor", "reason": "curious"}).json()["id"]
    assert batch.post(f"/break-glass/{asked}/approve").status_code == 403
    assert ada.post(f"/break-glass/{asked}/end").status_code == 200
    olga = Desk(house, Role.OPERATOR, owner="olga")
    assert ada.put(f"/keys/{olga.key_id}", {"owner": "olga", "roles": ["admin"]}, **ANY).status_code == 200
