"""What somebody has changed by hand in the directory, so that no program can use it: it stops nothing, and is told."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.damage import spoil
from support.desk import Desk
from support.hospital import hospital
from support.house import House, chat, until
from support.tokens import claims, issuer, rsa, signed
from vestry.roles import Role

KEY = rsa("one")
GRANTS = [{"tenant": "default", "when": [{"claim": "groups", "values": ["staff"]}]}]
ANY = {"if_match": "*"}


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.mark.parametrize("body", ["{}", "{", "[]"])
def test_one_damaged_project_does_not_keep_the_house_as_it_was_for_good(
    tmp_path: Path, engine: FakeEngine, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log and shows in the metric; once it is gone, what was changed meanwhile is in force. A server
    that starts with it waits.
    """
    with House(tmp_path, [engine]) as house:
        admin = Desk(house, Role.ADMIN, owner="ada")
        admin.put("/tenants/default/projects/closed", {})
        admin.put("/tenants/radiology", {})
        user = Desk(house, Role.USER, tenant="radiology")

        def status() -> int:
            return house.get("/v1/models", headers={"authorization": f"Bearer {user.key}"}).status_code

        assert status() == 200
        spoil(house, "UPDATE documents SET body = ? WHERE kind = 'project'", body)
        with caplog.at_level(logging.WARNING):
            until(lambda: "\nvestry_directory_outdated 1.0\n" in house.get_ops("/metrics").text, what="the metric")
        assert "the project default/closed" in caplog.text
        assert admin.put("/tenants/radiology", {"disabled": True}, if_match="*").status_code == 200
        assert (status(), house.get_ops("/readyz").status_code) == (200, 200)  # the house before stays
        spoil(house, "DELETE FROM documents WHERE kind = 'project'")
        until(lambda: status() == 401, what="the tenant's end")
        assert "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text
        spoil(house, "INSERT INTO documents VALUES ('project', 'default', 'closed', ?, 1, 1, 1)", body)
        key = house.key
    with House(tmp_path, [engine], wait=False, key=key) as house:
        assert house.get("/v1/models").json()["error"]["code"] == "authentication_unavailable"
        assert house.get_ops("/readyz").json()["missing"]["keys"].startswith("what the key store holds")
        spoil(house, "DELETE FROM documents WHERE kind = 'project'")
        until(lambda: house.get("/v1/models").status_code == 200, what="the house")


@pytest.fixture(scope="module")
def house(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that believes tokens."""
    folder = tmp_path_factory.mktemp("users")
    with House(folder / "state", [engine], identity={"issuers": [issuer(folder, KEY, grants=GRANTS)]}) as house:
        yield house


DAMAGED = {
    "a role that there is not": json.dumps({"roles": ["chief"]}),
    "models that are none": json.dumps({"models": 5}),
    "disabled, perhaps": json.dumps({"disabled": 0}),
    "a bound below nothing": json.dumps({"concurrency": -1}),
    "another version's": json.dumps({"seals": True}),
    "a number that no record holds": json.dumps({"models": 1e308}),
    "no object": "[]",
    "no JSON": "{",
}


@pytest.mark.parametrize("body", list(DAMAGED.values()), ids=list(DAMAGED))
def test_a_damaged_user_is_let_in_nowhere_and_can_be_mended(
    house: House, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503 for their calls, and nobody else's; shown as damaged, beside others; whoever reaches the whole house replaces
    or removes it, who reaches one tenant does not; the record says what was found.
    """
    admin, tenant_admin = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.TENANT_ADMIN, owner="tina")
    users, odd = "/tenants/default/users", "/tenants/default/users/odd"

    def call(subject: str) -> tuple[int, str]:
        shown = {"authorization": f"Bearer {signed(KEY, claims(sub=subject, groups=['staff']))}"}
        answer = house.post(json=chat(), headers=shown)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    for name in ("even", "odd"):
        admin.put(f"{users}/{name}", {}, **ANY)
    spoil(house, "UPDATE documents SET body = ? WHERE kind = 'user' AND name = 'odd'", body)
    until(lambda: call("odd") == (503, "authentication_unavailable"), what="the damage")
    assert call("even") == (200, "")
    assert len([each for each in caplog.records if "the user default/odd" in each.message]) == 1
    shown = admin.get(odd)
    assert (shown.status_code, shown.json()["spec"]) == (200, None)
    assert shown.json()["damaged"]
    supposed = {"tenant": "default", "model": "small", "subject": "odd", "issuer": "hospital"}
    explained = admin.post("/policy/explain", supposed).json()
    assert (explained["allowed"], explained["status"]) == (False, 503)
    listed = {each["name"]: each["damaged"] for each in admin.get(users).json()["data"]}
    assert listed == {"even": "", "odd": shown.json()["damaged"]}

    etag = shown.headers["etag"]
    for refused in (tenant_admin.put(odd, {}, if_match=etag), tenant_admin.delete(odd, if_match=etag)):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    mended = admin.put(odd, {"roles": ["user"]}, if_match=etag)
    assert (mended.status_code, mended.json()["damaged"], call("odd")) == (200, "", (200, ""))
    change = house.records("user.change")[-1]
    assert (list(change["old"]), change["new"]["roles"]) == (["damaged"], ["user"])
    spoil(house, "UPDATE documents SET body = ? WHERE kind = 'user' AND name = 'odd'", body)
    until(lambda: call("odd")[0] == 503, what="the damage")
    assert (admin.delete(odd, **ANY).status_code, call("odd")) == (204, (200, ""))


