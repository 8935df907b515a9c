"""`vestry up` as a person uses it: real processes, a fake engine behind them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engines import SMALL
from support.processes import eventually, number_in
from support.workbench import Desk, runs, sat_at
from vestry.models import catalog, children, environment
from vestry.models.catalog import ModelError


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk of this test's own."""
    yield from sat_at(tmp_path)


def ask(desk: Desk, key: str) -> subprocess.CompletedProcess[str]:
    """Run the printed `curl` line in a shell that has the printed key."""
    line = next(line for line in (desk.folder / "out").read_text().splitlines() if line.startswith("curl "))
    environ = {**desk.environ, "VESTRY_API_KEY": key}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, env=environ, check=True)


def test_up_serves_and_the_printed_line_answers(desk: Desk) -> None:
    """`vestry up` prints a key and a `curl` line that works when pasted; SIGTERM ends all of it with status 0."""
    running = desk.start("up")
    key = running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1]
    running.until("curl ")
    answer = json.loads(ask(desk, key).stdout)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    steps = re.findall(r"^\[(\d)/4\] [a-zA-Z ]+$", running.err.read_text(), re.MULTILINE)
    assert steps == ["1", "2", "3", "4"]
    assert (desk.state / "up-key").stat().st_mode & 0o777 == 0o600
    assert running.stop() == 0
    assert desk.processes() == []
    told = running.err.read_text()
    assert told.index("server: stopped") < told.index(f"engine {SMALL}: stopped") < told.index("Stopped.")


def test_up_again_gives_the_same_key_unless_it_was_revoked(desk: Desk) -> None:
    """The key of an earlier run is printed again as long as it works; a revoked one is replaced."""
    keys = []
    for _ in range(2):
        running = desk.start("up")
        keys.append(running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1])
        assert running.stop(signal.SIGINT) == 0
    assert keys[0] == keys[1]
    (held,) = json.loads(desk.run("keys", "list", "--json").stdout)
    desk.run("keys", "revoke", held["id"])
    running = desk.start("up")
    assert running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1] != keys[0]
    assert running.stop() == 0


def test_up_is_killed_without_remains(desk: Desk) -> None:
    """After kill -9 of `vestry up` neither server nor engine is left."""
    running = desk.start("up")
    running.until("export VESTRY_API_KEY=")
    assert len(desk.processes()) > 2
    running.process.kill()
    running.process.wait()
    eventually(lambda: desk.processes() == [])


def test_up_brings_a_killed_server_back(desk: Desk) -> None:
    """A server that is killed is started again by `vestry up`, with the same key."""
    running = desk.start("up")
    key = running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1]
    running.until("curl ")
    server = next(pid for pid in desk.processes() if runs(pid, "-m vestry", " serve"))
    os.kill(server, signal.SIGKILL)
    running.until(r"(?s)server: backing off.*server: ready")
    assert "Paris" in ask(desk, key).stdout
    assert running.stop() == 0
    assert desk.processes() == []


def test_a_second_up_is_refused(desk: Desk) -> None:
    """While one prepares and no port is taken yet, another of the same state directory ends with a sentence."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {desk.folder}/busy\nexec sleep 600\n")
    (desk.places.model(catalog.entry(SMALL)) / "model.safetensors").unlink()
    running = desk.start("up")
    number_in(desk.folder / "busy")
    said = desk.run("up", status=1).stderr
    assert f"Another `vestry up` is running for the state directory {desk.state}." in said
    assert running.process.poll() is None
    assert running.stop() == 130


@pytest.mark.parametrize("lock", [".engine.lock", "models/.lock"])
def test_whom_up_waits_for_is_said(desk: Desk, lock: str) -> None:
    """While `make test`, say, makes engine or model, `vestry up` says that it waits, and goes on afterwards."""
    with (desk.state / lock).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        running = desk.start("up")
        running.until("waiting for another run to finish")
    running.until("export VESTRY_API_KEY=")
    assert running.stop() == 0


def test_a_port_that_was_taken_meanwhile_is_named(desk: Desk) -> None:
    """Ports are looked at once more when all is prepared: nobody else's server is taken for this one's."""
    python = desk.state / "engine" / "bin" / "python"
    busy, go = desk.folder / "busy", desk.folder / "go"
    told = f"print(1, file=open({str(busy)!r}, 'w'), flush=True)\n"
    waiting = f"{told}import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
    python.write_text(python.read_text().replace("script, rest =", f"{waiting}script, rest ="))
    (desk.places.model(catalog.entry(SMALL)) / "model.safetensors").unlink()
    running = desk.start("up")
    number_in(busy)
    with socket.create_server(("127.0.0.1", desk.ops)):
        go.touch()
        assert running.process.wait(60) == 1
    assert f"Port {desk.ops} on 127.0.0.1, for the operations endpoints, is in use" in running.said()
    assert "server: " not in running.said()


@pytest.mark.parametrize("hosts", [["llm.hospital.example", "other.example"], ["llm.hospital.example", "127.0.0.1"]])
def test_the_printed_line_works_where_hosts_are_restricted(desk: Desk, hosts: list[str]) -> None:
    """It names a host that is answered, unless the address that it calls is one."""
    settings = json.loads(desk.config.read_text())
    settings["server"]["allowed_hosts"] = hosts
    desk.config.write_text(json.dumps(settings))
    running = desk.start("up")
    key = running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1]
    line = running.until("curl .*")[0]
    assert ('-H "Host: llm.hospital.example"' in line) == ("127.0.0.1" not in hosts)
    assert "Paris" in ask(desk, key).stdout
    assert running.stop() == 0


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_the_printed_line_works_beside_a_proxy(desk: Desk, name: str) -> None:
    """The question goes to the server, not to the proxy of who asks, which is not there and is not to have the key."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        desk.environ[name] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        running = desk.start("up")
        key = running.until(r"export VESTRY_API_KEY=(vst_\S+)")[1]
        running.until("curl ")
        assert "Paris" in ask(desk, key).stdout
        assert running.stop() == 0


