"""Content that is to be kept, and the key is not there that it takes: whose it is, and what mends it, is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House, chat
from vestry.audit.content.sealing import new_private
from vestry.roles import Role

_, PUBLIC = new_private()


def test_tenants_of_the_directory_without_their_key_are_told_of_once(
    tmp_path: Path, shared_engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys were there when the tenants were made, and are gone now, an auditor's and that of hashes: the calls of
    these tenants alone are refused, and the log says whose, why and what mends it, in a line and not for each call.
    """
    with House(tmp_path / "state", [shared_engine], audit={"auditor": str(PUBLIC)}) as house:
        admin = Desk(house, Role.ADMIN)
        for tenant, mode in [("trial", "sealed"), ("ward", "hashed")]:
            made = admin.put(f"/tenants/{tenant}", {"content": {"default": mode}})
            assert made.status_code == 201, made.text
        bearer = {"authorization": f"Bearer {house.new_key(tenant='ward')}"}
        assert house.post(json=chat(), headers=bearer).status_code == 200
        (house.settings.secrets_directory / "content-hash").unlink()
    with House(tmp_path / "state", [shared_engine]) as house:
        for tenant in ("trial", "ward"):
            bearer = {"authorization": f"Bearer {house.new_key(tenant=tenant)}"}
            assert {house.post(json=chat(), headers=bearer).status_code for _ in range(3)} == {503}
        assert house.post(json=chat()).status_code == 200
    sealed, hashed = [each for each in caplog.records if "kept" in each.message and each.name == "vestry.audit"]
    assert "`trial`" in sealed.message
    assert "`audit.auditor`" in sealed.message
    assert "content-hash" in hashed.message
    assert (sealed.exc_info, hashed.exc_info) == (None, None)
