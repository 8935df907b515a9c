"""kill -9 at any moment: what a client received whole is in the record, and the next start goes on with it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx

from fakes.audit import read
from fakes.engine import Behaviour, FakeEngine
from support.house import chat, until
from support.server import ServerProcess
from vestry.audit.verify.house import verify

KILLS = 20
CLIENTS = 6
SEED = 20_240_601


def work(server: ServerProcess, stream: bool) -> list[str]:
    """Call until the server is gone. The ids of the answers that arrived whole: all of a body, a stream's `[DONE]`."""
    whole: list[str] = []
    try:
        with server.client() as client:
            while True:
                answer = client.post("/v1/chat/completions", json=chat(stream=stream))
                assert answer.status_code == 200, answer.text
                assert not stream or answer.text.endswith("data: [DONE]\n\n"), answer.text
                whole.append(answer.headers["x-request-id"])
    except httpx.TransportError:
        return whole


def life(server: ServerProcess, pool: ThreadPoolExecutor, engine: FakeEngine, seconds: float) -> list[str]:
    """One life: start, load, kill -9 so many seconds after the first call; what the clients received whole."""
    server.start()
    asked = len(engine.calls)
    clients: list[Future[list[str]]] = [pool.submit(work, server, number % 2 == 0) for number in range(CLIENTS)]
    until(lambda: len(engine.calls) > asked, what="the first call")
    time.sleep(seconds)
    server.signal(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    return [request_id for client in clients for request_id in client.result(20)]


def test_no_acknowledged_record_is_lost(tmp_path: Path) -> None:
    """Twenty lives on one state directory, each killed under load: every whole answer has its intent and its outcome,
    every other intent is closed as unknown, and the log verifies, as an auditor would see it."""
    moments = random.Random(SEED)
    behaviour = Behaviour(first_seconds=0.002, between_seconds=0.001)
    whole: list[str] = []
    with (
        FakeEngine(behaviour=behaviour) as engine,
        ServerProcess(tmp_path, [engine]) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        for _ in range(KILLS):
            whole += life(server, pool, engine, moments.uniform(0.0, 0.4))
        server.start()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        records = read(server.settings.audit_directory, server.settings.audit.origin)
        log = server.errors.read_text()
        report = verify(server.settings.audit_directory, server.public)
    assert report.passed, report.findings()

    kinds: dict[str, list[str]] = {}
    for record in records:
        if "request_id" in record:
            kinds.setdefault(record["request_id"], []).append(record["type"])
    assert len(whole) == len(set(whole)) > KILLS * 5
    assert [each for each in whole if kinds.get(each) != ["intent", "outcome"]] == []

    assert {tuple(each) for each in kinds.values()} <= {("intent", "outcome"), ("intent", "intent.closed")}
    closed = [record for record in records if record["type"] == "intent.closed"]
    assert closed, "no kill came in the middle of a call"
    assert {(record["ending"], record["cause"]) for record in closed} == {("unknown", "restart")}

    lives = Counter(record["type"] for record in records)
    assert (lives["server.start"], lives["server.stop"]) == (KILLS + 1, 1)
    assert "Traceback" not in log
