"""Every route of both planes, asked by every role and by strangers, for what is their own tenant's and another's.

The routes come from the routers' own tables, what must come of it from `roles.TABLE`. A route that has no question here
fails the test, so a new one cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import PLAIN, House, chat
from vestry.edge import dataplane
from vestry.edge.administration.routes import ROUTES
from vestry.edge.administration.table import Row
from vestry.roles import HOUSE, TABLE, Permission, Role

OWN, OTHER, ABSENT = "own", "other", "absent"
TENANT = {OWN: "default", OTHER: "ward", ABSENT: "nowhere"}
DATA = {
    "chat.completions": ("POST", "/v1/chat/completions", Permission.CALL, chat()),
    "completions": ("POST", "/v1/completions", Permission.CALL, {"model": "small", "prompt": "Hello"}),
    "models": ("GET", "/v1/models", Permission.MODELS_READ, None),
    "model": ("GET", "/v1/models/small", Permission.MODELS_READ, None),
}


@dataclass(frozen=True)
class Question:
    """How a route of the administration is asked in a tenant: what stands for the parts of its path, and its body.

    `tenantless` routes are about the whole house or the caller; `house` ones are refused to whoever has one tenant
    only. `status` is the answer to those who may.
    """

    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    tenantless: bool = False
    house: bool = False


ANY_VERSION = {"if_match": "*"}
QUESTIONS: dict[str, Question] = {
    "admin.whoami": Question(tenantless=True),
    "admin.roles": Question(tenantless=True),
    "admin.state": Question(tenantless=True, house=True),
    "admin.openapi": Question(tenantless=True),
    "admin.tenants.list": Question(tenantless=True),
    "admin.tenants.read": Question(),
    "admin.tenants.write": Question({"concurrency": 3}, ANY_VERSION, 409, house=True),
    "admin.tenants.remove": Question(None, ANY_VERSION, 409, house=True),
    "admin.projects.list": Question(),
    "admin.projects.read": Question(),
    "admin.projects.write": Question({"description": "new"}, ANY_VERSION),
    "admin.projects.remove": Question(None, ANY_VERSION, 204),
    "admin.users.list": Question(),
    "admin.users.read": Question(),
    "admin.users.write": Question({"description": "new"}, ANY_VERSION),
    "admin.users.remove": Question(None, ANY_VERSION, 204),
    "admin.keys.list": Question(tenantless=True),
    "admin.keys.of-tenant": Question(),
    "admin.keys.make": Question({"owner": "new"}, {}, 201),
    "admin.keys.read": Question(),
    "admin.keys.write": Question({"owner": "held", "concurrency": 3}, ANY_VERSION),
    "admin.keys.freeze": Question({}),
    "admin.keys.thaw": Question({}),
    "admin.keys.rotate": Question({}, {}, 201),
    "admin.keys.revoke": Question({}),
    "admin.policy.read": Question(tenantless=True, house=True),
    "admin.policy.write": Question({"rules": []}, ANY_VERSION, tenantless=True, house=True),
    "admin.policy.remove": Question(None, ANY_VERSION, 204, tenantless=True, house=True),
    "admin.policy.explain": Question({"tenant": "?", "model": "small"}),
    "admin.break-glass.list": Question(tenantless=True, house=True),
    "admin.break-glass.ask": Question({"role": "auditor", "reason": "matrix"}, {}, 201, tenantless=True, house=True),
    "admin.break-glass.read": Question(None, {}, 404, tenantless=True, house=True),
    "admin.break-glass.approve": Question(None, {}, 404, tenantless=True, house=True),
    "admin.break-glass.end": Question({}, {}, 404, tenantless=True, house=True),
    "admin.records": Question(tenantless=True, house=True),
}


def unasked(rows: tuple[Row, ...], questions: Mapping[str, Question]) -> set[str]:
    """Routes without a question, and questions without a route."""
    return {row.name for row in rows} ^ questions.keys()


def test_every_route_has_its_question() -> None:
    """All routes of both planes stand in this file; one that is planted is missed."""
    assert unasked(ROUTES, QUESTIONS) == set()
    data = [*dataplane.ROUTES.values(), dataplane.ONE_MODEL]
    assert {route.name for route in data} == DATA.keys()
    planted = Row(
        method="GET",
        path="/admin/v1/planted",
        name="admin.planted",
        permission=Permission.STATE_READ,
        handler=ROUTES[0].handler,
        summary="Planted",
    )
    assert unasked((*ROUTES, planted), QUESTIONS) == {"admin.planted"}


def test_a_route_without_a_permission_cannot_be_made() -> None:
    """The table takes no row that says nothing of who may use it."""
    row: dict[str, Any] = {
        "method": "GET",
        "path": "/x",
        "name": "admin.x",
        "handler": ROUTES[0].handler,
        "summary": "",
    }
    with pytest.raises(TypeError):
        Row(**row)
    row["permission"] = None
    with pytest.raises(TypeError, match="needs a permission"):
        Row(**row)


def expected(row: Row, question: Question, role: Role, where: str) -> int:
    """What must be answered, from the table of roles alone."""
    if row.permission not in TABLE[role]:
        return 403
    if role in HOUSE:
        return 404 if where == ABSENT and not question.tenantless else question.status
    if question.house:
        return 403
    return question.status if question.tenantless or where == OWN else 404


class Scene:
    """A house with two tenants, a person of each role in the first, and things to ask about in both."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.people = {role: Desk(house, role, owner=f"the-{role.value}") for role in Role}
        self.admin = self.people[Role.ADMIN]
        self.stranger = {"none": None, "unknown": "vst_" + "A" * 40, "garbage": "x"}

    def path(self, row: Row, where: str) -> str:
        """The route's path, about fresh things of a tenant."""
        tenant = TENANT[where]
        parts = {"tenant": tenant, "project": "letters", "user": "uma", "grant": "bgl_none"}
        if "{key}" in row.path:
            made = self.house.keys.create(tenant=tenant, owner="held")[1] if where != ABSENT else "key_none"
            parts["key"] = made
            if row.name == "admin.keys.thaw" and where != ABSENT:
                self.house.keys.change(made, frozen=1)
        if where != ABSENT:
            for kind in ("project", "user"):
                if f"{{{kind}}}" in row.path:
                    there = self.admin.put(f"/tenants/{tenant}/{kind}s/{parts[kind]}", {}, if_match="*")
                    assert there.status_code in {200, 201}, there.text
        path = row.path.removeprefix("/admin/v1")
        for name, value in parts.items():
            path = path.replace(f"{{{name}}}", value)
        return path

    def ask(self, row: Row, question: Question, desk: Desk, where: str, **headers: str) -> httpx.Response:
        """Ask as somebody."""
        given = {**question.headers, **headers}
        body = question.body
        if row.name == "admin.policy.explain":
            body = {**body, "tenant": TENANT[where]}
        if row.name in {"admin.policy.write", "admin.policy.remove"}:
            self.admin.put("/policy", {"rules": []}, if_match="*")
        return desk.ask(row.method, self.path(row, where), body, **given)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two tenants that the settings declare, and their people."""
    many = {"requests_per_minute": 1_000_000, "key_requests_per_minute": 1_000_000}
    folder: Path = tmp_path_factory.mktemp("matrix")
    with FakeEngine() as engine, House(folder, [engine], tenants={"default": many, "ward": many}) as house:
        yield Scene(house)


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.name)
def test_a_route_of_the_administration(row: Row, scene: Scene) -> None:
    """Each role gets what the table of roles gives it, in its own tenant, in another's, and where there is none."""
    question = QUESTIONS[row.name]
    wheres = [OWN] if question.tenantless else [OWN, OTHER, ABSENT]
    for role, desk in scene.people.items():
        hidden = []
        for where in wheres:
            answer = scene.ask(row, question, desk, where)
            wanted = expected(row, question, role, where)
            if row.name == "admin.break-glass.ask" and wanted == 201:
                _withdrawn(desk, answer)
            if where == ABSENT and row.name.startswith("admin.tenants.") and row.method != "GET" and wanted == 404:
                wanted = 201 if row.method == "PUT" else 404  # an admin makes it
            assert answer.status_code == wanted, (row.name, role, where, answer.text)
            if answer.status_code == 404 and role not in HOUSE:
                hidden.append((answer.content, sorted(set(answer.headers) - {"date"})))
        assert hidden in ([], hidden[:1] * len(hidden)), "another tenant's can be told from what is not there"
        if row.name == "admin.tenants.write" and role == Role.ADMIN:
            assert scene.admin.delete("/tenants/nowhere", if_match="*").status_code == 204


