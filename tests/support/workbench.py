"""A state directory with a fake engine, and a terminal: `vestry engine` and `vestry up` as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support import forks
from support.engines import SMALL, install_engine, put_model
from support.ports import free_ports
from support.processes import alive, eventually


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


def sat_at(folder: Path) -> Iterator[Desk]:
    """A desk; whatever a failed test left running on it is killed."""
    made = Desk(folder)
    yield made
    if made.running is not None:
        made.running.process.kill()
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def runs(pid: int, program: str, argument: str) -> bool:
    """Whether this process is the engine itself, not its keeper."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has gone meanwhile
    line = b" ".join(words).decode()
    return "keeper.py" not in line and program in line and argument in line
