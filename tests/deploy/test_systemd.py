"""The units for systemd: valid, with few rights, and in step with settings, program and the page that installs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import httpx
import pytest

from fakes.engine import FakeEngine
from support.cli import clean
from support.house import PLAIN, chat, until
from support.server import ServerProcess
from vestry import open_files
from vestry.cli import main
from vestry.commands.unusable import Unusable
from vestry.configuration.reading import load
from vestry.settings.tree import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "install-systemd.md"
SERVER, ENGINE = (ROOT / "deploy" / "systemd" / name for name in ("vestry.service", "vestry-engine@.service"))
UNITS = pytest.mark.parametrize("unit", [SERVER, ENGINE], ids=lambda unit: unit.name)
PROGRAM = "/opt/vestry/bin/vestry"


def service(text: str) -> dict[str, list[str]]:
    """What a unit's text says of its service: each option, and what it was given, one after the other."""
    found: dict[str, list[str]] = {}
    for line in text.partition("[Service]\n")[2].partition("\n[")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def shown(language: str) -> list[str]:
    """The page's blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def settings_of(folder: Path) -> Settings:
    """What the server reads where the page was followed."""
    [block] = shown("yaml")
    (folder / "vestry.yaml").write_text(block)
    return load(folder / "vestry.yaml", {})


def analyzed(*arguments: str | Path) -> str:
    """What systemd-analyze says; it must be content."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd is not installed: apt-get install the packages of deploy/test-packages.txt"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@UNITS
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    """systemd knows every option; nothing is said against any value."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    assert analyzed("verify", copy) == ""


@pytest.mark.parametrize(("unit", "most"), [(SERVER, 15), (ENGINE, 40)], ids=["server", "engine"])
def test_its_rights_are_few(unit: Path, most: int) -> None:
    """By systemd's own count of what a service may do, of 100."""
    analyzed("security", "--offline=true", f"--threshold={most}", unit)


@UNITS
def test_it_starts_and_stops_as_the_program_does(unit: Path, tmp_path: Path) -> None:
    """Its command is one; it reads and writes where the page's settings have it; a stop has as long as it needs; and no
    fault of the settings is tried again.
    """
    read = service(unit.read_text())
    [command] = read["ExecStart"]
    program, name, *rest = command.split()
    assert program == PROGRAM
    assert f"sudo /usr/bin/python3 -m venv {Path(PROGRAM).parents[1]}\n" in PAGE.read_text()
    assert name in main.list_commands(None)  # type: ignore[arg-type]
    assert rest == (["%i"] if unit == ENGINE else [])
    settings = settings_of(tmp_path)
    assert read["StateDirectory"] == [str(settings.state.relative_to("/var/lib"))]
    assert settings.state == Path(read["WorkingDirectory"][0])
    config = dict(each.split("=") for each in read["Environment"][0].split())["VESTRY_CONFIG"]
    assert f"`{config}`" in PAGE.read_text()
    [model] = settings.models.values()
    wanted = model.engine.shutdown_seconds if unit == ENGINE else settings.server.drain_seconds
    assert int(read["TimeoutStopSec"][0]) >= wanted + 15
    assert read["RestartPreventExitStatus"] == [str(Unusable.exit_code)]
    assert "LimitNOFILE" not in read
    assert open_files.wanted(settings) < 524_288, "systemd's own hard limit, up to which the server takes what it wants"


def test_the_commands_shown_install_what_the_units_name() -> None:
    """State and secrets are where units and settings have them, for the units' user and group; what a reader may change
    are options of a service.
    """
    commands = "\n".join(shown("sh"))
    read = service(SERVER.read_text())
    [user], [group] = read["User"], read["Group"]
    assert f"useradd --system --home-dir /var/lib/vestry --shell /usr/sbin/nologin {user}\n" in commands
    assert f"--mode {read['StateDirectoryMode'][0]} --owner {user} --group {group} /var/lib/vestry\n" in commands
    for name in ("key-hash", "engine-key", "audit-key"):
        assert f"install --mode 0440 --group {group} /dev/stdin /etc/vestry/secrets/{name}\n" in commands
    for unit in (SERVER, ENGINE):
        assert str(unit.relative_to(ROOT)) in commands
        assert service(unit.read_text())["User"] == [user]
    [changes] = shown("ini")
    assert {"ReadWritePaths", "TimeoutStopSec"} < service(changes).keys()


