"""The alert rules: promtool accepts them, its unit tests pass, and they speak of metrics and pages that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "alerts.yaml"
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")])
def test_promtool(command: tuple[str, ...]) -> None:
    """The rules are well-formed, and fire when they should and only then."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed: apt-get install the packages of deploy/test-packages.txt"
    done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_leads_to_a_page() -> None:
    """Each has a test, a severity, documented metrics, and a runbook: a page, and a heading of it."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    tested = re.findall(r"alertname: (\w+)", (FOLDER / "alerts.test.yaml").read_text())
    documented = set(re.findall(r"^\| `(\w+)` \|", REFERENCE.read_text(), re.MULTILINE))
    assert rules
    for rule in rules:
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(re.findall(r"vestry_\w+", rule["expr"])) <= documented
        page, heading = re.fullmatch(r'([\w/.-]+), "(.+)"', rule["annotations"]["runbook"]).groups()  # type: ignore[union-attr]
        assert f"## {heading}\n" in (ROOT / page).read_text()
