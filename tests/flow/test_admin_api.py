"""The administration through its real port: what it answers, what it refuses, and what stands in the record then."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fakes.engine import FakeEngine
from support import certificates
from support.cli import Cli
from support.desk import Desk
from support.disk import Disk
from support.house import House, chat, until
from support.wire import Wire, request
from vestry.adapters.key_format import mint
from vestry.roles import Role
from vestry.types import Limits

ANY = {"if_match": "*"}


@pytest.fixture(scope="module")
def admin(house: House) -> Desk:
    """An administrator of the house."""
    return Desk(house, Role.ADMIN, owner="ada")


@pytest.fixture(scope="module")
def auditor(house: House) -> Desk:
    """One who reads the records."""
    return Desk(house, Role.AUDITOR, owner="aude")


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """An error in OpenAI's shape, and the headers that every answer has."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


def about(house: House, answer: httpx.Response) -> list[dict[str, Any]]:
    """The records that an answer's request has left."""
    found = answer.headers["x-request-id"]
    return [each for each in house.records() if each.get("request_id") == found]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under the record."""
    disk = Disk(monkeypatch)
    yield disk
    disk.mend()


# Documents.


def test_the_life_of_a_tenant(admin: Desk, house: House) -> None:
    """Made, used at once, changed under its version, written again unchanged, removed: each change one record."""
    made = admin.put("/tenants/oncology", {"concurrency": 5}, if_none_match="*")
    version = made.json()["version"]
    assert (made.status_code, made.headers["etag"]) == (201, f'"{version}"')
    (record,) = about(house, made)
    assert (record["type"], record["change"], record["name"], record["actor"]) == (
        "tenant.change",
        "create",
        "oncology",
        "ada",
    )
    assert (record["actor_tenant"], record["actor_role"], record["actor_key_id"], record["source"]) == (
        "default",
        "admin",
        admin.key_id,
        "127.0.0.1",
    )
    assert record["new"]["concurrency"] == 5
    key = admin.post("/tenants/oncology/keys", {"owner": "letters"}).json()
    answer = house.post(json=chat(), headers={"authorization": f"Bearer {key['secret']}"})
    assert answer.status_code == 200
    again = admin.put("/tenants/oncology", {"concurrency": 5})
    assert (again.status_code, again.headers["etag"]) == (200, f'"{version}"')
    assert [each["type"] for each in about(house, again)] == ["outcome"]
    refused(admin.put("/tenants/oncology", {"concurrency": 6}), 428, "precondition_required")
    refused(admin.put("/tenants/oncology", {"concurrency": 6}, if_match=f'"{version + 7}"'), 412, "precondition_failed")
    refused(admin.put("/tenants/oncology", {"concurrency": 6}, if_none_match="*"), 412, "precondition_failed")
    changed = admin.put("/tenants/oncology", {"concurrency": 6}, if_match=f'"{version}"')
    assert (changed.status_code, changed.headers["etag"]) == (200, f'"{version + 1}"')
    (record,) = about(house, changed)
    assert (record["old"]["concurrency"], record["new"]["concurrency"]) == (5, 6)
    refused(admin.delete("/tenants/oncology", if_match=changed.headers["etag"]), 409, "conflict")
    assert admin.post(f"/keys/{key['id']}/revoke", {"reason": "closing"}).json()["state"] == "revoked"
    gone = admin.delete("/tenants/oncology", if_match=changed.headers["etag"])
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-length" not in gone.headers
    assert [each["change"] for each in about(house, gone)] == ["remove"]
    refused(admin.get("/tenants/oncology"), 404, "not_found")
    refused(admin.delete("/tenants/oncology", if_match=changed.headers["etag"]), 404, "not_found")


@pytest.mark.parametrize(
    ("place", "body", "other"),
    [
        ("/policy", {"rules": []}, {"rules": [{"name": "a", "effect": "allow"}]}),
        ("/tenants/again", {}, {"concurrency": 5}),
        ("/tenants/default/projects/again", {}, {"concurrency": 5}),
    ],
)
def test_what_was_removed_and_made_anew_is_not_changed_by_who_has_read_the_other(
    admin: Desk, place: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    """Its `ETag` is none that there was before: nobody's update is lost."""
    read = admin.put(place, body).headers["etag"]
    assert admin.delete(place, if_match=read).status_code == 204
    made = admin.put(place, body, if_none_match="*")
    assert (made.status_code, made.headers["etag"] != read) == (201, True)
    refused(admin.put(place, other, if_match=read), 412, "precondition_failed")
    refused(admin.delete(place, if_match=read), 412, "precondition_failed")
    assert admin.delete(place, if_match=made.headers["etag"]).status_code == 204