@pytest.mark.parametrize(
    ("kind", "place", "body"),
    [
        ("tenant", "/tenants/radiology", {}),
        ("project", "/tenants/default/projects/scans", {}),
        ("policy", "/policy", {"rules": []}),
    ],
)
def test_what_else_is_damaged_is_shown_and_replaced_too(
    house: House, kind: str, place: str, body: dict[str, list[str]]
) -> None:
    """The administration answers about it, and its own change mends it: the house is read again."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    assert admin.put(place, body).status_code == 201
    spoil(house, """UPDATE documents SET body = '{"no": 1}' WHERE kind = ?""", kind)
    until(lambda: "\nvestry_directory_outdated 1.0\n" in house.get_ops("/metrics").text, what="the metric")
    shown = admin.get(place)
    assert (shown.status_code, shown.json()["spec"], bool(shown.json()["damaged"])) == (200, None, True)
    assert admin.put(place, body, if_match=shown.headers["etag"]).status_code == 200
    assert "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text
    assert admin.delete(place, **ANY).status_code == 204


@pytest.mark.parametrize("moment", [9 * 10**18, -(9 * 10**18)])
def test_times_beyond_the_calendar_spoil_neither_lists_nor_changes(house: House, moment: int) -> None:
    """They are shown as the last that there is, or as none; what is changed then is answered as it was done."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    named = ("/tenants/radiology", "/tenants/default/projects/scans", "/tenants/default/users/even")
    places: dict[str, dict[str, object]] = {**{each: {} for each in named}, "/policy": {"rules": []}}
    for place, body in places.items():
        admin.put(place, body, **ANY)
    spoil(house, f"UPDATE documents SET created = {moment}, updated = {moment}")
    for place, body in places.items():
        shown = admin.get(place)
        last = "9999-12-31T23:59:59.999999Z" if moment > 0 else None
        assert (shown.status_code, shown.json()["updated"]) == (200, last), place
        if place != "/policy":
            assert shown.json() in admin.get(place.rpartition("/")[0]).json()["data"]
        changed = admin.put(place, {**body, **CHANGED.get(place, {"description": "x"})}, if_match=shown.headers["etag"])
        assert changed.status_code == 200, place
    for place in places:
        assert admin.delete(place, **ANY).status_code == 204


CHANGED: dict[str, dict[str, object]] = {
    "/tenants/radiology": {"concurrency": 8},
    "/policy": {"rules": [{"name": "nights", "effect": "deny", "tenants": ["radiology"]}]},
}


