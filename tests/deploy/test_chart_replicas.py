"""Several servers from the chart, on a real PostgreSQL: the Job's own command makes the tables, the rendered settings
serve, a rolling update loses no call, and each replica's log verifies.
"""

from __future__ import annotations

import json
import secrets
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from click.testing import CliRunner

from fakes.engine import FakeEngine
from support.charts import Object, of_kind, render, values
from support.front import Front
from support.house import PLAIN, chat, until
from support.pods import Container, Files
from support.postgres import Postgres, postgres
from vestry.adapters.directory.schemas import HEAD
from vestry.cli import main
from vestry.configuration.reading import load

SERVER = "demo-vestry"
MIGRATION = "demo-vestry-migration"
ENGINE = "http://demo-vestry-phi-3-mini-0.demo-vestry-phi-3-mini.hospital.svc.cluster.local:8000"
HERE = {
    **{f"VESTRY_SERVER__{name}": "0" for name in ("PORT", "OPS_PORT", "ADMIN_PORT")},
    **{f"VESTRY_SERVER__{name}": "127.0.0.1" for name in ("HOST", "OPS_HOST")},
    "VESTRY_RELAY__PROBE_SECONDS": "0.2",
    "VESTRY_AUDIT__COMMIT_SECONDS": "20",
}
"""What is other on this machine than in a pod of its own: addresses and ports, and a disk that many write to."""


class Site:
    """The value set `replicas`, the Secrets that it names, and the PostgreSQL that they speak of."""

    def __init__(self, folder: Path, server: Postgres, front: Front, ca: bytes) -> None:
        self.folder, self.server, self.objects = folder, server, render(values("replicas"))
        self.database = server.database()
        self.given: Files = {"database-ca": {"ca.crt": ca}, "vestry-secrets": _secrets()}
        url = f"postgresql://127.0.0.1:{front.port}/{self.database}".encode()
        for name in ("owner", "user"):
            role, password = f"{name}_{secrets.token_hex(4)}", secrets.token_hex(16)
            server.demand_password(role, password)
            secret = {"owner": "vestry-database-owner", "user": "vestry-database"}[name]
            self.given = {**self.given, secret: {"url": url, "user": role.encode(), "password": password.encode()}}
        owner, user = (self.given[f"vestry-database{end}"]["user"].decode() for end in ("-owner", ""))
        for statement in (
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            f"GRANT CREATE ON SCHEMA public TO {owner}",
            f"GRANT USAGE ON SCHEMA public TO {user}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
        ):
            server.execute(statement, database=self.database)

    def job(self, objects: list[Object] | None = None, name: str = "job") -> Container:
        """The migration's container."""
        return Container(objects or self.objects, "Job", MIGRATION, self.folder / name, self.given)

    def replica(self, ordinal: int, engine: FakeEngine | None = None) -> Container:
        """A server's container."""
        changes = {ENGINE: engine.url} if engine is not None else {}
        objects, folder = self.objects, self.folder / "pods"
        return Container(
            objects, "StatefulSet", SERVER, folder, self.given, ordinal=ordinal, changes=changes, more=HERE
        )


def _secrets() -> dict[str, bytes]:
    """As docs/install-helm.md has them made."""
    made = CliRunner().invoke(main, ["audit", "init", "--name", "house.test/vestry", "--stdout"])
    assert made.exit_code == 0, made.output
    key = {"audit-key": made.stdout.encode(), "public": made.stderr.splitlines()[-1].encode()}
    return {"key-hash": secrets.token_bytes(32), "engine-key": secrets.token_hex(32).encode(), **key}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A database of one's own, behind TLS."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Front(context, postgres().port) as front:
        yield Site(tmp_path, postgres(), front, authority.cert_pem.bytes())


def test_the_job_makes_the_tables_and_they_can_be_undone(site: Site) -> None:
    """By their owner alone, with its own Secret, and once; the Job of the way back undoes it, when no server runs."""
    job, server = site.job(), site.replica(0)
    assert server.vestry("store", "status").exit_code == 1
    refused = server.vestry("store", "migrate")
    assert (refused.exit_code, "does not let this user do that" in refused.output) == (1, True)
    assert job.ok() == f"The schema is {HEAD} now; before it was none.\n"
    assert job.ok() == f"The schema is {HEAD} already.\n"
    assert server.ok("store", "status") == f"The schema is {HEAD}; this version needs {HEAD}.\n"
    given = values("replicas")
    given["store"]["postgresql"]["migration"]["downgradeTo"] = "v1"
    back = render(given)
    assert site.job(back, "back").ok() == f"The schema is v1 now; before it was {HEAD}.\n"
    assert server.vestry("store", "status").exit_code == 1
    [servers] = [each for each in of_kind(back, "StatefulSet") if each["metadata"]["name"] == SERVER]
    assert servers["spec"]["replicas"] == 0
    hooks = {
        each["metadata"]["annotations"]["helm.sh/hook"] for each in back if "migration" in each["metadata"]["name"]
    }
    assert hooks == {"post-upgrade"}


