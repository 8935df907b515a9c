"""Findings about machine and network, at their bounds."""

from __future__ import annotations

import contextlib
import resource
import shutil
import socket
import sqlite3
import ssl
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support import certificates
from vestry.diagnosis import machine, network
from vestry.diagnosis.findings import Finding
from vestry.models import compiler
from vestry.settings.tree import Settings


def only(findings: Iterator[Finding]) -> Finding:
    """The one finding."""
    [found] = findings
    assert found.state == "ok" or found.mend
    return found


# The machine.


def test_an_old_sqlite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key store needs STRICT tables."""
    assert only(machine.programs()).state != "fail"
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    assert only(machine.programs()).state == "fail"


@pytest.mark.parametrize(
    ("base", "built", "state"),
    [
        ("/usr", "", "ok"),
        ("/opt", "'--prefix=/opt' '--enable-optimizations'", "ok"),
        ("/opt", "'--prefix=/opt'", "warn"),
    ],
)
def test_a_slow_python_is_told(monkeypatch: pytest.MonkeyPatch, base: str, built: str, state: str) -> None:
    """One that was compiled without optimizations, and is not the distribution's."""
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _name: built)
    assert only(machine.programs()).state == state


@pytest.mark.parametrize(
    ("wanted", "state", "said"),
    [
        (["click>=8.0", "rich; extra == 'x'"], "ok", "1 packages"),
        (["click>=999"], "fail", "older than 999"),
        (["no-such-package-here>=1"], "fail", "no-such-package-here is missing"),
    ],
)
def test_packages(monkeypatch: pytest.MonkeyPatch, wanted: list[str], state: str, said: str) -> None:
    """What is missing or too old fails, by name."""
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.0" if name == "vestry" else version(name))
    found = only(machine.packages())
    assert found.state == state
    assert said in found.said


def test_a_package_that_is_not_installed() -> None:
    """Run from a checkout, versions are not known."""
    assert only(machine.packages("no-such-package-here")).state == "warn"


