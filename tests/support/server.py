"""The server as people run it: `vestry serve` in a process of its own, with a state directory that outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from fakes.engine import FakeEngine
from support import forks
from support.house import PATIENT, PLAIN, read_records, until
from support.keys import Keys
from vestry.composition.signing import make_signer
from vestry.configuration.reading import load
from vestry.secret_files import key_hash

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"


class ServerProcess:
    """Settings in a file, a key, and the process while it runs. Use as a context manager, which starts nothing."""

    def __init__(self, folder: Path, engines: list[FakeEngine], **settings: Any) -> None:
        self.state = folder / "state"
        self.config = folder / "vestry.yaml"
        self.errors = folder / "stderr.txt"
        server = {"port": 0, "ops_port": 0, "admin_port": 0, "drain_seconds": 10, **settings.pop("server", {})}
        relay = {"probe_seconds": 0.2, **settings.pop("relay", {})}
        replicas = [{"url": engine.url} for engine in engines]
        tree = {
            "state": str(self.state),
            "server": server,
            "relay": relay,
            "audit": {**PATIENT, **settings.pop("audit", {})},
            "models": {"small": {"catalog": MODEL, "replicas": replicas}},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(tree))
        self.settings = load(self.config, {})
        self.state.mkdir(mode=0o700)
        self.public = make_signer(self.settings, "house.test/vestry")[0].public
        self.keys = Keys.of(self.settings.keys_database, key_hash(self.settings))
        self.key, _ = self.keys.create()
        self.forked = True
        """Whether it is spared the start of Python (`forks.py`)."""
        self.process: forks.Child | subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        note = self.state / "server.json"
        note.unlink(missing_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("VESTRY_")}
        path = os.pathsep.join([str(ROOT / "server"), environ.get("PYTHONPATH", "")])
        environ["PYTHONPATH"] = path
        argv = ["-m", "vestry", "--config", str(self.config), "serve"]
        with self.errors.open("ab") as errors, Path(os.devnull).open("wb") as nothing:
            if self.forked:
                self.process = forks.Child(argv, env=environ, stdout=nothing, stderr=errors)
            else:
                self.process = subprocess.Popen([sys.executable, *argv], env=environ, stdout=nothing, stderr=errors)
        until(
            lambda: note.exists() or self.process is None or self.process.poll() is not None,
            seconds=60,
            what="server.json",
        )
        assert self.process.poll() is None, self.errors.read_text()
        addresses = json.loads(note.read_text())
        self.url, self.ops, self.admin = addresses["api"], addresses["ops"], addresses["admin"]
        self.port = int(self.url.rpartition(":")[2])
        until(self.ready, what="readiness")

    def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return httpx.get(self.ops + "/readyz", timeout=5, verify=PLAIN).status_code == 200
        except httpx.TransportError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        """Wait for the end; the exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        """Tell it to stop, and wait until it has, in order."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.errors.read_text()

    def client(self) -> httpx.Client:
        """A client with the key."""
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=20, verify=PLAIN
        )

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What is in the log, in order."""
        return read_records(self.settings.audit_directory / self.settings.audit.origin, kind)
