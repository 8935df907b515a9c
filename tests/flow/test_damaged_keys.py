"""Keys that somebody has changed by hand, so that no program can use them: they keep nobody from the others."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.damage import spoil
from support.desk import Desk
from support.directories import postgres_directory
from support.hospital import hospital, recorded
from support.house import PEPPER, House, chat, until
from support.keys import ran
from support.postgres import Postgres, postgres
from vestry.roles import Role

BEYOND = 9 * 10**18
DAMAGED = {
    "a role that there is not": "roles = 'chief'",
    "models that are no JSON": "models = '{'",
    "models without an end": f"models = '{'[' * 20_000}'",
    "models that are none": "models = '[\"a b\"]'",
    "no network": "sources = '[\"300.0.0.1\"]'",
    "an owner without a name": "owner = ''",
    "an owner who is endless": f"owner = '{'x' * 100_000}'",
    "a bound that no key has": "concurrency = 2000000000",
}


class Spoiled:
    """A house on one of the databases, and what somebody does to that by hand."""

    def __init__(self, house: House, server: Postgres | None, database: str) -> None:
        self.house, self._server, self._database = house, server, database

    def change(self, said: str, key_id: str) -> None:
        """Set something of a key."""
        statement = f"UPDATE keys SET {said} WHERE id = '{key_id}'"
        if self._server is None:
            spoil(self.house, statement)
        else:
            self._server.execute(statement, database=self._database)


async def made(server: Postgres, database: str) -> None:
    """The tables."""
    directory = postgres_directory(server, database, pepper=PEPPER)
    await directory.asked(lambda backend: backend.migrate())
    await directory.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def spoiled(
    request: pytest.FixtureRequest, shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spoiled]:
    server, database = None, ""
    store: dict[str, Any] = {}
    if request.param == "postgresql":
        server = postgres()
        database = server.database()
        ran(made(server, database))
        store = {"store": {"url": server.url(database), "user": "vestry"}}
    with House(tmp_path_factory.mktemp("keys"), [shared_engine], **store) as house:
        yield Spoiled(house, server, database)


@pytest.mark.parametrize("said", list(DAMAGED.values()), ids=list(DAMAGED))
def test_a_damaged_key_is_shown_and_revoked_and_the_others_are_listed(
    spoiled: Spoiled, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it once. Its holder gets 503, and 401 once it is revoked; nobody changes, replaces or thaws it, and
    who reaches one tenant does not revoke it. The record says whose it was.
    """
    house = spoiled.house
    admin, tenant_admin = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.TENANT_ADMIN, owner="tina")
    key = admin.post("/tenants/default/keys", {"owner": "odd"}).json()
    place = f"/keys/{key['id']}"

    def call() -> int:
        return house.post(json=chat(), headers={"authorization": f"Bearer {key['secret']}"}).status_code

    assert call() == 200
    spoiled.change(said, key["id"])
    until(lambda: call() == 503, what="the damage")
    assert call() == 503
    (warned,) = [each.message for each in caplog.records if key["id"] in each.message]
    assert f"holds a key that is damaged ({key['id']}: " in warned
    shown = admin.get(place).json()
    assert (shown["state"], shown["spec"], bool(shown["damaged"])) == ("damaged", None, True)
    listed = {each["id"]: each for each in every(admin)}
    assert listed[key["id"]] == shown
    assert listed[admin.key_id]["state"] == "active"
    supposed = {"tenant": "default", "model": "small", "key": key["id"]}
    explained = admin.post("/policy/explain", supposed).json()
    assert (explained["allowed"], explained["status"]) == (False, 503)
    for path, body in (("/freeze", None), ("/rotate", None)):
        assert admin.post(place + path, body).status_code == 409
    assert admin.put(place, {"owner": "odd"}, if_match="*").status_code == 409
    assert tenant_admin.post(place + "/revoke").status_code == 403
    revoked = admin.post(place + "/revoke")
    assert (revoked.status_code, revoked.json()["state"], call()) == (200, "revoked", 401)
    record = house.records("key.revoke")[-1]
    assert (record["key_id"], record["tenant"], record["actor"]) == (key["id"], "default", "ada")


def every(admin: Desk) -> list[dict[str, str]]:
    """All keys, page by page."""
    found, after = list[dict[str, str]](), ""
    while True:
        page = admin.get(f"/keys?limit=100&after={after}").json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = page["next"]