@pytest.mark.parametrize(("free", "state"), [(100 << 20, "fail"), (1 << 30, "warn"), (50 << 30, "ok")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    """Little space warns, hardly any fails; a folder that is not there yet is looked for above."""
    usage = shutil._ntuple_diskusage(100 << 30, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage if path == tmp_path else None)
    assert only(machine.disk(tmp_path / "not" / "yet")).state == state


@pytest.mark.parametrize(("seconds", "state"), [(0.0001, "ok"), (0.05, "warn"), (3.0, "fail")])
def test_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, state: str) -> None:
    """A slow disk warns; one that is slower than the record's deadline fails; nothing is left behind."""
    monkeypatch.setattr(machine, "_synced", lambda _: seconds)
    assert only(machine.durability(tmp_path, 2.0)).state == state
    assert list(tmp_path.iterdir()) == []


def test_durability_is_really_measured(tmp_path: Path) -> None:
    """The figure comes from fdatasync calls."""
    assert "fdatasync takes" in only(machine.durability(tmp_path, 60)).said


def test_durability_of_what_is_no_folder(tmp_path: Path) -> None:
    """Where nothing can be written, that is the finding."""
    (tmp_path / "file").write_text("")
    assert only(machine.durability(tmp_path / "file", 2.0)).state == "fail"


@pytest.mark.parametrize(("hard", "state"), [(1000, "warn"), (1001, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, hard: int, state: str) -> None:
    """A limit below what the settings want warns, with the number for ulimit: the one that a server cannot raise."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    found = only(machine.open_files(1001))
    assert found.state == state
    assert state == "ok" or "1001" in found.mend


@pytest.mark.parametrize(("kept", "state"), [(True, "ok"), (None, "ok"), (False, "warn")])
def test_clock(monkeypatch: pytest.MonkeyPatch, kept: bool | None, state: str) -> None:
    """A clock that nothing keeps right warns; where it cannot be asked, nothing is claimed."""
    monkeypatch.setattr(machine, "_synchronised", lambda: kept)
    assert only(machine.clock()).state == state


def test_a_clock_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock before this program was written is wrong."""
    monkeypatch.setattr(machine, "RELEASED", datetime(2999, 1, 1, tzinfo=UTC))
    assert only(machine.clock()).state == "fail"


def test_the_kernel_is_asked() -> None:
    """Whether the clock is kept right comes from adjtimex(2)."""
    assert machine._synchronised() in {True, False, None}


def script(text: str) -> Callable[[Path], None]:
    """Makes an `nvidia-smi` of this shell text."""

    def make(folder: Path) -> None:
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("devices", "make", "state", "said"),
    [
        ([], None, "ok", "none here"),
        (["nvidiactl"], None, "ok", "none here"),
        (["nvidia0"], None, "warn", "no nvidia-smi"),
        (["nvidia0"], script("exit 9"), "warn", "does not answer"),
        (["nvidia0"], script("echo 'NVIDIA H100, 81559 MiB, 580.1'"), "ok", "NVIDIA H100, 81559 MiB, 580.1"),
    ],
)
def test_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    devices: list[str],
    make: Callable[[Path], None] | None,
    state: str,
    said: str,
) -> None:
    """No GPU is well, one that answers too; one whose driver does not is a warning. A compiler is looked for."""
    for name in devices:
        (tmp_path / name).write_text("")
    (tmp_path / "bin").mkdir()
    if make is not None:
        make(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(compiler, "fault", lambda: "there is none" if state == "warn" else None)
    found, *further = machine.accelerators(tmp_path)
    assert (found.state, said in found.said) == (state, True)
    assert [(each.name, each.state) for each in further] == [("compiler", state)] * ("nvidia0" in devices)


# The network.


class Strange(BaseHTTPRequestHandler):
    """Another program."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Plain(BaseHTTPRequestHandler):
    """Answers with a refusal of ours, or with `/readyz` of a server that waits for its engines."""

    bodies: ClassVar[dict[str, tuple[int, bytes]]] = {
        "/v1/models": (401, b'{"error": {"code": "invalid_api_key"}}'),
        "/admin/v1/whoami": (401, b'{"error": {"code": "invalid_api_key"}}'),
        "/readyz": (503, b'{"missing": {"models": "no engine of any model is available"}}'),
    }

    def do_GET(self) -> None:
        status, body = self.bodies.get(self.path, (200, b"[]"))
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server; gives its origin."""
    servers: list[ThreadingHTTPServer] = []

    def start(context: ssl.SSLContext | None = None, program: type[BaseHTTPRequestHandler] = Plain) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), program)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def settings(api: str, ops: str, state: Path, **server: Any) -> Settings:
    """Settings whose ports are those of the two origins."""
    ports = {"port": int(api.rpartition(":")[2]), "ops_port": int(ops.rpartition(":")[2]), "admin_port": 0}
    return Settings.model_validate({"state": state, "server": {**ports, **server}})


def test_a_server_that_waits_for_its_engines(serve: Callable[..., str], tmp_path: Path) -> None:
    """What `/readyz` says is missing is repeated; the API answers all the same."""
    found = list(network.server(settings(serve(), serve(), tmp_path)))
    assert found[0].said == "it is not ready: models: no engine of any model is available"
    assert (found[1].state, "the API answers" in found[1].said) == ("ok", True)
    assert (found[2].state, "the administration does not answer" in found[2].said) == ("warn", True)


