"""docs/audit.md, "Restoring a copy": what is said there of an older copy of the record is what happens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from fakes.engine import FakeEngine
from support.cli import Cli
from support.house import House, chat
from vestry.audit.scan import LogDamaged

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def other_names() -> dict[str, str]:
    """The names that the page gives to the logs that go on beside the old ones."""
    [block] = re.findall(r"## Restoring a copy.*?```yaml\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, str] = yaml.safe_load(block)["audit"]
    return names


def test_the_commands_go_on_beside_a_log_that_is_older_than_its_outside_copy(tmp_path: Path) -> None:
    """They are refused, with the setting that mends it; under the page's name they work. The old log verifies, but not
    against the outside checkpoint.
    """
    (tmp_path / "vault").mkdir()
    cli, audit = Cli(tmp_path / "state"), tmp_path / "state" / "audit"
    cli.variables["VESTRY_AUDIT__COPIES"] = f"[{{kind: directory, name: vault, path: {tmp_path / 'vault'}}}]"
    cli.ok("audit", "init", "--name", "house.test/vestry")
    cli.ok("keys", "create", "--owner", "a")
    shutil.copytree(audit, tmp_path / "backup")
    cli.ok("keys", "create", "--owner", "b")
    shutil.rmtree(audit)
    shutil.copytree(tmp_path / "backup", audit)
    refused = cli("keys", "create", "--owner", "c")
    assert refused.exit_code == 1
    assert "was rolled back or cut off" in refused.stderr
    assert "`audit.commands`" in refused.stderr
    cli.ok("keys", "create", "--owner", "c", VESTRY_AUDIT__COMMANDS=other_names()["commands"])
    (tmp_path / "house.pub").write_text(cli.ok("audit", "public-key"))
    verify = ("audit", "verify", str(audit), "--public-key", str(tmp_path / "house.pub"))
    assert cli(*verify).exit_code == 0
    outside = cli(*verify, "--checkpoint", str(tmp_path / "vault/cli/latest"))
    assert (outside.exit_code, "FAILED [rolled-back] cli" in outside.stdout) == (1, True)


def test_the_server_goes_on_beside_a_log_that_is_older_than_its_outside_copy(tmp_path: Path) -> None:
    """It does not start with the old log; under the page's names it serves."""
    (tmp_path / "vault").mkdir()
    copies = [{"kind": "directory", "name": "vault", "path": str(tmp_path / "vault")}]
    state, audit = tmp_path / "state", tmp_path / "state" / "audit"
    with FakeEngine() as engine:
        with House(state, [engine], audit={"copies": copies}):
            pass
        shutil.copytree(audit, tmp_path / "backup")
        with House(state, [engine], audit={"copies": copies}) as house:
            assert house.post(json=chat()).status_code == 200
        shutil.rmtree(audit)
        shutil.copytree(tmp_path / "backup", audit)
        with pytest.raises(LogDamaged, match=r"`audit\.origin`"), House(state, [engine], audit={"copies": copies}):
            pass
        with House(state, [engine], audit={"copies": copies, **other_names()}) as house:
            assert house.post(json=chat()).status_code == 200
            assert [each["type"] for each in house.records()][-2:] == ["intent", "outcome"]
