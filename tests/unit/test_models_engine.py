"""`vestry engine` as a person uses it: real processes, a fake engine behind them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engines import SMALL
from support.processes import eventually
from support.workbench import Desk, runs, sat_at
from vestry.models import catalog


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk of this test's own."""
    yield from sat_at(tmp_path)


def test_the_catalog_is_listed(desk: Desk) -> None:
    """`--list` prints one line an entry, with family, size and licence."""
    lines = desk.run("engine", "--list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "FAMILY", "QUANTIZED", "CONTEXT", "WEIGHTS", "GPU", "RUNS", "ON", "LICENCE"]
    assert [line.split()[0] for line in lines[1:]] == list(catalog.entries())
    assert "Meta Llama 3 Community License" in lines[3]


def test_the_printed_command_can_be_pasted(desk: Desk) -> None:
    """`--print` gives a shell command without any secret in it; the shell reads the key from its file."""
    printed = desk.run("engine", SMALL, "--print").stdout
    assert not (desk.state / "secrets").exists()
    words = shlex.split(printed.replace("\\\n", " "))
    assert words[:2] == ["env", "-i"]
    assert f"VLLM_API_KEY=$(cat {desk.state}/secrets/engine-key)" in words
    assert words[words.index("--port") + 1] == str(desk.engine)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("engine",), "Name a model"),
        (("engine", "gpt-9"), "There is no model `gpt-9`, neither in the settings nor in the catalog"),
        (("engine", "phi-3-mini-4k-instruct"), "Copy microsoft/Phi-3-mini-4k-instruct"),
        (("engine", "mixtral-8x7b-instruct"), "needs a GPU with 80 GiB"),
        (("engine", SMALL, "--loud"), "No such option"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    """A wrong name, a missing model or an unknown option ends with status 2 and says what to do."""
    assert said in desk.run(*arguments, status=2).stderr


def test_without_an_environment_the_engine_says_so(desk: Desk) -> None:
    """A machine on which `vestry up` never ran gets its name, not a traceback."""
    (desk.state / "engine" / "vestry-engine.json").unlink()
    assert "Run `vestry up`" in desk.run("engine", SMALL, status=2).stderr


def test_a_busy_port_is_named(desk: Desk) -> None:
    """A port that another program holds is named with the setting that changes it, by both commands."""
    with socket.create_server(("127.0.0.1", desk.engine)):
        said = desk.run("engine", SMALL, status=2).stderr
        assert f"Port {desk.engine} on 127.0.0.1, for the engine, is in use" in said
        assert f"`models.{SMALL}.engine.port`" in said
        desk.run("up", status=1)
    with socket.create_server(("127.0.0.1", desk.api)):
        assert f"Port {desk.api} on 127.0.0.1, for the API, is in use" in desk.run("up", status=1).stderr


def test_an_engine_runs_until_it_is_told_to_stop(desk: Desk) -> None:
    """`vestry engine` says when it is ready, ends with status 0 on SIGTERM, and leaves no process behind."""
    running = desk.start("engine", SMALL, "--verbose")
    running.until("ready")
    assert f"fake engine on port {desk.engine} for {SMALL}" in running.said()
    assert (desk.state / "secrets" / "engine-key").stat().st_mode & 0o777 == 0o600
    assert running.stop() == 0
    assert desk.processes() == []
    assert "stopped" in running.said()


def test_a_second_engine_is_refused_while_the_first_one_loads(desk: Desk) -> None:
    """The port is free until the model is loaded: the second one would take the first one's engine for its own, and
    load the model again and again."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text(python.read_text().replace("    port = int", "    import time; time.sleep(3)\n    port = int"))
    running = desk.start("engine", SMALL)
    running.until("starting")
    said = desk.run("engine", SMALL, status=2).stderr
    assert f"Another `vestry engine` or `vestry up` keeps an engine at http://127.0.0.1:{desk.engine}." in said
    assert "keeps an engine at" in desk.run("up", status=1).stderr
    running.until("ready")
    assert running.stop() == 0
    assert desk.processes() == []


def test_an_engine_that_crashes_comes_back(desk: Desk) -> None:
    """A killed engine is started again, and the wait before it is told."""
    running = desk.start("engine", SMALL)
    running.until("ready")
    engine = next(pid for pid in desk.processes() if runs(pid, "python", "-m vllm"))
    os.kill(engine, signal.SIGKILL)
    running.until(r"(?s)backing off \(it was ended by a signal \(killed\); starting it again in .*ready")
    assert running.stop(signal.SIGINT) == 0
    assert desk.processes() == []


BECOME = "import os, signal, sys; signal.signal(signal.SIGHUP, {}); os.execv(sys.executable, sys.orig_argv[:1] + {!r})"


@pytest.mark.parametrize("how", ["signal.SIG_IGN", "signal.SIG_DFL"])
def test_a_hangup_ends_it_unless_it_runs_under_nohup(desk: Desk, how: str) -> None:
    """Whoever starts it with `nohup`, which has the signal ignored, may close the terminal."""
    argv = ["-m", "vestry", "--config", str(desk.config), "engine", SMALL]
    with (desk.folder / "err").open("w+") as said:
        process = subprocess.Popen([sys.executable, "-c", BECOME.format(how, argv)], stderr=said, env=desk.environ)

        def told(what: str) -> bool:
            return what in (desk.folder / "err").read_text()

        eventually(lambda: told("ready"), 60)
        process.send_signal(signal.SIGHUP)
        if how == "signal.SIG_IGN":
            time.sleep(1)
            assert not told("Stopping")
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert desk.processes() == []


def test_an_engine_is_kept_though_nobody_reads_what_is_said(desk: Desk) -> None:
    """A terminal that was closed, or a full disk under a file, does not keep a crashed engine from being started."""
    argv = [sys.executable, "-m", "vestry", "--config", str(desk.config), "engine", SMALL, "--verbose"]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=desk.environ)

    def engines() -> list[int]:
        return [pid for pid in desk.processes() if runs(pid, "python", "-m vllm")]

    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        pass
    process.stderr.close()
    (first,) = engines()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: engines() not in ([], [first]), 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert desk.processes() == []


def test_an_engine_is_kept_though_its_standard_streams_are_closed(desk: Desk) -> None:
    """Nothing is said then, and nothing ends for it."""
    program = [sys.executable, "-m", "vestry", "--config", str(desk.config), "engine", SMALL]
    process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *program], env=desk.environ)
    log = desk.places.logs / f"engine-{SMALL}.log"
    eventually(lambda: (log.exists() and "fake engine on port" in log.read_text()) or process.poll() is not None, 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert desk.processes() == []


def test_an_engine_that_never_starts_is_given_up(desk: Desk) -> None:
    """An engine that fails at once is given up with its last words and status 1."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'no room for the weights'\nexit 4\n")
    said = desk.run("engine", SMALL, status=1).stderr
    assert "did not start (3 attempts; it ended with exit status 4)" in said
    assert "no room for the weights" in said


