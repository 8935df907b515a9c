"""The page on the administration: what it tells to type, typed in order into a shell, is answered as it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import House
from vestry.roles import Role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "administration.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STATUS = 'alias admin=\'curl -o /dev/null -w "%{http_code}\\n"'  # beside what the page has, so that it says how it went


def typed(house: House, key: str, lines: str) -> list[str]:
    """The statuses of the requests in these lines, after those that the page begins with."""
    _made, *head = SHELL[0].replace("http://127.0.0.1:8082", house.admin).replace("vst_...", key).splitlines()
    begun = "\n".join(["shopt -s expand_aliases", *head[:-1]]).replace("alias admin='curl", STATUS)
    done = subprocess.run(["bash", "-ec", f"{begun}\n{lines}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_commands_of_the_page_in_order(tmp_path: Path) -> None:
    """Tenants, keys and policy are made and changed by an administrator, records are read by an auditor."""
    beginning, tenants, keys, policy, records = SHELL
    assert beginning.startswith("vestry keys create ")
    with FakeEngine() as engine, House(tmp_path, [engine]) as house:
        admin = Desk(house, Role.ADMIN)
        new, changes = tenants.split("VERSION=2")
        assert typed(house, admin.key, new) == ["201"]
        version = admin.get("/tenants/radiology").json()["version"]
        assert typed(house, admin.key, f"VERSION={version}{changes}") == ["200", "201", "201", "200"]
        new, changes = keys.split("admin -X POST", 1)
        assert typed(house, admin.key, new) == ["201"]
        [made] = admin.get("/tenants/radiology/keys").json()["data"]
        assert typed(house, admin.key, f"admin -X POST{changes}".replace("key_...", made["id"])) == [
            "200",
            "201",
            "200",
        ]
        assert typed(house, admin.key, policy) == ["200", "201", "200"]
        assert typed(house, Desk(house, Role.AUDITOR).key, records) == ["200"]
