"""Verdicts on replicas: slow ones and liars are ejected by their outcomes, never all of them, and come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from fakes.engine import FakeEngine
from support.house import PLAIN, House, chat, soon, until
from support.outcomes import answered, content, metric, name, only_outcome
from vestry import app
from vestry.adapters.health import HealthChecks

ANSWER = "The capital of France is Paris."


@pytest.fixture
def bad() -> Iterator[FakeEngine]:
    """The replica that is asked first."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def good() -> Iterator[FakeEngine]:
    """The other replica."""
    with FakeEngine() as engine:
        yield engine


class Load:
    """So many clients, each one call after another. Use as a context manager."""

    def __init__(self, house: House, clients: int, *, stream: bool) -> None:
        self._house, self._clients, self._stream = house, clients, stream
        self._over = threading.Event()
        self.statuses: list[int] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self._clients)
        self._work = [self._pool.submit(self._run) for _ in range(self._clients)]
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for work in self._work:
            work.result(30)
        self._pool.shutdown()

    def _run(self) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {self._house.key}"}, timeout=20, verify=PLAIN) as client:
            while not self._over.is_set():
                answer = client.post(self._house.url + "/v1/chat/completions", json=chat(stream=self._stream))
                self.statuses.append(answer.status_code)
                time.sleep(0.01)


def healthy(house: House) -> float:
    """How many replicas are in service."""
    return metric(house, "vestry_replica_healthy", model="small")


def ejected(house: House, engine: FakeEngine, cause: str) -> float:
    """Wait until this replica is ejected; the seconds that it took."""
    began = time.monotonic()
    labels = {"replica": name(engine), "cause": cause}
    until(lambda: metric(house, "vestry_replica_ejections_total", **labels), what="the replica to be ejected")
    return time.monotonic() - began


async def look(house: House) -> None:
    """What the server does four times a second: look for slow replicas."""
    house.server._router.look(time.monotonic())


def test_one_of_three_that_is_slow_is_ejected_within_two_seconds(tmp_path: Path) -> None:
    """Its health is good and every answer is right, only late: under load it is out of service within 2 s."""

    def attempt(number: int) -> float:
        with (
            FakeEngine() as bad,
            FakeEngine() as good,
            FakeEngine() as third,
            House(tmp_path / str(number), [bad, good, third]) as house,
        ):
            bad.behave(first_seconds=60)
            with Load(house, 6, stream=True):
                took = ejected(house, bad, "slow")
                assert healthy(house) == 2
                bad.stop()  # whoever waits for it is answered by another
            assert metric(house, "vestry_replica_ejections_total", replica=name(good)) == 0
            assert metric(house, "vestry_replica_ejections_total", replica=name(third)) == 0
        return took

    soon(2, attempt)


def test_a_long_prompt_takes_no_engine_out(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """An engine that takes 2 s to read 100 KB, and to begin an answer, is as good as its peer."""
    with House(tmp_path / "state", [bad, good]) as house:
        for _ in range(2):
            assert house.post(json=chat(stream=True)).status_code == 200
        bad.behave(first_seconds=2)
        good.behave(first_seconds=2)
        assert house.post(json=chat("x" * 100_000, stream=True)).status_code == 200
        asyncio.run_coroutine_threadsafe(look(house), house.loop).result(5)
        assert metric(house, "vestry_replica_ejections_total", cause="slow") == 0
        assert healthy(house) == 2


def test_one_that_lies_about_its_health_is_ejected_by_its_outcomes(tmp_path: Path) -> None:
    """Healthy by its own word, failing every call: ejected within 2 s, and no client notices."""

    def attempt(number: int) -> float:
        with FakeEngine() as bad, FakeEngine() as good, House(tmp_path / str(number), [bad, good]) as house:
            bad.behave(status=500)
            with Load(house, 4, stream=False) as load:
                took = ejected(house, bad, "status")
                asked = len(bad.calls)
                time.sleep(1)
                assert len(bad.calls) == asked
                assert healthy(house) == 1
            assert set(load.statuses) == {200}
        return took

    soon(2, attempt)


def test_they_are_never_all_ejected(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """Both fail every call, with good health: one stays in service, and as soon as it is well all is well."""
    with House(tmp_path / "state", [bad, good]) as house:
        bad.behave(status=500)
        good.behave(status=500)
        with Load(house, 4, stream=False) as load:
            until(lambda: metric(house, "vestry_replica_ejections_total"), what="an ejection")
            until(lambda: len(load.statuses) > 50, what="more calls")
            assert healthy(house) >= 1
            assert set(load.statuses) == {502}
            bad.behave(status=200)
            good.behave(status=200)
            until(lambda: load.statuses[-20:] == [200] * 20, what="good answers")


def test_all_down_is_told_at_once_and_mends_by_itself(tmp_path: Path, bad: FakeEngine) -> None:
    """503 without a wait, with Retry-After; not ready; back in service when the engine is."""
    with House(tmp_path / "state", [bad]) as house:
        bad.stop()
        until(lambda: house.get_ops("/readyz").status_code == 503, what="not ready")
        assert "models" in house.get_ops("/readyz").json()["missing"]
        began = time.monotonic()
        answer = house.post(json=chat())
        assert time.monotonic() - began < 5
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert answered(house, answer)["attempts"] == 0
        with FakeEngine(port=bad.port):
            until(lambda: house.get_ops("/readyz").status_code == 200, what="ready again")
            assert content(house.post(json=chat())) == ANSWER


def test_health_that_is_not_answered_takes_a_replica_out(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health check that fails or hangs, twice in a row: the others get its calls."""
    monkeypatch.setattr(app, "HealthChecks", partial(HealthChecks, patience=1))  # a server waits five seconds, twice
    with House(tmp_path / "state", [bad, good]) as house:
        bad.behave(health=500)
        good.behave(health_hangs=True)
        until(lambda: healthy(house) == 0, what="both out of service")
        bad.behave(health=200)
        until(lambda: healthy(house) == 1, what="one back")
        assert content(house.post(json=chat())) == ANSWER
        assert only_outcome(house)["replica"] == name(bad)


class PublicEngine(FakeEngine):
    """An engine that is said to be at a public address (RFC 5737's, which nobody has)."""

    @property
    def url(self) -> str:
        return "http://203.0.113.7:8000"


def test_a_public_address_is_never_called(tmp_path: Path) -> None:
    """Whatever gave the engine that address: the call fails at once, and nothing leaves for it."""
    with House(tmp_path / "state", [PublicEngine()], wait=False, relay={"connect_seconds": 30}) as house:
        began = time.monotonic()
        assert house.post(json=chat()).status_code in {502, 503}
        assert time.monotonic() - began < 10
