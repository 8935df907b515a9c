"""What the page on tenants shows is taken as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.cli import Cli
from vestry.roles import Role

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tenants.md").read_text(encoding="utf-8")


def test_the_file_and_the_commands_work(tmp_path: Path) -> None:
    """The file on the page, with the id of a key that there is, is found different (3), applied (0), found done (0);
    the commands above it work on what it has made.
    """
    cli = Cli(tmp_path / "state")
    cli.variables["VESTRY_TENANTS"] = "{radiology: {}}"
    cli.ok("audit", "init")
    key = json.loads(cli.ok("keys", "create", "--owner", "night-batch", "--json"))["id"]
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "tenants.yaml"
    file.write_text(text.replace("key_8CzYx2m1QkT0bW4E", key))
    assert cli("apply", "--file", str(file), "--dry-run").exit_code == 3
    assert cli("apply", "--file", str(file)).exit_code == 0
    assert cli("apply", "--file", str(file), "--dry-run", "--prune").exit_code == 0
    commands = re.findall(r"^vestry (?:tenants|projects|users) [^>|\n]*$", PAGE, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        cli.ok(*command.split()[1:])
    assert json.loads(cli.ok("keys", "show", key, "--json"))["state"] == "frozen"


def test_the_states_of_keys_are_named() -> None:
    """Every state that a list shows, and the role that the example gives."""
    for state in ("active", "frozen", "expired", "revoked", "no-tenant"):
        assert f"`{state}`" in PAGE
    assert Role.TENANT_ADMIN.value in PAGE
