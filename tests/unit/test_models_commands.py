"""`vestry engine` and `vestry up` as a person uses them: real processes, a fake engine behind them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import forks
from support.engines import SMALL, install_engine, put_model
from support.ports import free_ports
from support.processes import alive, eventually, number_in
from vestry.models import catalog, environment


class Desk:
    """A state directory with a fake engine, free ports, and a terminal to type commands into."""

    running: Running | None = None

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = folder / "state"
        self.places = install_engine(self.state)
        put_model(self.places)
        self.api, self.ops, self.engine = free_ports(3)
        self.config = folder / "vestry.yaml"
        settings = {
            "state": str(self.state),
            "server": {"port": self.api, "ops_port": self.ops, "admin_port": 0, "drain_seconds": 5},
            "relay": {"probe_seconds": 0.2},
            "models": {SMALL: {"engine": {"port": self.engine, "shutdown_seconds": 5}}},
        }
        self.config.write_text(json.dumps(settings))
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("VESTRY_")}

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, with this status."""
        done = forks.run(["-m", "vestry", "--config", self.config, *arguments], env=self.environ)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str) -> Running:
        """A command that goes on until it is told to stop."""
        self.running = Running(self, arguments)
        return self.running

    def processes(self) -> list[int]:
        """Every process that a command has started for this state directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.folder) in line and alive(int(entry.name)):
                    found.append(int(entry.name))
        return found


class Running:
    """A command in the background, its output in files."""

    def __init__(self, desk: Desk, arguments: tuple[str, ...]):
        self.out, self.err = desk.folder / "out", desk.folder / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            argv = ("-m", "vestry", "--config", str(desk.config), *arguments)
            self.process = forks.Child(argv, stdout=out, stderr=err, env=desk.environ)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for this in its output."""

        def seen() -> bool:
            assert self.process.poll() is None or re.search(pattern, self.said()), self.said()
            return re.search(pattern, self.said()) is not None

        eventually(seen, 60)
        found = re.search(pattern, self.said())
        assert found is not None
        return found

    def said(self) -> str:
        """All of its output."""
        return self.out.read_text() + self.err.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk; whatever a failed test left running on it is killed."""
    made = Desk(tmp_path)
    yield made
    if made.running is not None:
        made.running.process.kill()
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def ask(desk: Desk, key: str) -> subprocess.CompletedProcess[str]:
    """Run the printed `curl` line in a shell that has the printed key."""
    line = next(line for line in (desk.folder / "out").read_text().splitlines() if line.startswith("curl "))
    environ = {**desk.environ, "VESTRY_API_KEY": key}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, env=environ, check=True)


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
    engine = next(pid for pid in desk.processes() if _runs(pid, "python", "-m vllm"))
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
        return [pid for pid in desk.processes() if _runs(pid, "python", "-m vllm")]

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


def _runs(pid: int, program: str, argument: str) -> bool:
    """Whether this process is the engine itself, not its keeper."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has gone meanwhile
    line = b" ".join(words).decode()
    return "keeper.py" not in line and program in line and argument in line


def test_an_engine_that_never_starts_is_given_up(desk: Desk) -> None:
    """An engine that fails at once is given up with its last words and status 1."""
    python = desk.state / "engine" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'no room for the weights'\nexit 4\n")
    said = desk.run("engine", SMALL, status=1).stderr
    assert "did not start (3 attempts; it ended with exit status 4)" in said
    assert "no room for the weights" in said


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
    server = next(pid for pid in desk.processes() if _runs(pid, "-m vestry", " serve"))
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


def test_up_says_why_a_model_cannot_be_prepared(desk: Desk) -> None:
    """A script that fails ends `vestry up` with status 1, its last words and the name of the log."""
    (desk.state / "fail").touch()
    model = desk.places.model(catalog.entry(SMALL))
    (model / "model.safetensors").unlink()
    said = desk.run("up", status=1).stderr
    assert "the last words of convert.py" in said
    assert f"prepare-{SMALL}.log" in said
    assert desk.processes() == []


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
