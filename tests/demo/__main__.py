"""`make audit-demo`: calls are made, the log verifies; then copies of it are tampered with, and each is caught.

The server is a real one; its engine is the tests' stand-in, which answers at once. What verifies is `vestry audit
verify`, with the public key alone, as an auditor would run it; and beside it the one-file verifier, which shares no
line with the server. Exit status 1 if anything is not caught.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import openai

from demo import tampering
from fakes.engine import FakeEngine
from support import forks
from support.server import ROOT, ServerProcess

CALLS = 400
ALONE = ROOT / "deploy" / "vestry_verify.py"


def main() -> int:
    """Everything, told line by line; the exit status."""
    with tempfile.TemporaryDirectory(prefix="vestry-demo-") as folder:
        base = Path(folder)
        with FakeEngine() as engine, ServerProcess(base, [engine]) as server:
            older = _calls(server, base)
            log, key = server.settings.audit_directory, str(server.public)
        click.echo(f"\nThe log as it is, with the public key {key}")
        honest = _told(_verdicts(log, key, older / "server" / "checkpoint"), 0, "")
        caught = [_tampered(base, log, key, older, each) for each in tampering.ALL]
    click.echo(f"\n{sum(caught)} of {len(caught)} caught." if honest else "\nThe honest log was not accepted.")
    return int(not honest or not all(caught))


def _calls(server: ServerProcess, base: Path) -> Path:
    """Make a key, and calls in two lives of a server; a copy of the log between them."""
    keys = ["-m", "vestry", "--config", str(server.config), "keys", "create", "--owner", "alice"]
    forks.run(keys, env=os.environ).check_returncode()
    server.start()
    click.echo(f"A server is up, and answers {CALLS} calls ...")
    _ask(server, CALLS // 2)
    server.stop()
    older = base / "yesterday"
    shutil.copytree(server.settings.audit_directory, older)
    server.start()
    _ask(server, CALLS - CALLS // 2)
    server.stop()
    return older


def _ask(server: ServerProcess, calls: int) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key)

    def one(number: int) -> None:
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": f"Question {number}"}])

    with client, ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(calls)))


def _tampered(base: Path, log: Path, key: str, older: Path, how: tampering.Tampering) -> bool:
    """Do it to a copy; whether both verifiers caught it, and named the place. A newer checkpoint is kept outside."""
    copy = base / how.name
    shutil.copytree(log, copy)
    click.echo(f"\n{how.title}")
    how.apply(copy, older)
    return _told(_verdicts(copy, key, log / "server" / "checkpoint"), 1, how.place)


def _verdicts(log: Path, key: str, outside: Path) -> Iterator[tuple[str, int, str]]:
    """Of each verifier its name, its exit status, and what it says."""
    options = [str(log), "--public-key", key, "--checkpoint", str(outside)]
    for name, command in (("vestry audit verify", ["-m", "vestry", "audit", "verify"]), (ALONE.name, [str(ALONE)])):
        done = forks.run([*command, *options], env=os.environ)
        yield name, done.returncode, done.stdout.strip() or done.stderr.strip()


def _told(verdicts: Iterable[tuple[str, int, str]], expected: int, place: str) -> bool:
    """Show the verdicts; whether each has this exit status and names the place."""
    good = True
    for name, status, said in verdicts:
        lines = [line for line in said.splitlines() if line.strip()]
        click.echo(f"  {name}: exit status {status}")
        for line in lines[:4]:
            click.echo(f"    {line}")
        good = good and status == expected and place in said
    return good


if __name__ == "__main__":
    sys.exit(main())
