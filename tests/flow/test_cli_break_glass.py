"""`vestry break-glass`: the command line looks at grants and ends them, and can neither ask nor approve."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

from click.testing import CliRunner

from fakes.engine import FakeEngine
from support.desk import Desk
from support.house import until
from support.server import ServerProcess
from vestry.cli import main
from vestry.roles import Role


def test_the_command_line_lists_and_ends(tmp_path: Path) -> None:
    """It shows who has which role lent and ends it: recorded in its own log, and the running server goes by it. What is
    damaged is shown, and goes.
    """
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        server.start()
        run = CliRunner().invoke

        def vestry(*arguments: str) -> tuple[int, str]:
            done = run(main, ["--config", str(server.config), "break-glass", *arguments])
            return done.exit_code, done.output

        assert vestry("list") == (0, "Nobody has asked for a role.\n")
        olga, aude = Desk(server, Role.OPERATOR, owner="olga"), Desk(server, Role.AUDITOR, owner="aude")
        grant = olga.post("/break-glass", {"role": "admin", "reason": "fire"}).json()["id"]
        assert aude.post(f"/break-glass/{grant}/approve").status_code == 200
        assert olga.put("/tenants/default/projects/p", {}).status_code == 201
        status, table = vestry("list")
        assert (status, table.splitlines()[1].split()[:6]) == (0, [grant, "active", "admin", "default", "olga", "aude"])
        (row,) = json.loads(vestry("list", "--json")[1])
        assert (row["id"], row["reason"], row["approver"]["subject"]) == (grant, "fire", "aude")
        assert vestry("end", grant, "--reason", "unknown") == (0, f"{grant}: ended\n")
        assert vestry("end", grant) == (0, f"{grant}: is ended already\n")
        assert vestry("end", "bgl_none")[0] == 1
        assert vestry("ask", "--role", "admin")[0] == 2
        assert vestry("approve", grant)[0] == 2
        _gone(olga)
        asked = olga.post("/break-glass", {"role": "admin", "reason": "fire"}).json()["id"]
        with contextlib.closing(sqlite3.connect(server.settings.keys_database)) as connection, connection:
            connection.execute("UPDATE documents SET body = '[]' WHERE name = ?", (asked,))
        (line,) = [each.split() for each in vestry("list")[1].splitlines() if asked in each]
        assert line[:6] == [asked, "damaged", "-", "-", "-", "-"]
        assert "damaged" in next(each for each in json.loads(vestry("list", "--json")[1]) if each["id"] == asked)
        assert vestry("end", asked) == (0, f"{asked}: ended\n")
        assert vestry("end", asked)[0] == 1
        server.stop()


def _gone(olga: Desk) -> None:
    until(lambda: olga.get("/whoami").json()["roles"] == ["operator"], what="the end of the grant")