def test_an_upgrade_begins_with_what_runs_at_an_end() -> None:
    """Step 4, with which it ends, leaves a service that runs as it is: so that is stopped before."""
    [upgrade] = re.findall(r"^.*Upgrade: .*?\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert "enable --now vestry-engine@phi-3-mini vestry" in "\n".join(shown("sh"))
    assert upgrade.index("`sudo systemctl stop vestry 'vestry-engine@*'`") < upgrade.index("then steps 1 and 4")


def test_wheels_from_elsewhere_are_those_of_this_machines_python() -> None:
    """The commands that the page leads to fetch those of the image's Python, which this machine's need not be."""
    commands = (ROOT / "docs" / "install-helm.md").read_text()
    [fetched] = re.findall(r"pip download .* --python-version ([\d.]+)", commands)
    assert f"ARG BASE=python:{fetched}-" in (ROOT / "Dockerfile").read_text()
    [told] = re.findall(r"^On a machine without a network, .*?\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert "`--python-version`" in told


@cache
def calls_of(name: str) -> frozenset[str]:
    """The system calls in one of systemd's sets, and in the sets that it is made of."""
    named = [line.strip() for line in analyzed("syscall-filter", name).splitlines()[1:]]
    found = {each for each in named if each and each[0] not in "@#"}
    return frozenset(found.union(*(calls_of(each) for each in named if each.startswith("@"))))


def allowed() -> set[str]:
    """The system calls that the server's unit leaves it."""
    found: set[str] = set()
    for line in service(SERVER.read_text())["SystemCallFilter"]:
        sets = line.removeprefix("~").split()
        calls = {call for each in sets for call in (calls_of(each) if each.startswith("@") else {each})}
        found = found - calls if line.startswith("~") else found | calls
    return found


def test_an_engine_may_open_the_gpus_devices() -> None:
    """No option bars devices, as ProtectClock does before systemd 252: what sets the clock is barred as a call."""
    read = service(ENGINE.read_text())
    assert not read.keys() & {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"}
    assert read["SystemCallFilter"] == ["~@clock"]
    assert {"clock_settime", "settimeofday"} < calls_of("@clock")


BARRED = """
import ctypes, os, sys
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65
libc = ctypes.CDLL(None)
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # older kernels know nothing of it
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_server_asks_for_no_system_call_that_its_unit_keeps_from_it(tmp_path: Path) -> None:
    """It starts, serves and stops without any other, and without memory that is written and run."""
    calls = tmp_path / "calls"
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine]) as server:
        program = [sys.executable, "-m", "vestry", "--config", str(server.config), "serve"]
        strace = shutil.which("strace")
        assert strace, "strace is not installed: apt-get install the packages of deploy/test-packages.txt"
        traced = [sys.executable, "-c", BARRED, strace, "-f", "-qq", "-o", str(calls), *program]
        environ = {**clean(os.environ), "PYTHONPATH": str(ROOT / "server")}
        note = server.state / "server.json"
        with subprocess.Popen(traced, env=environ) as process:
            until(lambda: note.exists() or process.poll() is not None, seconds=60, what="the traced server")
            told = json.loads(note.read_text())
            server.url = told["api"]
            with server.client() as client:
                answers = [client.post("/v1/chat/completions", json=chat(stream=each)) for each in (False, True)]
            answers.append(httpx.get(told["ops"] + "/metrics", verify=PLAIN))
            os.kill(told["pid"], signal.SIGTERM)
            assert process.wait(20) == 0
        assert [each.status_code for each in answers] == [200] * 3
    asked = set(re.findall(r"^\d+ +(\w+)\(", calls.read_text(), re.MULTILINE))
    assert "fdatasync" in asked
    assert asked - allowed() - {"fchown"} == set(), "(SQLite asks for `fchown` of root alone)"
    assert not {"mount", "reboot", "ptrace", "setuid"} & allowed()