def _withdrawn(desk: Desk, answer: httpx.Response) -> None:
    assert desk.post(f"/break-glass/{answer.json()['id']}/end").status_code == 200, answer.text


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.name)
def test_strangers_get_nothing_of_the_administration(row: Row, scene: Scene) -> None:
    """Without a credential, with an unknown one and with garbage the answer is 401 on every route, always the same."""
    path = scene.path(row, ABSENT)
    answers = []
    for key in scene.stranger.values():
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        url = f"{scene.house.admin}/admin/v1{path}"
        answers.append(httpx.request(row.method, url, headers=headers, timeout=10, verify=PLAIN))
    assert {(each.status_code, each.content) for each in answers} == {(401, answers[0].content)}
    assert answers[0].headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("name", DATA)
def test_a_route_of_the_data_plane(name: str, scene: Scene) -> None:
    """Each role gets what the table of roles gives it; strangers get 401."""
    method, path, permission, body = DATA[name]
    for role, desk in scene.people.items():
        for key in (desk.key, scene.house.keys.create(tenant="ward", roles=[role])[0]):
            answer = _called(scene.house, method, path, body, {"authorization": f"Bearer {key}"})
            assert answer.status_code == (200 if permission in TABLE[role] else 403), (name, role, answer.text)
    for stranger in scene.stranger.values():
        headers = {} if stranger is None else {"authorization": f"Bearer {stranger}"}
        assert _called(scene.house, method, path, body, headers).status_code == 401


def _called(house: House, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    return httpx.request(method, house.url + path, json=body, headers=headers, timeout=20, verify=PLAIN)
