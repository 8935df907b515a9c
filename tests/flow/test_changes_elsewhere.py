"""What another process changes in the directory acts with the next call of this server, and not a little later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import PEPPER, PLAIN, House, chat
from support.keys import ran, sqlite_directory
from support.tokens import claims, issuer, rsa, signed
from vestry.roles import Role
from vestry.types import Kind

KEY = rsa("one")
GRANTS = [{"tenant": "radiology", "when": [{"claim": "groups", "values": ["radiology"]}]}]
PROJECT = {"models": None, "concurrency": None, "requests_per_minute": None, "disabled": False}
TIMES = 10


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("elsewhere")
    identity = {"issuers": [issuer(folder, KEY, grants=GRANTS)]}
    with House(folder / "state", [shared_engine], identity=identity) as house:
        write(house, Kind.TENANT, "", "radiology", {})
        write(house, Kind.PROJECT, "radiology", "scans", PROJECT)
        yield house


def write(house: House, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> None:
    """Change one document as a command beside the server does, with an own connection to the file."""

    async def written() -> None:
        directory = sqlite_directory(house.settings.keys_database, PEPPER)
        try:
            async with directory.changing() as change:
                await change.put(kind, tenant, name, body)
        finally:
            await directory.close()

    ran(written())


def bearer(house: House, way: str) -> str:
    """Somebody of the tenant, by a credential of each kind that the directory is asked about."""
    if way == "token":
        return signed(KEY, claims(groups=["radiology"], sub="alice"))
    return Desk(house, Role.TENANT_ADMIN, tenant="radiology", project="scans" if way == "project's key" else "").key


@pytest.mark.parametrize("way", ["key", "project's key", "token"])
def test_whose_tenant_or_project_is_disabled_elsewhere_is_refused_with_the_next_call(house: House, way: str) -> None:
    """However soon it comes, on the API and in the administration; and let in again with the next one."""
    place = (Kind.PROJECT, "radiology", "scans") if way == "project's key" else (Kind.TENANT, "", "radiology")
    usual = PROJECT if way == "project's key" else {}
    with httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {bearer(house, way)}"}) as client:

        def ask(path: str) -> int:
            if path == "call":
                return client.post(house.url + "/v1/chat/completions", json=chat()).status_code
            return client.get((house.admin if path.startswith("/admin") else house.url) + path).status_code

        for path in ("call", "/v1/models", "/admin/v1/whoami"):
            assert ask(path) == 200
            for _ in range(TIMES):
                write(house, *place, usual | {"disabled": True})
                assert ask(path) == 401
                write(house, *place, usual)
                assert ask(path) == 200


@pytest.mark.parametrize("ended", ["key", "tenant", "token's user"])
def test_a_stream_that_has_begun_goes_on_where_its_caller_is_refused(
    house: House, engine: FakeEngine, ended: str
) -> None:
    """As the page on security says: whoever is shut out is with their next call; what they have asked is answered."""
    engine.behave(between_seconds=0.1)
    shown, key_id = house.keys.create(tenant="radiology")
    if ended == "token's user":
        shown = signed(KEY, claims(groups=["radiology"], sub="bob"))
    with (
        httpx.Client(base_url=house.url, verify=PLAIN, headers={"authorization": f"Bearer {shown}"}) as client,
        client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        if ended == "key":
            house.keys.revoke(key_id)
        elif ended == "tenant":
            write(house, Kind.TENANT, "", "radiology", {"disabled": True})
        else:
            write(house, Kind.USER, "radiology", "bob", {"disabled": True})
        assert client.get("/v1/models").status_code == 401
        assert not engine.calls[-1].finished
        assert "data: [DONE]" in list(lines)
    write(house, Kind.TENANT, "", "radiology", {})


def test_a_rule_made_elsewhere_is_in_force_with_the_next_call(house: House) -> None:
    """The server that decides a call has read the rules that stand when it arrives."""
    with httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {bearer(house, 'key')}"}) as client:
        for effect, status in (("deny", 403), ("allow", 200)) * TIMES:
            write(house, Kind.POLICY, "", "policy", {"rules": [{"name": "all", "effect": effect}]})
            assert client.post(house.url + "/v1/chat/completions", json=chat()).status_code == status