def test_what_the_settings_declare_is_shown_and_not_changed(admin: Desk) -> None:
    """It has version 0, says that it is declared, and a change is a conflict that says where to make it."""
    found = admin.get("/tenants/default").json()
    assert (found["declared"], found["version"]) == (True, 0)
    answer = admin.put("/tenants/default", {"concurrency": 5}, **ANY)
    refused(answer, 409, "conflict")
    assert "settings" in answer.text


def test_users_and_projects(admin: Desk) -> None:
    """Names of users are what tokens have as subject: slashes, spaces, letters of any script, in percents."""
    assert admin.put("/tenants/default/projects/discharge", {"description": "d"}).status_code == 201
    for name in ("a/b", "https://idp.test/u?x#y", "Zoë Ångström", "%41", "a%2Fb"):
        path = "/tenants/default/users/" + httpx.QueryParams({"n": name})["n"].encode().hex(" ").replace(" ", "%")
        path = path.replace("/users/", "/users/%")
        made = admin.put(path, {"project": "discharge", "roles": ["user"]})
        assert (made.status_code, made.json().get("name")) == (201, name), made.text
        assert admin.get(path).json()["spec"]["project"] == "discharge"
        assert admin.delete(path, **ANY).status_code == 204
    refused(admin.put("/tenants/default/users/u", {"project": "none"}), 400, "invalid_request", "project")
    refused(admin.put("/tenants/nowhere/users/u", {}), 404, "not_found")
    refused(admin.get("/tenants/nowhere/users"), 404, "not_found")
    assert admin.delete("/tenants/default/projects/discharge", **ANY).status_code == 204


def test_content_is_not_sealed_to_nobody(admin: Desk, house: House, tmp_path: Path) -> None:
    """Every call would be refused: neither a tenant nor a rule asks for it where there is no auditor's key, whichever
    of the two is written first.
    """
    public = Cli(tmp_path / "cli").ok("audit", "keygen", str(tmp_path / "auditor.key")).strip()
    for content in ({"default": "sealed"}, {"routes": {"completions": "sealed"}}):
        answer = admin.put("/tenants/trial", {"content": content})
        refused(answer, 400, "invalid_request", "content")
        assert "no auditor's key" in answer.text
    assert admin.put("/tenants/trial", {"content": {"default": "sealed", "auditor": public}}).status_code == 201
    policy = {"rules": [{"name": "s", "content": "sealed", "tenants": ["trial", "later"]}]}
    assert admin.put("/policy", policy, **ANY).status_code == 201
    desk = Desk(house, Role.USER, tenant="trial")
    assert house.post(json=chat(), headers={"authorization": f"Bearer {desk.key}"}).status_code == 200
    for path in ("/tenants/later", "/tenants/trial"):
        answer = admin.put(path, {}, **ANY)
        refused(answer, 400, "invalid_request", "content")
        assert "the rule `s` seals it" in answer.text
    assert admin.delete("/policy", **ANY).status_code == 204
    assert admin.put("/tenants/later", {}).status_code == 201
    answer = admin.put("/policy", policy)
    refused(answer, 400, "invalid_request", "rules.0.content")
    assert "the tenant `later` has no auditor's key" in answer.text
    assert admin.delete("/tenants/later", **ANY).status_code == 204


def test_lists_come_in_pages(admin: Desk) -> None:
    """Page by page everything comes once, in order; `limit` and `after` are judged."""
    names = [f"page-{number:02}" for number in range(7)]
    for name in names:
        assert admin.put(f"/tenants/default/projects/{name}", {}).status_code == 201
    found, after, pages = [], "", 0
    while True:
        page = admin.get(f"/tenants/default/projects?limit=3&after={after}").json()
        found += [each["name"] for each in page["data"]]
        pages += 1
        if not page["has_more"]:
            assert page["next"] is None
            break
        assert len(page["data"]) == 3
        after = page["next"]
    assert ([name for name in found if name.startswith("page-")], len(found)) == (names, len(set(found)))
    assert pages >= 3
    for bad in ("0", "501", "-1", "x", "1.5", "", "9" * 30, "%C2%B2"):
        refused(admin.get(f"/tenants/default/projects?limit={bad}"), 400, "invalid_request", "limit")
    refused(admin.get("/tenants/default/projects?limit=1&limit=2"), 400, "invalid_request", "limit")
    refused(admin.get("/tenants/default/projects?size=1"), 400, "unsupported_parameter", "size")
    refused(admin.get("/tenants/default/projects?after=%00"), 400, "invalid_request", "after")
    refused(admin.get("/tenants/default/projects?after=%ff"), 400, "invalid_request")
    tenants = [each["name"] for each in admin.get("/tenants?limit=500").json()["data"]]
    assert tenants == sorted(tenants)


