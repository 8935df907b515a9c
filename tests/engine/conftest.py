"""Real engines behind a whole server. What takes minutes to install or to prepare is made once and kept.

The engine's environment and the small model are those of the checkout (`.vestry/`), made if they are missing;
`VESTRY_TEST_STATE` names another state directory to take them from. Keys, record and logs are the tests' own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from support import preparation
from support.ports import free_ports
from support.preparation import SMALL
from support.processes import alive, eventually
from vestry.models import environment, keeper, prepare
from vestry.models.places import Places

HERE = Path(__file__).resolve().parent
START_SECONDS = 480  # three engines at once, on two cores that other tests use too, take minutes


# The mark of every file here.
MARKS = [pytest.mark.engine]


def die_with_the_tests() -> None:
    """Between fork and exec: have the kernel kill this process when the test process is killed."""
    keeper.prctl(keeper.PR_SET_PDEATHSIG, signal.SIGKILL)


class Place:
    """A `vestry up` with real engines: its addresses, its key, its processes."""

    def __init__(self, folder: Path, installed: Places, models: dict[str, Any]):
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        for shared in ("engine", "models", "cache"):
            (self.state / shared).symlink_to(getattr(installed, shared), target_is_directory=True)
        api, ops, *engines = free_ports(2 + len(models))
        self.engines = {}
        for (name, model), port in zip(models.items(), engines, strict=True):
            model["engine"] = {"port": port, "shutdown_seconds": 60, **model.get("engine", {})}
            self.engines[name] = f"http://127.0.0.1:{port}"
        self.url, self.ops = f"http://127.0.0.1:{api}", f"http://127.0.0.1:{ops}"
        settings = {
            "state": str(self.state),
            "server": {"port": api, "ops_port": ops, "admin_port": 0, "drain_seconds": 60},
            "models": models,
            "tenants": {"default": None, "one": None, "other": None},
            "audit": {"reconcile_seconds": 1, "commit_seconds": 20},
        }
        config = self.config = folder / "vestry.yaml"
        config.write_text(json.dumps(settings))
        self.out, self.err = folder / "out", folder / "err"
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("VESTRY_")}
        environ["TMPDIR"] = str(self.scratch)
        with self.out.open("w") as out, self.err.open("w") as err:
            argv = [sys.executable, "-m", "vestry", "--config", str(config), "up"]
            self.process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=err,
                env=environ,
                start_new_session=True,
                preexec_fn=die_with_the_tests,  # noqa: PLW1509 - it makes one system call
            )
        self.key = ""

    def wait(self) -> None:
        """Wait until it has printed a key and a `curl` line."""
        eventually(self._printed, START_SECONDS)
        found = re.search(r"export VESTRY_API_KEY=(vst_\S+)", self.out.read_text())
        assert found is not None
        self.key = found[1]

    def _printed(self) -> bool:
        assert self.process.poll() is None, self.err.read_text()
        return "curl " in self.out.read_text()

    @property
    def curl(self) -> str:
        """The printed line."""
        return next(line for line in self.out.read_text().splitlines() if line.startswith("curl "))

    def client(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        """OpenAI's client, pointed here."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60, **options)

    def new_key(self, tenant: str) -> str:
        """Another key, made by the command."""
        argv = ["--config", str(self.config), "keys", "create", "--owner", "tester", "--tenant", tenant]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("VESTRY_")}
        done = subprocess.run(
            [sys.executable, "-m", "vestry", *argv], env=environ, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    def gauge(self, model: str, name: str) -> float:
        """A metric of an engine, added over its series."""
        text = httpx.get(f"{self.engines[model]}/metrics", timeout=5).text
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, f"the engine has no {name}"
        return sum(map(float, found))

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        return httpx.get(f"{self.ops}/readyz", timeout=5).status_code == 200

    def processes(self) -> dict[int, str]:
        """Every process below `vestry up`, with its command line or title."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and alive(int(entry.name)):
                try:
                    fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                except OSError:
                    continue
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            for pid in parents.get(waiting.pop(), []):
                try:
                    line = (Path("/proc") / str(pid) / "cmdline").read_bytes()
                except OSError:
                    continue
                found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
                waiting.append(pid)
        return found

    def stop(self) -> tuple[int, dict[int, str]]:
        """SIGTERM: its exit status, and what is still running of all that it had started."""
        before = self.processes()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(150)
        return status, {pid: line for pid, line in before.items() if alive(pid)}

    def destroy(self) -> None:
        """End it in any case; the kernel takes its programs along."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run_inside(places: Places, script: Path, *arguments: str, stdin: str = "", status: int = 0) -> str:
    """Run a script with the engine's Python, offline; what it printed."""
    environ = {**prepare.OFFLINE, "PATH": os.environ["PATH"], "HOME": str(places.cache), "VLLM_LOGGING_LEVEL": "ERROR"}
    argv = [str(environment.python_of(places.engine)), "-I", str(script), *arguments]
    done = subprocess.run(argv, input=stdin, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr[-4000:]
    return done.stdout + (done.stderr if status else "")


@pytest.fixture(scope="session")
def installed() -> Places:
    """The engine's environment, and the small model. `run.py` has begun with both when it began with the tests."""
    return preparation.prepared()


@pytest.fixture(scope="session")
def small(installed: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`vestry up` with the small model, as a newcomer starts it."""
    engine = {"arguments": ["--max-model-len", "1024", "--kv-cache-memory-bytes", "268435456"]}
    place = Place(tmp_path_factory.mktemp("small"), installed, {SMALL: {"engine": engine}})
    try:
        place.wait()
        yield place
    finally:
        place.destroy()