def test_times_beyond_the_calendar_are_the_next_that_there_are(spoiled: Spoiled) -> None:
    """The key is listed and shown, and works until then."""
    admin = Desk(spoiled.house, Role.ADMIN, owner="ada")
    last = "9999-12-31T23:59:59.999999Z"
    spoiled.change(f"created = {BEYOND}, expires = {BEYOND}, last_used = {BEYOND}", admin.key_id)
    shown = admin.get(f"/keys/{admin.key_id}").json()
    assert (shown["state"], shown["spec"]["expires"], shown["created"], shown["last_used"]) == (
        "active",
        last,
        last,
        last,
    )
    assert shown in every(admin)
    key = Desk(spoiled.house, Role.USER, owner="odd")
    spoiled.change(f"expires = {-BEYOND}", key.key_id)
    shown = admin.get(f"/keys/{key.key_id}").json()
    assert (shown["state"], shown["spec"]["expires"]) == ("expired", "1970-01-01T00:00:00.000000Z")
    assert shown in every(admin)


def test_a_damaged_key_keeps_nobody_from_approving_with_a_sound_one(spoiled: Spoiled) -> None:
    """Whose keys the asker has made is asked of all keys, and answered."""
    house = spoiled.house
    olga, aude = Desk(house, Role.OPERATOR, owner="olga"), Desk(house, Role.AUDITOR, owner="aude")
    other = Desk(house, Role.USER, owner="odd")
    spoiled.change("roles = 'chief'", other.key_id)
    asked = olga.post("/break-glass", {"role": "admin", "reason": "fire"}).json()["id"]
    assert aude.post(f"/break-glass/{asked}/approve").status_code == 200
    assert olga.post(f"/break-glass/{asked}/end").status_code == 200


def test_a_text_that_is_no_utf_8_keeps_nobody_out(shared_engine: FakeEngine, tmp_path: Path) -> None:
    """A bit that has flipped in the file: SQLite does not look at it, and nobody else's calls and lists suffer."""
    with House(tmp_path, [shared_engine]) as house:
        admin, other = Desk(house, Role.ADMIN, owner="ada"), Desk(house, Role.USER, owner="odd")
        admin.put("/tenants/radiology", {})
        admin.put("/tenants/default/users/odd", {})
        spoil(house, "UPDATE keys SET owner = CAST(x'6fff64' AS TEXT) WHERE id = ?", other.key_id)
        spoil(house, "UPDATE documents SET name = CAST(x'6fff64' AS TEXT)")
        new = Desk(house, Role.ADMIN, owner="new")
        assert house.post(json=chat(), headers={"authorization": f"Bearer {new.key}"}).status_code == 200
        assert {each["id"] for each in every(new)} >= {admin.key_id, other.key_id, new.key_id}
        assert "o\\xffd" in [each["name"] for each in new.get("/tenants").json()["data"]]
        assert [each["name"] for each in new.get("/tenants/default/users").json()["data"]] == ["o\\xffd"]
        assert new.post(f"/keys/{other.key_id}/revoke").status_code == 200


def test_commands_show_and_revoke_a_damaged_key(tmp_path: Path) -> None:
    """`keys list` has all; `doctor` names it; a file may revoke it, and nothing else; its tenant is removed then."""
    cli = hospital(tmp_path)
    cli.ok("tenants", "set", "surgery")
    for owner in ("odd", "even"):
        cli.ok("keys", "create", "--tenant", "surgery", "--owner", owner)
    ids = {each["owner"]: each["id"] for each in json.loads(cli.ok("keys", "list", "--json"))}
    with contextlib.closing(sqlite3.connect(cli.state / "keys.sqlite")) as connection, connection:
        connection.execute("UPDATE keys SET roles = 'chief' WHERE owner = 'odd'")
    states = {each["owner"]: each["state"] for each in json.loads(cli.ok("keys", "list", "--json"))}
    assert states == {"odd": "damaged", "even": "active"}
    assert "'chief' is not a valid Role" in cli.ok("keys", "show", ids["odd"])
    assert f"damaged: {ids['odd']}" in cli("doctor").stdout
    for state in ("active", "frozen"):
        (tmp_path / "keys.yaml").write_text(f"keys: {{{ids['odd']}: {state}}}\n")
        assert "the key is damaged" in cli("apply", "--file", str(tmp_path / "keys.yaml"), "--yes").output
    (tmp_path / "keys.yaml").write_text(f"keys: {{{ids['odd']}: revoked}}\n")
    cli.ok("apply", "--file", str(tmp_path / "keys.yaml"), "--yes")
    assert recorded(cli, "key.revoke")[-1]["key_id"] == ids["odd"]
    assert "was revoked before" in cli.ok("keys", "revoke", ids["odd"])
    cli.ok("keys", "revoke", ids["even"])
    cli.ok("tenants", "remove", "surgery")