# Keys.


def test_the_life_of_a_key(admin: Desk, house: House) -> None:
    """Shown once, idempotent by its token, frozen, thawed, changed, replaced with an overlap, revoked."""
    body = {"owner": "letters", "requests_per_minute": 600}
    made = admin.post("/tenants/default/keys", body, idempotency_key="order-1")
    key = made.json()
    assert (made.status_code, made.headers["location"]) == (201, f"/admin/v1/keys/{key['id']}")
    assert key["secret"].startswith("vst_")
    assert key["secret"] not in json.dumps(house.records())
    again = admin.post("/tenants/default/keys", body, idempotency_key="order-1")
    assert (again.status_code, again.json()["id"], again.json()["secret"]) == (200, key["id"], None)
    other = admin.post("/tenants/default/keys", {"owner": "else"}, idempotency_key="order-1")
    refused(other, 409, "conflict")
    refused(admin.post("/tenants/default/keys", body, idempotency_key=""), 400, "invalid_request", "Idempotency-Key")
    for blank in ("\u3164", "alice\u2800"):
        refused(admin.post("/tenants/default/keys", {"owner": blank}), 400, "invalid_request", "owner")

    def works(secret: str) -> bool:
        return house.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 200

    one = f"/keys/{key['id']}"
    assert works(key["secret"])
    frozen = admin.post(f"{one}/freeze", {"reason": "seen in a repository"})
    assert (frozen.json()["state"], works(key["secret"])) == ("frozen", False)
    (record,) = about(house, frozen)
    assert (record["change"], record["reason"]) == ("freeze", "seen in a repository")
    assert admin.post(f"{one}/freeze").status_code == 200
    assert admin.post(f"{one}/thaw").json()["state"] == "active"
    assert works(key["secret"])
    version = admin.get(one).headers["etag"]
    changed = admin.put(one, {"owner": "letters", "requests_per_minute": 60}, if_match=version)
    assert changed.json()["spec"]["requests_per_minute"] == 60
    same = admin.put(one, changed.json()["spec"], if_match=version)
    assert (same.status_code, same.headers["etag"]) == (200, changed.headers["etag"])
    new = admin.post(f"{one}/rotate", {"overlap_seconds": 600}, idempotency_key="r").json()
    assert new["replaces"] == key["id"]
    assert works(new["secret"])
    assert works(key["secret"])
    again = admin.post("/tenants/default/keys", body, idempotency_key="order-1")  # changed and replaced meanwhile
    assert (again.status_code, again.json()["id"], again.json()["secret"]) == (200, key["id"], None)
    refused(admin.post("/tenants/default/keys", {"owner": "else"}, idempotency_key="order-1"), 409, "conflict")
    assert admin.post(f"{one}/revoke").json()["state"] == "revoked"
    assert not works(key["secret"])
    refused(admin.post(f"{one}/thaw"), 409, "conflict") if admin.get(one).json()["frozen"] else None
    refused(admin.put(one, {"owner": "x"}, **ANY), 409, "conflict")
    listed = [each["id"] for each in admin.get("/tenants/default/keys?limit=500").json()["data"]]
    assert {key["id"], new["id"]} <= set(listed)


def test_a_tenants_administrator_stays_within_their_own_rights(house: House) -> None:
    """Of their own tenant they make keys within their own bounds; never a role, model or address more."""
    desk = Desk(house, Role.TENANT_ADMIN, owner="tess", models=["small"], limits=Limits(4, 100))
    refused(desk.post("/tenants/default/keys", {"owner": "x"}), 403, "permission_denied", "models")
    within = {"owner": "x", "models": ["small"], "concurrency": 2, "requests_per_minute": 50, "roles": ["tenant-admin"]}
    assert desk.post("/tenants/default/keys", within).status_code == 201
    for more, param in (
        ({"roles": ["admin"]}, "roles"),
        ({"roles": ["operator"]}, "roles"),
        ({"concurrency": 5}, "concurrency"),
        ({"requests_per_minute": None}, "requests_per_minute"),
    ):
        refused(desk.post("/tenants/default/keys", {**within, **more}), 403, "permission_denied", param)
    assert desk.get("/whoami").json()["whole_house"] == []
    refused(desk.put("/tenants/default/users/tess", {}), 403, "permission_denied", "models")
    refused(desk.put("/tenants/default/projects/wide", {"models": ["small"]}), 403, "permission_denied", "concurrency")
    ada = Desk(house, Role.ADMIN, owner="ada")
    refused(desk.post(f"/keys/{ada.key_id}/revoke"), 403, "permission_denied")
    assert ada.get("/whoami").status_code == 200