def test_a_server_behind_tls(serve: Callable[..., str], tmp_path: Path) -> None:
    """The API is asked over TLS where the settings have a certificate, whoever signed it."""
    tls = certificates.made(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    found = list(network.server(settings(serve(context), serve(), tmp_path, tls=tls)))
    assert found[1].said.startswith("the API answers at https://")


def test_an_engine_behind_tls(serve: Callable[..., str], tmp_path: Path) -> None:
    """It is well where the server would send calls there, and not where it only answers whoever asks."""
    tls = certificates.made(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    port = int(serve(context).rpartition(":")[2])
    models = {"m": {"replicas": [{"url": f"https://localhost:{port}"}]}}

    def found(**relay: Any) -> Finding:
        return only(network.engines(Settings.model_validate({"state": tmp_path, "models": models, "relay": relay})))

    assert found(ca=tmp_path / "ca.crt") == Finding("engine", "ok", f"m is healthy at https://localhost:{port}")
    for relay in ({}, {"ca": tmp_path / "none"}):
        assert found(**relay).state == "fail"
        assert "a certificate that the server does not accept" in found(**relay).said


def test_the_administration_is_asked(serve: Callable[..., str], tmp_path: Path) -> None:
    """At its own port: what answers there as a server of ours is one, and another program is named with the mend."""
    ours = serve()
    found = list(network.server(settings(serve(), serve(), tmp_path, admin_port=int(ours.rpartition(":")[2]))))
    assert (found[2].state, found[2].said) == ("ok", f"the administration answers at {ours}")
    strange = serve(program=Strange)
    found = list(network.server(settings(serve(), serve(), tmp_path, admin_port=int(strange.rpartition(":")[2]))))
    assert (found[2].state, found[2].said) == ("fail", f"what answers at {strange} is not this server's administration")
    assert "`server.admin_port`" in found[2].mend


def test_an_api_that_does_not_answer(serve: Callable[..., str], tmp_path: Path) -> None:
    """Operations up and API silent is a warning with a hint."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        found = list(network.server(settings(f"x:{silent.getsockname()[1]}", serve(), tmp_path)))
    assert [each.state for each in found] == ["warn", "warn", "warn"]
    assert "client_certificates" in found[1].mend


@pytest.mark.parametrize(
    ("host", "called"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")]
)
def test_listeners_on_all_addresses_are_called_here(tmp_path: Path, host: str, called: str) -> None:
    """A listener on every address is asked at the loopback one."""
    hosts = {"host": host, "ops_host": host, "admin_host": host}
    found = network.addresses(Settings.model_validate({"state": tmp_path, "server": hosts}))
    assert found == {"api": f"http://{called}:8080", "ops": f"http://{called}:8081", "admin": f"http://{called}:8082"}


@pytest.mark.parametrize(
    "note", [None, "garbage", "[]", "{}", '{"api": "http://x:5", "ops": "http://x:6", "admin": "http://x:7"}']
)
def test_free_ports_are_those_that_the_server_noted(tmp_path: Path, note: str | None) -> None:
    """With port 0 the running server's own note counts, if it is one."""
    if note is not None:
        (tmp_path / "server.json").write_text(note)
    found = network.addresses(Settings.model_validate({"state": tmp_path, "server": {"port": 0, "ops_port": 0}}))
    ports = ("5", "6", "7") if note and "api" in note else ("0", "0", "8082")
    assert tuple(found[name].rpartition(":")[2] for name in ("api", "ops", "admin")) == ports


@pytest.mark.parametrize("origin", ["http://127.0.0.1:0", "nonsense", "https://127.0.0.1:1"])
def test_nothing_answers(origin: str) -> None:
    """Whatever cannot be asked has no answer."""
    assert network.ask(origin, "/") is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"missing": 5}', b'{"error": "x"}'])
def test_answers_of_other_shapes(serve: Callable[..., str], tmp_path: Path, body: bytes) -> None:
    """An answer that is not ours is no reason and no code."""

    class Other(Plain):
        bodies: ClassVar = dict.fromkeys(Plain.bodies, (503, body))

    found = list(network.server(settings(serve(program=Other), serve(program=Other), tmp_path)))
    assert found[0].said == "it is not ready: it does not say why"
    assert (found[1].state, "is not this server's API" in found[1].said) == ("fail", True)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b""]
)
def test_what_answers_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    """It has the time that every other has, over all, and then counts as one that does not answer."""
    monkeypatch.setattr(network, "ANSWER_SECONDS", 0.5)
    over = threading.Event()

    def dribble() -> None:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            peer.sendall(head)
            while not over.wait(0.1):
                peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        talk = threading.Thread(target=dribble, daemon=True)
        talk.start()
        stop = threading.Timer(10, over.set)
        stop.start()
        assert network.ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "/health") is None
        assert not over.is_set()
        stop.cancel()
        over.set()
        talk.join()
