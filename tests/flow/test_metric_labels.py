"""The number of series does not grow with the number of tenants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House, chat
from vestry.meter import calls
from vestry.roles import Role


def test_tenants_without_end_have_labels_with_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the tenants of the settings so many of the directory have a label of their own; what the others do counts
    under `other`, in calls, tokens and refusals alike.
    """
    monkeypatch.setattr(calls, "TENANTS", 2)
    with FakeEngine() as engine, House(tmp_path, [engine], tenants={"default": {}, "late": {}}) as house:
        admin = Desk(house, Role.ADMIN)
        made = [f"clinic-{number}" for number in range(5)]
        for tenant in made:
            assert admin.put(f"/tenants/{tenant}", {}, if_none_match="*").status_code == 201
        for tenant in (*made, "late"):
            key, _ = house.keys.create(tenant=tenant)
            for body, status in ((chat(), 200), (chat(model="unknown"), 404)):
                answer = house.post(json=body, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status
        page = house.metrics()
    for name in ("requests", "tokens", "refusals"):
        labels = set(re.findall(rf'^vestry_{name}_total{{.*tenant="([^"]+)"', page, re.MULTILINE))
        assert labels - {"default"} == {"clinic-0", "clinic-1", "other", "late"}, name
    others = re.findall(r'^vestry_requests_total{code="200",.*tenant="other"} (.+)$', page, re.MULTILINE)
    assert [float(each) for each in others] == [3]


def test_routes_are_those_of_the_pages(tmp_path: Path) -> None:
    """Whatever is asked, of the API and of the administration, counts under a route that the reference names."""
    reference = Path(__file__).parents[2] / "docs" / "reference"
    page = (reference / "metrics.md").read_text(encoding="utf-8").replace("\n  ", " ")
    [said] = re.findall(r"^- `route` is .*$", page, re.MULTILINE)
    told = set(re.findall(r"`([a-z][a-z.]*)`", said))
    told |= set(
        re.findall(r"^## `(admin\.[\w.-]+)`$", (reference / "admin-api.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    with FakeEngine() as engine, House(tmp_path, [engine]) as house:
        admin = Desk(house, Role.ADMIN)
        for path in ("/whoami", "/tenants", "/tenants/default", "/records", "/nothing"):
            admin.get(path)
        for path in ("/v1/models", "/v1/models/small", "/v1/nothing"):
            house.get(path)
        house.post(json=chat())
        seen = set(
            re.findall(r'^vestry_(?:requests|refusals|outcomes)_total{.*route="([^"]+)"', house.metrics(), re.MULTILINE)
        )
    assert (
        {"chat.completions", "models", "model", "none", "admin.whoami", "admin.records", "admin.none"} <= seen <= told
    )


def test_tenants_that_are_called_as_nobody_is_are_told_from_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of a tenant `none` are not those without a key, and a tenant `other` is not the rest."""
    monkeypatch.setattr(calls, "TENANTS", 1)
    with FakeEngine() as engine, House(tmp_path, [engine], tenants={"default": {}, "none": {}, "other": {}}) as house:
        admin = Desk(house, Role.ADMIN)
        for tenant in ("first", "further"):
            assert admin.put(f"/tenants/{tenant}", {}).status_code == 201
        for tenant in ("none", "other", "first", "further"):
            key, _ = house.keys.create(tenant=tenant)
            for body, status in ((chat(), 200), (chat(model="unknown"), 404)):
                answer = house.post(json=body, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status
        assert house.post(json=chat(), headers={}).status_code == 401
        page = house.metrics()

    def counted(name: str, label: str) -> set[tuple[str, float]]:
        found = re.findall(rf'^vestry_{name}_total{{.*{label}="([^"]+)".*tenant="([^"]+)"}} (.+)$', page, re.MULTILINE)
        return {
            (f"{tenant} {value}", float(count)) for value, tenant, count in found if tenant not in ("default", "first")
        }

    requests = {(f"{tenant} {code}", 1.0) for tenant in ("none_", "other_", "other") for code in (200, 404)}
    assert counted("requests", "code") == {*requests, ("none 401", 1.0)}
    refusals = {(f"{tenant} model_not_found", 1.0) for tenant in ("none_", "other_", "other")}
    assert counted("refusals", "reason") == {*refusals, ("none invalid_api_key", 1.0)}
    assert {tenant.split()[0] for tenant, _ in counted("tokens", "kind")} == {"none_", "other_", "other"}