# What is no request.


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_request", None),
        (b"{", "invalid_request", None),
        (b"[]", "invalid_request", None),
        (b'"x"', "invalid_request", None),
        (b"null", "invalid_request", None),
        (b'{"concurrency": 1, "concurrency": 2}', "invalid_request", "concurrency"),
        (b'{"concurrency": NaN}', "invalid_request", None),
        (b'{"concurrency": Infinity}', "invalid_request", None),
        (b'{"concurrency": 1e999}', "invalid_request", None),
        (b'{"concurrency": ' + b"9" * 5000 + b"}", "invalid_request", None),
        (b'{"concurrency": "5"}', "invalid_request", "concurrency"),
        (b'{"concurrency": 5.5}', "invalid_request", "concurrency"),
        (b'{"concurrency": true}', "invalid_request", "concurrency"),
        (b'{"concurrency": 0}', "invalid_request", "concurrency"),
        (b'{"models": ["none"]}', "invalid_request", "models"),
        (b'{"models": "small"}', "invalid_request", "models"),
        (b'{"nothing": 1}', "invalid_request", "nothing"),
        (b'{"content": {"default": "everything"}}', "invalid_request", "content.default"),
        (b'{"x": ' + b"[" * 30 + b"]" * 30 + b"}", "invalid_request", None),
        (b"[" * 60_000, "invalid_request", None),
        (b'{"x": "\xff"}', "invalid_request", None),
        (b'\xef\xbb\xbf{"concurrency": 1}', "invalid_request", None),
        (b'{"x": "\\u0000"}', "invalid_request", None),
        (b'{"x": "\\ud800"}', "invalid_request", None),
        (b'{"concurrency": 1} {}', "invalid_request", None),
    ],
)  # fmt: skip
def test_what_is_no_body(body: bytes, code: str, param: str | None, admin: Desk, house: House) -> None:
    """Each is refused with 400 in OpenAI's shape, which names the field; nothing is changed."""
    answer = admin.put("/tenants/broken", body)
    refused(answer, 400, code, param)
    assert admin.get("/tenants/broken").status_code == 404
    assert house.get_ops("/livez").status_code == 200


def test_bodies_are_bounded_and_json(admin: Desk) -> None:
    """More than 64 KiB is 413, also where its length is not said; another media type, or a compressed one, 415."""
    huge = b'{"description": "' + b"x" * 65_536 + b'"}'
    refused(admin.put("/tenants/default/projects/p", huge), 413, "request_too_large")
    refused(
        admin.put("/tenants/default/projects/p", {"description": "x" * 30_000}), 400, "invalid_request", "description"
    )
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
        answer = admin.put("/tenants/default/projects/p", b"{}", content_type=media)
        refused(answer, 415, "unsupported_media_type")
    answer = admin.put("/tenants/default/projects/p", b"{}", content_encoding="gzip")
    refused(answer, 415, "unsupported_media_type")


def test_conditions_and_headers_are_read_strictly(admin: Desk) -> None:
    """What is no ETag, a condition on a route that looks at none, and a token where none is taken: 400."""
    for tag in ('W/"1"', "1", '"x"', '""', '"1",', '"' + "1" * 40 + '"'):
        refused(admin.put("/tenants/strict", {}, if_match=tag), 400, "invalid_request", "If-Match")
    refused(admin.put("/tenants/strict", {}, if_none_match='"1"'), 400, "invalid_request", "If-None-Match")
    refused(admin.post("/keys/key_x/freeze", {}, if_match='"1"'), 400, "invalid_request", "If-Match")
    refused(admin.put("/tenants/strict", {}, idempotency_key="x"), 400, "invalid_request", "Idempotency-Key")


