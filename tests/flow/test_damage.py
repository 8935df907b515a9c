"""What somebody has changed by hand in the directory, so that no program can use it: it stops nothing, and is told."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House, until
from vestry.roles import Role


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


def spoil(house: House, statement: str, *values: str) -> None:
    """Change the file, as another program does."""
    with contextlib.closing(sqlite3.connect(house.settings.keys_database)) as connection, connection:
        connection.execute(statement, values)


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
    house = House(tmp_path, [engine], wait=False)
    house._key = key
    with house:
        assert house.get("/v1/models").json()["error"]["code"] == "authentication_unavailable"
        assert house.get_ops("/readyz").json()["missing"]["keys"].startswith("what the key store holds")
        spoil(house, "DELETE FROM documents WHERE kind = 'project'")
        until(lambda: house.get("/v1/models").status_code == 200, what="the house")
