"""Many open files: the server takes as many as it may have."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from fakes.engine import FakeEngine
from support.house import PLAIN, chat, until
from support.server import ServerProcess

STAY = "GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n"


@contextmanager
def limited(soft: int) -> Iterator[None]:
    """What is started within begins with so many open files, and may have more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_clients_that_stay_leave_room_for_the_record_and_the_probes(tmp_path: Path) -> None:
    """Started with 128 open files, and 200 clients that stay connected: calls are served, the record gets its
    checkpoint, and the probe, on a new connection, is answered.
    """
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine], audit={"checkpoint_seconds": 0.5}) as server:
        server.forked = False
        with limited(128):
            server.start()
        with ExitStack() as clients:
            for _ in range(200):
                client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                client.sendall(STAY.format(key=server.key).encode())
                assert client.recv(12) == b"HTTP/1.1 200"
            with server.client() as caller:
                assert caller.post("/v1/chat/completions", json=chat()).status_code == 200
            assert httpx.get(f"{server.ops}/livez", verify=PLAIN).status_code == 200
            tiles = server.settings.audit_directory / "server" / "tile"
            until(lambda: list(tiles.rglob("*.p/*")), what="a checkpoint's tiles")
        server.stop()
        assert "Too many open files" not in server.errors.read_text()