def test_paths_and_methods(admin: Desk, house: House) -> None:
    """404 for what is no route, the framework's own pages too; 405 with all that a path allows; HEAD like GET."""
    for path in ("", "/", "/docs", "/tenants/", "/tenants//x", "/TENANTS", "/tenants/a/b", "/../v1/models", "/whoami/"):
        refused(admin.get(path), 404, "not_found")
    for path in ("/docs", "/openapi.json", "/redoc", "/v1/models", "/metrics", "/livez"):
        url = house.admin + path
        answer = httpx.get(url, headers={"authorization": f"Bearer {admin.key}"}, verify=False)
        refused(answer, 404, "not_found")
    refused(admin.get("/tenants/%ff"), 404, "not_found")
    refused(admin.get("/tenants/%00"), 404, "not_found")
    refused(admin.get("/keys/" + "k" * 129), 404, "not_found")
    for method, path, allow in (
        ("PATCH", "/tenants/x", "DELETE, GET, HEAD, PUT"),
        ("OPTIONS", "/keys", "GET, HEAD"),
        ("GET", "/keys/x/freeze", "POST"),
        ("POST", "/whoami", "GET, HEAD"),
    ):
        answer = admin.ask(method, path)
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allow
    full, head = admin.get("/roles"), admin.ask("HEAD", "/roles")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(full.content)))
    crossed = admin.get("/roles", origin="https://evil.example")
    assert not [name for name in crossed.headers if name.startswith("access-control")]


def test_strangers_are_recorded_and_summed_up(house: House) -> None:
    """Failed authentications are refusals with the route's name; a flood of them fills no disk."""
    before = len(house.records("refusal"))
    for number in range(40):
        answer = httpx.get(
            f"{house.admin}/admin/v1/tenants", headers={"authorization": f"Bearer vst_{number}"}, verify=False
        )
        refused(answer, 401, "invalid_api_key")
    until(
        lambda: [
            each
            for each in house.records("refusals.summary")
            if any(row["code"] == "invalid_api_key" for row in each["counts"])
        ],
        what="a summary",
    )
    told = [each for each in house.records("refusal")[before:] if each["route"] == "admin.tenants.list"]
    assert 0 < len(told) < 40
    metrics = house.metrics()
    assert 'vestry_refusals_total{reason="invalid_api_key",route="admin.tenants.list",tenant="none"}' in metrics


def test_the_door_is_the_apis_own(house: House, admin: Desk) -> None:
    """Bytes that are no HTTP get the door's answer, and are recorded; a key for other routes does nothing here."""
    port = int(house.admin.rpartition(":")[2])
    with Wire(port) as wire:
        wire.send(b"GET /admin/v1/whoami HTTP/1.1\r\n\r\n")
        assert wire.answer().status_code == 400
    bounded = Desk(house, Role.ADMIN, routes=frozenset({"models"}))
    refused(bounded.get("/whoami"), 403, "permission_denied")
    assert admin.get("/whoami").json()["subject"] == "ada"


# Records, state.


def test_the_log_is_searched_and_the_search_is_a_record(house: House, auditor: Desk, admin: Desk) -> None:
    """Filters as those of `vestry audit show`; page by page, newest first, each once; each reading recorded before."""
    for number in range(5):
        admin.put(f"/tenants/default/projects/log-{number}", {})
    query = "/records?type=project.change&tenant=default&limit=2"
    first = auditor.get(query)
    (reading,) = about(house, first)
    assert (reading["type"], reading["actor"], reading["actor_role"], reading["records"]) == (
        "log.read",
        "aude",
        "auditor",
        2,
    )
    assert reading["filter"] == "tenant=default type=project.change"
    seen, page = [], first.json()
    while True:
        seen += [(each["origin"], each["index"]) for each in page["data"]]
        assert all(each["record"]["type"] == "project.change" for each in page["data"])
        if not page["has_more"]:
            break
        page = auditor.get(f"{query}&after={page['next']}").json()
    stored = [each["index"] for each in house.records("project.change") if each.get("tenant") == "default"]
    assert [index for _, index in seen] == sorted(stored, reverse=True)
    nothing = auditor.get("/records?request_id=req_none")
    assert (nothing.json()["data"], about(house, nothing)[0]["records"]) == ([], 0)
    several = auditor.get("/records?type=project.change&type=log.read&since=1h&limit=500").json()["data"]
    assert {each["record"]["type"] for each in several} == {"project.change", "log.read"}
    never = auditor.get("/records?type=project.change&until=9999-12-31T23:59:59.999999Z")
    assert (never.status_code, about(house, never)[0]["filter"][-27:]) == (200, "9999-12-31T23:59:59.999999Z")
    for bad, param in (
        ("type=x", "type"),
        ("outcome=x", "outcome"),
        ("since=yesterday", "since"),
        ("until=2027-01-01T00:00:00", "until"),
        ("after=x", "after"),
        ("limit=501", "limit"),
    ):
        refused(auditor.get(f"/records?{bad}"), 400, "invalid_request", param)


