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
    with House(folder / "state", [shared_engine], identity={"issuers": [issuer(folder, KEY)]}) as house:
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