def test_an_engine_that_takes_too_long_is_given_up(desk: Desk) -> None:
    """Its time to load the model is a setting: what has not answered by then is started anew, and at last given up."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'loading the weights'\nexec sleep 600\n")
    settings = json.loads(desk.config.read_text())
    settings["models"][SMALL]["engine"]["startup_seconds"] = 0.2
    desk.config.write_text(json.dumps(settings))
    said = desk.run("engine", SMALL, status=1).stderr
    assert "did not start (3 attempts; it was not ready within 0.2 s" in said
    assert f"`models.{SMALL}.engine.startup_seconds`" in said
    assert desk.processes() == []


def test_a_second_signal_stops_at_once(desk: Desk) -> None:
    """An engine that does not end on SIGTERM is killed when the operator asks once more."""
    python = desk.state / "engine" / "bin" / "python"
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    python.write_text(python.read_text().replace("arguments = sys.argv[1:]", ignoring + "arguments = sys.argv[1:]"))
    settings = json.loads(desk.config.read_text())
    settings["models"][SMALL]["engine"]["shutdown_seconds"] = 600
    desk.config.write_text(json.dumps(settings))
    running = desk.start("engine", SMALL)
    running.until("ready")
    running.process.send_signal(signal.SIGTERM)
    running.until("Once more to stop at once")
    assert running.process.poll() is None
    assert running.stop() == 0
    assert desk.processes() == []
