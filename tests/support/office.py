"""A server process whose content is kept, the command line beside it, and the auditor's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import Result

from fakes.engine import FakeEngine
from support.cli import Cli
from support.house import chat, read_records
from support.server import ServerProcess
from vestry.audit.content.bundles import Place

CANARY = "canary-7f3a9"
WORDS = ("It", " is", f" {CANARY}", ".")


class Office:
    """A server process whose content is sealed (chat) and in full (completions), and the auditor beside it."""

    def __init__(self, folder: Path, engine: FakeEngine, **audit: Any) -> None:
        self.folder = folder
        self.key = folder / "auditor.key"
        self.cli = Cli(folder / "state")
        public = self.cli.ok("audit", "keygen", str(self.key)).strip()
        content = {"default": "sealed", "routes": {"completions": "full"}}
        hashed = {"content": {"default": "hashed"}}
        self.server = ServerProcess(
            folder,
            [engine],
            audit={"auditor": public, **audit},
            tenants={"default": {"content": content}, "research": hashed},
        )
        self.cli.variables = {"VESTRY_CONFIG": str(self.server.config)}

    @property
    def audit(self) -> Path:
        return self.server.settings.audit_directory

    @property
    def place(self) -> Place:
        return Place(self.audit / "server")

    def ask(self, text: str = f"Say {CANARY}", *, stream: bool = False) -> str:
        """One chat; its request id."""
        with self.server.client() as client:
            answer = client.post("/v1/chat/completions", json=chat(text, stream=stream))
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]

    def ask_as(self, owner: str, *, tenant: str = "default") -> str:
        """One chat with a new key of somebody's; its request id."""
        key = self.cli.ok("keys", "create", "--owner", owner, "--tenant", tenant).strip()
        with self.server.client() as client:
            headers = {"authorization": f"Bearer {key}"}
            answer = client.post("/v1/chat/completions", json=chat(f"Say {CANARY}"), headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]

    def complete(self, prompt: str = f"Say {CANARY}") -> str:
        """One completion; its request id."""
        with self.server.client() as client:
            answer = client.post("/v1/completions", json={"model": "small", "prompt": prompt})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]

    def open(self, which: str, *options: str, key: Path | None = None) -> Result:
        return self.cli("audit", "open", which, "--private-key", str(key or self.key), *options)

    def erase(self, *options: str) -> Result:
        return self.cli("audit", "erase", "--reason", "request", *options)

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """What the commands have recorded."""
        return read_records(self.audit / "cli", kind) if (self.audit / "cli").is_dir() else []

    def raw(self) -> bytes:
        """Every byte under the record."""
        return b"\n".join(path.read_bytes() for path in self.audit.rglob("*") if path.is_file())