def test_a_key_that_is_searched_for_or_told_of_is_not_recorded(house: House, auditor: Desk, admin: Desk) -> None:
    """Whoever has found one asks what was done with it, and says where it was: neither puts it into the record."""
    secret, key_id = house.keys.create(owner="lost")
    for name in ("key_id", "request_id", "subject"):
        looked = auditor.get(f"/records?{name}={secret}&{name}=other")
        assert looked.status_code == 200
        assert about(house, looked)[0]["filter"] == f"{name}=other,vst_..."
    assert admin.post(f"/keys/{key_id}/revoke", {"reason": f"found {secret} in a repository"}).status_code == 200
    assert house.records("key.revoke")[-1]["reason"] == "found vst_... in a repository"
    files = [each for each in house.settings.audit_directory.rglob("*") if each.is_file()]
    assert not [each for each in files if secret.encode() in each.read_bytes()]


def test_a_name_with_a_backslash_is_searched_as_it_is(auditor: Desk, admin: Desk) -> None:
    """As `vestry audit show` does: by the name, and as records write it."""
    made = admin.post("/tenants/default/keys", {"owner": r"CORP\erin"}).json()
    for name in (r"CORP\erin", r"CORP\\erin"):
        (found,) = auditor.get(f"/records?type=key.create&subject={quote(name)}").json()["data"]
        assert (found["record"]["key_id"], found["record"]["subject"]) == (made["id"], r"CORP\\erin")


def test_many_logs_are_read_page_by_page(tmp_path: Path, shared_engine: FakeEngine) -> None:
    """`next` says of every log how far it was read: the server takes what it has given, however many there are."""
    with House(tmp_path, [shared_engine]) as house:
        auditor = Desk(house, Role.AUDITOR, owner="aude")
        house.post(json=chat())
        logs = house.settings.audit_directory
        for number in range(40):
            shutil.copytree(logs / "server", logs / f"ward-{number}.hospital.example-cli")
        seen: list[tuple[str, int]] = []
        page = auditor.get("/records?type=intent&limit=30").json()
        assert (page["has_more"], len(page["next"]) > 512) == (True, True)
        while True:
            seen += [(each["origin"], each["index"]) for each in page["data"]]
            if not page["has_more"]:
                break
            page = auditor.get(f"/records?type=intent&limit=30&after={quote(page['next'], safe='')}").json()
        assert (len(seen), len(set(seen))) == (41, 41)
        refused(auditor.get("/records?after=" + "x" * 17_000), 400, "invalid_request", "after")
        refused(auditor.get("/records?tenant=" + "x" * 600), 400, "invalid_request", "tenant")