def test_a_document_of_no_kind_is_named(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """What it was nobody can tell, so no later change is in force; the log says which one it is, in one line."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    assert admin.put("/tenants/default/projects/scans", {}).status_code == 201
    spoil(house, "UPDATE documents SET kind = 'projekt' || char(27) || char(10) WHERE name = 'scans'")
    until(lambda: r"the document default/scans is of a kind `projekt\x1b\n`" in caplog.text, what="its name in the log")
    spoil(house, "DELETE FROM documents WHERE kind LIKE 'projekt%'")
    until(lambda: "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text, what="the metric")


def test_half_of_a_character_is_damage(house: House) -> None:
    """A JSON escape of half of a surrogate pair is in no answer: the tenant is shown as damaged, beside the others."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    for name in ("radiology", "surgery"):
        assert admin.put(f"/tenants/{name}", {}).status_code == 201
    spoil(house, """UPDATE documents SET body = '{"models": ["\\uD800"]}' WHERE name = 'surgery'""")
    listed = {each["name"]: bool(each["damaged"]) for each in admin.get("/tenants").json()["data"]}
    assert listed == {"default": False, "radiology": False, "surgery": True}
    for name in ("radiology", "surgery"):
        assert admin.delete(f"/tenants/{name}", **ANY).status_code == 204


GRANT = {
    "asker": {"tenant": "default", "subject": "olga", "key_id": "key_x"},
    "role": "admin",
    "reason": "fire",
    "minutes": 60,
    "asked": "2027-01-31T18:00:00.000000Z",
}


@pytest.mark.parametrize("body", ['{"no": 1}', "{", json.dumps({**GRANT, "asked": "yesterday"})])
def test_a_damaged_grant_is_shown_and_ended(house: House, body: str) -> None:
    """It keeps nobody from asking, is approved by nobody, and goes when an admin ends it; the house is read again then.
    Whose it was, nobody knows any more: neither those who asked nor who may approve end it.
    """
    admin, olga = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.OPERATOR, owner="olga")
    auditor = Desk(house, Role.AUDITOR, owner="aude")
    wish = {"role": "admin", "reason": "fire"}
    grant = olga.post("/break-glass", wish).json()["id"]
    spoil(house, "UPDATE documents SET body = ? WHERE name = ?", body, grant)
    until(lambda: "\nvestry_directory_outdated 1.0\n" in house.get_ops("/metrics").text, what="the metric")
    shown = admin.get(f"/break-glass/{grant}")
    assert (shown.status_code, shown.json()["state"], shown.json()["grant"]) == (200, "damaged", None)
    assert shown.json()["damaged"]
    assert shown.json() in admin.get("/break-glass").json()["data"]
    assert auditor.post(f"/break-glass/{grant}/approve").json()["error"]["code"] == "conflict"
    asked = olga.post("/break-glass", wish)
    assert asked.status_code == 201
    for other in (olga, auditor):
        assert other.post(f"/break-glass/{grant}/end").status_code == 403
    ended = admin.post(f"/break-glass/{grant}/end", {"reason": "by hand"})
    assert (ended.status_code, ended.json()["state"], ended.json()["grant"]) == (200, "ended", None)
    assert admin.get(f"/break-glass/{grant}").status_code == 404
    assert "\nvestry_directory_outdated 0.0\n" in house.get_ops("/metrics").text
    record = house.records("break-glass.end")[-1]
    assert (record["name"], record["reason"], "subject" in record) == (grant, "by hand", False)
    assert olga.post(f"/break-glass/{asked.json()['id']}/end").status_code == 200


def test_why_the_directory_takes_no_change_stands_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Who asked is told that it is unavailable, the operator which database it is and what it says: one that takes no
    more changes, as after a failover to a copy, can be read, and nothing else shows it.
    """
    admin = Desk(house, Role.ADMIN, owner="ada")
    spoil(house, "CREATE TRIGGER full BEFORE INSERT ON documents BEGIN SELECT RAISE(FAIL, 'it is only a copy'); END")
    answer = admin.put("/tenants/research", {})
    spoil(house, "DROP TRIGGER full")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "authentication_unavailable")
    assert "it is only a copy" not in answer.text
    (line,) = [each.message for each in caplog.records if "it is only a copy" in each.message]
    assert (answer.headers["x-request-id"] in line, str(house.settings.keys_database) in line) == (True, True)


def test_a_damaged_tenant_gets_no_keys(house: House) -> None:
    """What its models are nobody knows: 409, and the mend."""
    admin = Desk(house, Role.ADMIN, owner="ada")
    assert admin.put("/tenants/surgery", {}).status_code == 201
    spoil(house, """UPDATE documents SET body = '{"no": 1}' WHERE kind = 'tenant' AND name = 'surgery'""")
    answer = admin.post("/tenants/surgery/keys", {"owner": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert admin.put("/tenants/surgery", {}, if_match="*").status_code == 200
    assert admin.post("/tenants/surgery/keys", {"owner": "x"}).status_code == 201


def test_the_command_line_makes_no_keys_of_a_damaged_tenant(tmp_path: Path) -> None:
    """A sentence, and no traceback."""
    cli = hospital(tmp_path)
    cli.ok("tenants", "set", "surgery")
    with contextlib.closing(sqlite3.connect(cli.state / "keys.sqlite")) as connection, connection:
        connection.execute("UPDATE documents SET body = '[]' WHERE kind = 'tenant'")
    done = cli("keys", "create", "--tenant", "surgery", "--owner", "x", "--model", "scan")
    assert (done.exit_code, "is damaged: have it replaced first" in done.stderr) == (1, True)
