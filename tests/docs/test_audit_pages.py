"""What pages for auditors would have them type and run: on a copy of a server's record."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support.audit_logs import House, calls
from support.cli import Cli, clean
from support.office import CANARY, WORDS, Office
from support.server import ROOT


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A server that keeps content, and runs."""
    with FakeEngine() as engine:
        engine.behave(words=WORDS)
        office = Office(tmp_path, engine)
        with office.server:
            office.server.start()
            yield office


def block(page: str, language: str, heading: str) -> str:
    """The first block of a page in this language below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {heading}\n.*?^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_kept_content_opens_by_its_page_alone(office: Office) -> None:
    """The page's own program opens what was sealed and what is plain, and refuses what was changed or erased."""
    code = block("audit-formats.md", "python", "Kept content")
    assert "vestry." not in code.replace('"vestry', "")
    names: dict[str, object] = {}
    exec(compile(code, "audit-formats.md", "exec"), names)
    opened, key = names["opened"], office.key.read_text()
    assert callable(opened)
    calls = {office.ask(), office.complete()}
    records = [each for each in office.server.records() if each.get("request_id") in calls]
    assert len(records) == 4
    for record in records:
        assert CANARY.encode() in opened(office.audit / "server", record, key)
        other = {**record, "content": {**record["content"], "size": 1}}
        with pytest.raises(AssertionError, match="another division"):
            opened(office.audit / "server", other, key)
    assert office.erase("--subject", "tester").exit_code == 0
    with pytest.raises(AssertionError, match="erased"):
        opened(office.audit / "server", records[0], key)


def test_auditors_questions_are_answered(office: Office, tmp_path: Path) -> None:
    """Who read, what was asked and answered, what is left, which rule, and what the rules were."""
    (tmp_path / "rules.yaml").write_text("rules:\n  - {name: short, max_tokens: 77}\n")
    office.cli.ok("policy", "set", "--file", str(tmp_path / "rules.yaml"))
    call, _ = office.ask(), office.ask_as("gone")
    intent = next(each for each in office.server.records("intent") if each["request_id"] == call)
    assert office.erase("--subject", "gone").exit_code == 0
    copy = shutil.copytree(office.audit, tmp_path / "copy")
    lines = block("audit-export.md", "sh", "Questions that auditors ask")
    given = {"copy": copy, "private": office.key, "subject": "tester", "application": intent["key_id"], "call": call}
    lines = lines.replace("2027-05-01", "2020-01-01").replace("2027-06-01", "2100-01-01")
    lines = re.sub(r"^(copy|subject)=.*\n", "", lines, flags=re.MULTILINE)
    environ = {
        **clean(os.environ),
        **{name: str(value) for name, value in given.items()},
        "when": "2100-01-01",
        "PATH": f"{_tools(tmp_path)}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "server"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    parts = [each for each in re.split(r"^# .*\n", lines, flags=re.MULTILINE) if each.strip()]
    reads, calls, left, why, rules = (_run(each, environ) for each in parts)
    assert "content.erase" in reads
    assert (calls.count(f"Say {CANARY}"), calls.count("verified against")) == (1, 2)
    assert CANARY in left
    assert _run(parts[2], {**environ, "subject": "gone"}) == ""
    assert f'"rule": "{intent["rule"]}"' in why
    assert intent["configuration_digest"] in why
    assert '"max_tokens": 77' in rules


def test_a_proof_is_held_against_a_copy(tmp_path: Path) -> None:
    """Its checkpoint, taken out as the page says, is one that the log continues; that of another history is not."""
    lines = re.findall(r"```sh\n(sed .*?)```", (ROOT / "docs/audit-verify.md").read_text("utf-8"), re.DOTALL)
    assert len(lines) == 1
    house, other = House(tmp_path / "copy" / "audit"), House(tmp_path / "other")
    house.log("server", 1100)
    other.log("server").add(list(calls(1101))[1:]).checkpoint()
    (tmp_path / "house.pub").write_text(f"{house.key}\n")
    for made, status in ((house, 0), (other, 1)):
        proof = Cli(tmp_path / "state").ok(
            "audit", "prove", "1024", "--directory", str(made.directory), "--output", "-"
        )
        (tmp_path / "server-1024.tlog-proof").write_text(proof)
        environ = {**clean(os.environ), "PATH": f"{_tools(tmp_path)}:{os.environ['PATH']}"}
        environ["PYTHONPATH"] = str(ROOT / "server")
        done = subprocess.run(["bash", "-ec", lines[0]], cwd=tmp_path, env=environ, capture_output=True, check=False)
        assert done.returncode == status, done.stderr


def _tools(folder: Path) -> Path:
    """A folder for the search path, with `vestry` in it."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "vestry").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vestry "$@"\n')
    (tools / "vestry").chmod(0o700)
    return tools


def _run(lines: str, environ: dict[str, str]) -> str:
    done = subprocess.run(["bash", "-c", lines], env=environ, capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr, done.stderr
    return done.stdout