def test_up_says_why_a_model_cannot_be_prepared(desk: Desk) -> None:
    """A script that fails ends `vestry up` with status 1, its last words and the name of the log."""
    (desk.state / "fail").touch()
    model = desk.places.model(catalog.entry(SMALL))
    (model / "model.safetensors").unlink()
    said = desk.run("up", status=1).stderr
    assert "the last words of convert.py" in said
    assert f"prepare-{SMALL}.log" in said
    assert desk.processes() == []


def test_a_full_disk_is_told_with_its_place(desk: Desk) -> None:
    """What a program says of it is shown though the log of it has no room either, and where there is how much left."""
    (desk.state / "engine" / "bin" / "python").write_text("#!/bin/sh\necho No space left on device\nexit 3\n")
    (desk.places.model(catalog.entry(SMALL)) / "model.safetensors").unlink()
    desk.places.logs.mkdir()
    (desk.places.logs / f"prepare-{SMALL}.log").symlink_to("/dev/full")
    said = desk.run("up", status=1).stderr
    assert "failed (exit status 3" in said
    assert re.search(rf"There are [0-9.]+ GiB at {desk.places.logs} and [0-9.]+ GiB at \S+ left", said)


def test_full_disks_are_told_where_no_place_for_temporary_files_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with one disk: Python finds none then; and what the program said is shown all the same."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ModelError, match=rf"(?s)failed \(exit status 3.*No space left.* GiB at {tmp_path} left"):
        children.run("it", ["sh", "-c", "echo No space left on device; exit 3"], {}, tmp_path / "logs" / "log")


def test_up_needs_known_ports(desk: Desk) -> None:
    """A port that is only known later could not be printed."""
    desk.environ["VESTRY_SERVER__OPS_PORT"] = "0"
    assert "`server.ops_port` is 0" in desk.run("up", status=1).stderr


def test_faulty_settings_are_named_before_anything_starts(desk: Desk) -> None:
    """Settings that `vestry check` refuses are refused by `vestry up` as well, with status 2."""
    desk.environ["VESTRY_SERVER__OPS_PORT"] = str(desk.engine)
    assert f"port {desk.engine} is also that of" in desk.run("up", status=2).stderr
    assert not (desk.state / "up-key").exists()


@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        ({SMALL: {"engine": {"arguments": ["--trust-remote-code"]}}}, 2, "`--trust-remote-code` is refused"),
        ({SMALL: {"engine": {"host": "8.8.8.8"}}}, 2, "loopback or private address only"),
        ({"triage": {"replicas": [{"url": "http://10.0.0.1:8000"}]}}, 2, "the catalog has no entry `triage`"),
        ({"phi-3-mini-4k-instruct": {}}, 1, "Copy microsoft/Phi-3-mini-4k-instruct"),
        ({SMALL: {"path": "/nonexistent"}}, 1, f"or look at `models.{SMALL}.path`."),
    ],
)
def test_what_would_fail_later_is_said_before_the_engine_is_installed(
    desk: Desk, models: dict[str, Any], status: int, said: str
) -> None:
    """No gigabytes are fetched for a model that cannot be started, and no server is started that would refuse it."""
    (desk.state / "engine" / environment.STAMP).unlink()
    desk.config.write_text(json.dumps({**json.loads(desk.config.read_text()), "models": models}))
    told = desk.run("up", status=status).stderr
    assert said in told
    assert "engine environment" not in told
    assert "server: starting" not in told


def test_up_can_be_interrupted_while_it_prepares(desk: Desk) -> None:
    """SIGTERM during a long step ends the step's program too, with a sentence and status 130."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {desk.folder}/busy\nexec sleep 600\n")
    (desk.places.model(catalog.entry(SMALL)) / "model.safetensors").unlink()
    running = desk.start("up")
    eventually((desk.folder / "busy").exists, 30)
    began = time.monotonic()
    assert running.stop() == 130
    assert time.monotonic() - began < 10
    assert "Interrupted. Run it again to go on." in running.said()
    assert desk.processes() == []


def test_up_can_be_interrupted_while_pip_waits(desk: Desk) -> None:
    """SIGTERM while pip asks a registry that does not answer: neither it nor the pip below it goes on."""
    (desk.state / "engine" / environment.STAMP).unlink()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        for name in [name for name in desk.environ if name.startswith("PIP_")]:
            del desk.environ[name]
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        desk.environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address}
        running = desk.start("up")
        silent.accept()[0].close()
        assert running.stop() == 130
    assert desk.processes() == []