def test_state_and_whoami(house: House, auditor: Desk) -> None:
    """The server says how it, its engines and its logs are; and who calls, with all that they may do."""
    found = auditor.get("/state").json()
    assert (found["ready"], found["missing"], found["break_glass"]) == (True, {}, 0)
    assert [each["healthy"] for each in found["replicas"]] == [True]
    assert [each["origin"] for each in found["logs"]] == [house.settings.audit.origin]
    me = auditor.get("/whoami").json()
    assert (me["subject"], me["roles"], me["via"], me["credential"]) == ("aude", ["auditor"], "key", auditor.key_id)
    assert "records.read" in me["permissions"]
    outcome = auditor.get("/whoami")
    (record,) = about(house, outcome)
    assert (record["type"], record["route"], record["key_id"]) == ("outcome", "admin.whoami", auditor.key_id)
    assert record["source"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "{admin}"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": ""}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "{admin}"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "{admin}.evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(headers: dict[str, str], status: int, house: House, admin: Desk) -> None:
    """A browser sends the administrator's certificate with a form of any page: such a form revokes no key."""
    key = admin.post("/tenants/default/keys", {"owner": "victim"}).json()["id"]
    given = {name: value.format(admin=house.admin) for name, value in headers.items()}
    assert admin.post(f"/keys/{key}/revoke", **given).status_code == status
    assert (admin.get(f"/keys/{key}", **given).json()["state"] == "active") == (status == 403)


@pytest.mark.parametrize("text", ["\x1b[31m", "a\rb", "\x9b", "\u202eegdelivirp", "\u2066", "\u2028"])
def test_what_others_read_shows_as_it_is(text: str, admin: Desk) -> None:
    """Nothing that a terminal obeys, or that turns text around, is kept; lines and any language are."""
    rules = {"rules": [{"name": "r", "effect": "deny", "subjects": ["x"], "description": text}]}
    subjects = {"rules": [{"name": "r", "effect": "deny", "subjects": [text]}]}
    refused(admin.put("/tenants/default/projects/told", {"description": text}), 400, "invalid_request", "description")
    refused(admin.put("/tenants/default/users/told", {"description": text}), 400, "invalid_request", "description")
    refused(admin.put("/policy", rules, **ANY), 400, "invalid_request", "rules.0.description")
    refused(admin.put("/policy", subjects, **ANY), 400, "invalid_request", "rules.0.subjects.0")
    refused(admin.post(f"/keys/{admin.key_id}/freeze", {"reason": text}), 400, "invalid_request", "reason")
    asked = admin.post("/break-glass", {"role": "auditor", "reason": text})
    refused(asked, 400, "invalid_request", "reason")
    good = {"description": "Arztbriefe\n\t\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f9d1\u200d\u2695"}
    assert admin.put("/tenants/default/projects/told", good, **ANY).status_code in {200, 201}


# Break-glass.


def test_break_glass_through_the_front_door(house: House, auditor: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Asked by one, approved by another: loud in log, record and metric; what is done under it says so."""
    olga = Desk(house, Role.OPERATOR, owner="olga")
    refused(olga.put("/tenants/default/projects/glass", {}), 403, "permission_denied")
    asked = olga.post("/break-glass", {"role": "admin", "reason": "nobody else is here", "minutes": 5})
    grant = asked.json()["id"]
    assert (asked.status_code, asked.json()["state"]) == (201, "asked")
    refused(olga.post(f"/break-glass/{grant}/approve"), 403, "permission_denied")
    approved = auditor.post(f"/break-glass/{grant}/approve")
    assert approved.json()["state"] == "active"
    assert "vestry_break_glass_active 1.0" in house.metrics()
    done = olga.put("/tenants/default/projects/glass", {})
    assert done.status_code == 201
    (record,) = about(house, done)
    assert (record["break_glass"], record["actor_role"]) == (grant, "admin,operator")
    call = house.post(json=chat(), headers={"authorization": f"Bearer {olga.key}"})
    assert call.status_code == 200
    assert {(each["type"], each["break_glass"]) for each in about(house, call)} == {
        ("intent", grant),
        ("outcome", grant),
    }
    unknown = house.post(json=chat(model="none"), headers={"authorization": f"Bearer {olga.key}"})
    assert about(house, unknown)[0]["break_glass"] == grant
    refused(olga.post("/tenants/default/keys", {"owner": "me", "roles": ["admin"]}), 403, "permission_denied", "roles")
    assert auditor.get(f"/break-glass/{grant}").json()["grant"]["reason"] == "nobody else is here"
    ended = olga.post(f"/break-glass/{grant}/end", {"reason": "done"})
    assert ended.json()["state"] == "ended"
    assert "vestry_break_glass_active 0.0" in house.metrics()
    refused(olga.put("/tenants/default/projects/after", {}), 403, "permission_denied")
    steps = [each for kind in ("ask", "approve", "end") for each in house.records(f"break-glass.{kind}")]
    assert [(each["name"], each["actor"]) for each in steps] == [(grant, "olga"), (grant, "aude"), (grant, "olga")]
    warned = [each.message for each in caplog.records if grant in each.message]
    assert len(warned) == 3


# Faults.


def test_what_cannot_be_recorded_is_not_done(tmp_path: Path, disk: Disk) -> None:
    """With a log that cannot be written every change, and every reading, is 503; nothing is changed, nothing shown."""
    with FakeEngine() as engine, House(tmp_path, [engine], audit={"commit_seconds": 0.3}) as house:
        admin, auditor = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.AUDITOR, owner="aude")
        key = admin.post("/tenants/default/keys", {"owner": "x"}).json()

        disk.fail(errno.EIO, "sync")
        for answer in (
            admin.put("/tenants/lost", {}),
            admin.post("/tenants/default/keys", {"owner": "lost"}),
            admin.post(f"/keys/{key['id']}/revoke"),
            admin.post("/break-glass", {"role": "auditor", "reason": "x"}),
            auditor.get("/records"),
            admin.get("/tenants"),
        ):
            refused(answer, 503, "audit_unavailable")
        disk.mend()
        until(lambda: house.get_ops("/readyz").status_code == 200, what="readiness")
        assert admin.get("/tenants/lost").status_code == 404
        assert admin.get(f"/keys/{key['id']}").json()["state"] == "active"
        assert "lost" not in {each["spec"]["owner"] for each in admin.get("/keys").json()["data"]}
        assert auditor.get("/break-glass").json()["data"] == []


def test_few_places_and_a_fair_share(tmp_path: Path) -> None:
    """One credential has half of the places, and what goes beyond all of them is 503; the data plane goes on."""
    with FakeEngine() as engine, House(tmp_path, [engine], server={"admin_concurrency": 2}) as house:
        admin, other = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.ADMIN, owner="bea")
        port = int(house.admin.rpartition(":")[2])
        head = (
            "PUT /admin/v1/tenants/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        )
        with Wire(port) as first, Wire(port) as second:
            first.send(f"{head}Authorization: Bearer {admin.key}\r\n\r\n".encode())
            until(lambda: admin.get("/whoami").status_code == 429, what="a held place")
            assert "retry-after" in admin.get("/whoami").headers
            second.send(f"{head}Authorization: Bearer {other.key}\r\n\r\n".encode())
            until(lambda: other.get("/whoami").status_code == 503, what="both places held")
            assert house.post(json=chat()).status_code == 200
            first.send(b"{}")
            assert first.answer().status_code == 201
            second.send(b"{}")
            assert second.answer().status_code == 200


def test_neither_strangers_nor_tenants_keep_the_houses_administrators_out(tmp_path: Path) -> None:
    """Strangers take no place, however many they are; those who reach one tenant have half of the places together."""
    with FakeEngine() as engine, House(tmp_path, [engine], server={"admin_concurrency": 2}) as house:
        admin = Desk(house, Role.ADMIN, owner="ada")
        tess, tom = (Desk(house, Role.TENANT_ADMIN, owner=owner) for owner in ("tess", "tom"))
        port = int(house.admin.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(Wire(port)) for _ in range(24)]
            for each in strangers:
                each.send(request("GET", "/admin/v1/whoami", f"Authorization: Bearer {mint()}"))
            assert {each.answer().status_code for each in strangers} == {401}
        for who in (tess, tom):  # from here on both are known when they arrive
            assert who.get("/whoami").status_code == 200
        with Wire(port) as slow:
            head = "POST /admin/v1/tenants/default/keys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            slow.send(f"{head}Content-Length: 13\r\nAuthorization: Bearer {tess.key}\r\n\r\n".encode())
            assert admin.get("/whoami").status_code == 200
            assert tom.get("/whoami").status_code == 503
            slow.send(b'{"owner":"x"}')
            assert slow.answer().status_code == 201
        assert tom.get("/whoami").status_code == 200


def test_a_key_that_a_clock_made_which_was_ahead_is_replaced_and_bounded(house: House, admin: Desk) -> None:
    """It was made in the time to come, as the clock of this server has it since it was set back, or another server's
    has: it may end before that all the same.
    """
    ahead = round((time.time() + 3600) * 1_000_000)
    for path, how in (("rotate", {"overlap_seconds": 0}), ("", {"owner": "clock", "expires": soon()})):
        made = admin.post("/tenants/default/keys", {"owner": "clock"}).json()
        house.keys.change(made["id"], created=ahead)
        place = f"/keys/{made['id']}"
        done = admin.post(f"{place}/rotate", how) if path else admin.put(place, how, **ANY)
        assert done.status_code == (201 if path else 200), done.text
        assert admin.get(place).json()["state"] == ("expired" if path else "active")


def soon() -> str:
    """A time ten minutes from now."""
    return (datetime.now(UTC) + timedelta(minutes=10)).isoformat()


def test_the_administration_speaks_tls_where_the_api_does(tmp_path: Path) -> None:
    """With `server.tls` it is HTTPS with the same certificate, and plain HTTP gets nothing."""
    tls = certificates.made(tmp_path)
    with FakeEngine() as engine, House(tmp_path / "state", [engine], server={"tls": tls}, wait=False) as house:
        assert house.admin.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        context.check_hostname = False
        url = f"{house.admin}/admin/v1/whoami"
        key = house.new_key(roles=[Role.ADMIN])
        answer = httpx.get(url, headers={"authorization": f"Bearer {key}"}, verify=context)
        assert answer.json()["roles"] == ["admin"]
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"), verify=False)
