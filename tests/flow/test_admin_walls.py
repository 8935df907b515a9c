"""What a tenant's administrator may not find out through the administration: which models other tenants have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House
from vestry.roles import Role

TENANTS = {"default": {}, "ward": {"models": ["small"]}}
KEYS, EXPLAIN = "/tenants/ward/keys", "/policy/explain"
ASKED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "explained": ("POST", EXPLAIN, {"tenant": "ward"}),
    "a key": ("POST", KEYS, {"owner": "x"}),
    "a project": ("PUT", "/tenants/ward/projects/p", {}),
    "a user": ("PUT", "/tenants/ward/users/u", {}),
}


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    models: dict[str, Any] = {"small": {}, "secret": {}}
    with House(tmp_path_factory.mktemp("walls"), [shared_engine], models=models, tenants=TENANTS) as house:
        yield house


@pytest.mark.parametrize("case", ASKED)
def test_another_tenants_model_is_like_one_that_there_is_not(house: House, case: str) -> None:
    """The same answer, to the byte, whatever names it; to whoever reaches the whole house it is told apart."""
    method, path, body = ASKED[case][0], ASKED[case][1], dict(ASKED[case][2])
    tina = Desk(house, Role.TENANT_ADMIN, tenant="ward", owner="tina")
    admin = Desk(house, Role.ADMIN, owner="ada")

    def asked(desk: Desk, *models: str) -> tuple[int, str]:
        more: dict[str, Any] = {"model": models[0]} if case == "explained" else {"models": list(models)}
        answer = (
            desk.ask(method, path, {**body, **more}, if_match="*") if method == "PUT" else desk.post(path, body | more)
        )
        return answer.status_code, answer.text

    others, none = asked(tina, "secret"), asked(tina, "nothing")
    assert others == none
    assert others[0] == (200 if case == "explained" else 400)
    assert asked(tina, "small")[0] in {200, 201}
    assert asked(admin, "nothing")[0] == others[0]
    if case in {"a project", "a user"}:  # what the house has put there, to be had some day, may stay
        assert asked(admin, "small", "secret")[0] in {200, 201}
        body["description"] = "later"
        assert asked(tina, "small", "secret")[0] == 200
        assert asked(tina, "small")[0] == 200
        assert asked(tina, "small", "secret")[0] == 400