def test_vestry_check_finds_no_fault_in_a_pod(site: Site) -> None:
    """The rendered settings, with all files and variables of the pod, are whole; the Job's are the same settings."""
    server, job = site.replica(0), site.job()
    found = json.loads(server.ok("check", "--json"))
    assert found["valid"]
    settings = load(server.path("/etc/vestry/vestry.yaml"), server.variables)
    for name in ("key-hash", "engine-key", "audit-key"):
        assert (settings.secrets_directory / name).read_bytes() == site.given["vestry-secrets"][name]
    assert settings.store.password is not None
    assert settings.store.password.read_bytes() == site.given["vestry-database"]["password"]
    assert settings.store.ca is not None
    assert settings.store.ca.read_bytes() == site.given["database-ca"]["ca.crt"]
    assert settings.state.parent == server.path("/var/lib/vestry")
    assert settings.store.encrypted
    assert server.path("/etc/vestry/vestry.yaml").read_text().replace(str(server.folder), "") == job.path(
        "/etc/vestry/vestry.yaml"
    ).read_text().replace(str(job.folder), "")
    server.path("/run/secrets/database/password").unlink()
    assert "run/secrets/database/password" in server.vestry("check").output


class Callers:
    """The Service as clients see it: calls go to whichever pod is behind it, until told to end."""

    def __init__(self, key: str, behind: list[str]) -> None:
        self.behind = behind
        self.statuses: list[int] = []
        self.refused: list[str] = []
        self._headers = {"authorization": f"Bearer {key}"}
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(place,)) for place in range(3)]

    def __enter__(self) -> Callers:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for each in self._threads:
            each.join()

    def more(self, calls: int) -> None:
        """Wait for so many answers."""
        wanted = len(self.statuses) + calls
        until(lambda: len(self.statuses) >= wanted, what="answers", seconds=60)

    def _call(self, place: int) -> None:
        while not self._end.is_set():
            behind = self.behind
            url = behind[(place + len(self.statuses)) % len(behind)]
            body = chat(model="phi-3-mini", stream=place == 0)
            try:
                with httpx.stream(
                    "POST", f"{url}/v1/chat/completions", json=body, headers=self._headers, verify=PLAIN, timeout=20
                ) as answer:
                    whole = b"[DONE]" in answer.read() or place != 0
                    self.statuses.append(answer.status_code if whole else 0)
                    if answer.status_code != 200:
                        self.refused.append(answer.text)
            except httpx.HTTPError as error:
                self.statuses.append(0)
                self.refused.append(repr(error))


class Running:
    """A server's pod that runs."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.process = container.start()
        note = container.path("/var/lib/vestry/state/server.json")
        until(lambda: note.exists() or self.process.poll() is not None, what=container.name, seconds=60)
        assert self.process.poll() is None, (container.folder / "stderr").read_text()
        found: dict[str, Any] = json.loads(note.read_text())
        self.url, self.ops = found["api"], found["ops"]

    def wait(self) -> Running:
        """Until its readiness probe succeeds."""
        until(lambda: httpx.get(f"{self.ops}/readyz", verify=PLAIN).status_code == 200, what="readiness", seconds=60)
        return self

    def stop(self) -> None:
        """As the kubelet does it, after `preStop`."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, (self.container.folder / "stderr").read_text()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """The engines' one replica."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def running(site: Site, engine: FakeEngine) -> Iterator[list[Running]]:
    """Both servers, after the Job. What is still alive at the end is killed."""
    site.job().ok()
    found: list[Running] = []
    started: list[subprocess.Popen[bytes]] = []
    try:
        for ordinal in range(2):
            found.append(Running(site.replica(ordinal, engine)))
            started.append(found[-1].process)
        yield [each.wait() for each in found]
    finally:
        for each in (*started, *(pod.process for pod in found)):
            if each.poll() is None:
                each.kill()
                each.wait()


def test_a_rolling_update_loses_no_call_and_every_log_verifies(site: Site, running: list[Running]) -> None:
    """A key made in one pod works in both. Each is taken out of the Service, stopped and started anew, as a StatefulSet
    does it, last one first, and every call is answered whole. Then each volume verifies by itself with the one public
    key, and no two logs in the house have a name in common.
    """
    key = running[0].container.ok("keys", "create", "--owner", "portal").strip()
    running[1].container.ok("keys", "create", "--owner", "other")
    with Callers(key, [each.url for each in running]) as callers:
        callers.more(20)
        for ordinal in (1, 0):
            callers.behind = [running[1 - ordinal].url]
            callers.more(6)  # the time of `preStop`: everybody has heard of it
            running[ordinal].stop()
            running[ordinal] = Running(running[ordinal].container).wait()
            callers.behind = [each.url for each in running]
        callers.more(20)
    assert set(callers.statuses) == {200}, callers.refused
    names: list[str] = []
    for each in running:
        each.stop()
        audit = each.container.path("/var/lib/vestry/state/audit")
        public = site.folder / "house.pub"
        public.write_bytes(site.given["vestry-secrets"]["public"])
        verified = CliRunner().invoke(main, ["audit", "verify", str(audit), "--public-key", str(public)])
        assert verified.exit_code == 0, verified.output
        names += [line.split()[0] for line in (audit / "origins").read_text().split("\n\n")[0].splitlines()[2:]]
    assert names == ["demo-vestry-0", "demo-vestry-0-cli", "demo-vestry-1", "demo-vestry-1-cli"]
