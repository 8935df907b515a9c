"""The policy through a real socket: what a rule refuses, what it tells the engine, and what the record says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.cli import Cli
from support.desk import Desk
from support.house import PEPPER, House, chat, until
from support.keys import ran
from vestry.composition.store import directory_of
from vestry.roles import Role
from vestry.types import Kind

RULES = [
    {"name": "no-tools", "effect": "deny", "subjects": ["banned"]},
    {"name": "local", "sources": ["127.0.0.0/8"], "max_tokens": 64, "choices": 1, "tools": False},
]


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as running:
        yield running


@pytest.fixture(scope="module")
def house(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("policy"), [engine], policy={"rules": RULES}) as running:
        yield running


def test_the_engine_is_told_what_the_rule_bounds_and_the_tenants_salt(house: House, engine: FakeEngine) -> None:
    """A call without `max_tokens` gets the rule's; every call its tenant's salt."""
    assert house.post(json=chat()).status_code == 200
    sent = json.loads(engine.calls[-1].body)
    assert sent["max_tokens"] == 64
    assert len(sent["cache_salt"]) == 43
    intent = house.records("intent")[-1]
    assert (intent["rule"], intent["sampling"]["max_tokens"]) == ("local", 64)
    assert house.post(json=chat(max_tokens=8)).status_code == 200
    assert json.loads(engine.calls[-1].body)["max_tokens"] == 8


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_completion_tokens": 65}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_is_beyond_a_bound_is_403(house: House, more: dict[str, Any], param: str) -> None:
    """The client is told which parameter, the record which rule."""
    answer = house.post(json=chat(**more))
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("permission_denied", param)
    assert "local" not in answer.text
    refusal = house.records("refusal")[-1]
    assert (refusal["rule"], refusal["decision"]) == ("local", "deny")


def test_a_client_cannot_choose_its_salt(house: House) -> None:
    """Or it could look for what another tenant has asked."""
    answer = house.post(json=chat(cache_salt="mine"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"


def test_a_server_that_cannot_use_the_directorys_rules_lets_nobody_in(tmp_path: Path, engine: FakeEngine) -> None:
    """It is not ready and answers 503: by the settings' rules alone it would serve what the directory denies. One that
    runs already goes on with the rules before, and a metric says so."""

    async def written(house: House, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> None:
        directory = directory_of(house.settings, PEPPER)
        try:
            async with directory.changing() as change:
                await change.put(kind, tenant, name, body)
        finally:
            await directory.close()

    with House(tmp_path, [engine], wait=False) as house:
        ran(written(house, Kind.POLICY, "", "policy", {"rules": [{"name": "nobody", "effect": "deny"}]}))
        ran(written(house, Kind.TENANT, "", "radiology", {"models": "of another version"}))
        key = house.key
    with House(tmp_path, [engine], wait=False, key=key) as house:
        assert house.get_ops("/readyz").json()["missing"]["keys"].startswith("what the key store holds")
        assert house.get_ops("/livez").status_code == 200
        for answer in (house.post(json=chat()), house.get("/v1/models"), httpx.get(house.admin + "/admin/v1/whoami")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "authentication_unavailable")
        ran(written(house, Kind.TENANT, "", "radiology", {}))
        until(lambda: house.get_ops("/readyz").status_code == 200, what="readiness")
        assert house.post(json=chat()).json()["error"]["code"] == "permission_denied"
        assert "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text
        ran(written(house, Kind.POLICY, "", "policy", {"rules": []}))
        ran(written(house, Kind.TENANT, "", "radiology", {"models": "of another version"}))
        until(lambda: "\nvestry_directory_outdated 1.0\n" in house.get_ops("/metrics").text, what="the metric")
        assert house.get_ops("/readyz").status_code == 200
        ran(written(house, Kind.TENANT, "", "radiology", {}))
        until(lambda: "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text, what="the metric's end")
        until(lambda: house.post(json=chat()).status_code == 200, what="the new rules")


COMPANY = {
    "name": "company",
    "issuer": "https://login.company.example",
    "audiences": ["vestry"],
    "grants": [{"tenant": "default"}],
}


def settings_file(tmp_path: Path) -> Path:
    path = tmp_path / "vestry.yaml"
    settings = {"state": str(tmp_path / "state"), "policy": {"rules": RULES}, "identity": {"issuers": [COMPANY]}}
    path.write_text(json.dumps(settings))
    return path


MODEL = "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (["--from", "127.0.0.1"], 0, "allowed by local"),
        (["--from", "10.0.0.1"], 0, "allowed by default"),
        (["--max-tokens", "65"], 1, "at most 64"),
        (["--subject", "banned"], 1, "(rule no-tools)"),
        (["--role", "auditor"], 1, "refused with 403"),
        (["--tenant", "nobody"], 1, "refused with 401"),
        (["--at", "yesterday"], 2, "--at"),
        (["--from", "here"], 2, "--from"),
        (["--at", "2027-01-31T18:00:00"], 2, "offset"),
        (["--at", "2027-01-31T18:00:00Z", "--json"], 0, '"allowed": true'),
        (["--project", "gone"], 1, "project is there, and not disabled: no"),
        (["--key", "key_0000000000000000"], 2, "No key has this id"),
        (["--issuer", "company", "--from", "10.0.0.1"], 0, "allowed by default"),
        (["--issuer", "compny"], 2, "Did you mean `company`?"),
        (["--model", "none-such"], 1, "refused with 404"),
    ],
)
def test_the_command_explains(tmp_path: Path, asked: list[str], status: int, said: str) -> None:
    """`vestry policy explain` says what would become of a call, and by which rule."""
    base = ["--config", str(settings_file(tmp_path)), "policy", "explain", "--tenant", "default", "--model", MODEL]
    done = Cli(tmp_path / "state")(*base, *asked)
    assert done.exit_code == status, done.output
    assert said in done.output


def test_the_command_lists_rules(tmp_path: Path) -> None:
    """In their order, with where they stand."""
    done = Cli(tmp_path / "state").ok("--config", str(settings_file(tmp_path)), "policy", "rules", "--json")
    assert [(each["name"], each["origin"]) for each in json.loads(done)] == [
        ("no-tools", "settings"),
        ("local", "settings"),
    ]


def test_the_command_lists_rules_to_read(tmp_path: Path) -> None:
    """One a line, with what it asks for and its bounds; of one tenant, or a sentence where there are none."""
    path = tmp_path / "vestry.yaml"
    night = {"days": ["mon"], "begin": "22:00", "end": "06:00"}
    rule = {"name": "night", "sources": ["10.0.0.0/8"], "hours": [night], "tools": False}
    path.write_text(json.dumps({"state": str(tmp_path / "state"), "policy": {"rules": [rule]}}))
    cli = Cli(tmp_path / "state")
    said = cli.ok("--config", str(path), "policy", "rules", "--tenant", "default")
    assert "1. night (settings): allow" in said
    assert "10.0.0.0/8" in said
    assert "mon 22:00-06:00 UTC" in said
    assert cli("--config", str(path), "policy", "rules", "--tenant", "nobody").exit_code == 2
    assert "no rules" in cli("policy", "rules").output


def test_a_key_is_explained_by_its_id(tmp_path: Path) -> None:
    """Its owner, roles and bounds are those of the directory; without a tenant or a key nothing can be explained."""
    cli = Cli(tmp_path / "state")
    path = str(settings_file(tmp_path))
    cli.ok("--config", path, "audit", "init", "--name", "house.test")
    made = json.loads(cli.ok("--config", path, "keys", "create", "--owner", "banned", "--json"))
    done = cli("--config", path, "policy", "explain", "--key", made["id"], "--model", MODEL)
    assert done.exit_code == 1
    assert "(rule no-tools)" in done.output
    assert cli("--config", path, "policy", "explain", "--model", MODEL).exit_code == 2


def test_a_long_policy_is_recorded_whole_and_may_be_written_as_it_is_shown(house: House) -> None:
    """As many rules as there may be: no record of a change leaves any out, before or after; and what is shown, with all
    its defaults, is taken. One that says more than two of which fit into a record is refused.
    """
    admin = Desk(house, Role.ADMIN, owner="ada")

    def rules(number: int) -> list[dict[str, Any]]:
        return [{"name": f"r{each}", "tenants": ["nobody"], "max_tokens": 5} for each in range(number)]

    first, second = rules(256), rules(255)
    assert admin.put("/policy", {"rules": first}).status_code == 201
    shown = admin.get("/policy")
    again = admin.put("/policy", shown.json()["spec"], if_match=shown.headers["etag"])
    assert (again.status_code, again.headers["etag"]) == (200, shown.headers["etag"])
    assert admin.put("/policy", {"rules": second}, if_match="*").status_code == 200
    assert admin.delete("/policy", if_match="*").status_code == 204
    made, changed, gone = house.records("policy.change")[-3:]
    assert "cut" not in made | changed | gone
    names = [[each["name"] for each in body["rules"]] for body in (made["new"], changed["old"], changed["new"])]
    assert names == [[each["name"] for each in body] for body in (first, first, second)]
    assert changed["old"]["rules"] == first
    assert len(gone["old"]["rules"]) == 255
    large = [{**each, "subjects": [f"somebody-{number}" for number in range(10)]} for each in rules(200)]
    refused = admin.put("/policy", {"rules": large})
    assert (refused.status_code, "larger than" in refused.json()["error"]["message"]) == (400, True)
