"""Nothing is served unrecorded: what calls get while the record cannot be written, and how it mends."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.audit import read
from fakes.engine import Behaviour, FakeEngine
from support.desk import Desk
from support.disk import Disk
from support.house import PLAIN, House, chat, until
from support.outcomes import events, idle, metric, said
from support.wire import Wire, chat_request, request
from vestry.roles import Role

CONTENT = "The capital of France is Paris."
WRITE_FAULTS = {
    "disk full": (errno.ENOSPC, ("write", "create")),
    "read-only": (errno.EROFS, ("write", "create")),
    "failing": (errno.EIO, ("sync",)),
}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under the record."""
    disk = Disk(monkeypatch)
    yield disk
    disk.mend()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A good engine."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def house(tmp_path: Path, engine: FakeEngine, disk: Disk) -> Iterator[House]:
    """A house whose calls wait half a second for their record."""
    with House(tmp_path / "state", [engine], audit={"commit_seconds": 0.5}) as house:
        assert house.key
        yield house
        disk.mend()


def whole_log(house: House) -> list[dict[str, Any]]:
    """The stopped house's record, read strictly, with every intent closed once."""
    house.stop()
    records = read(house.settings.audit_directory, house.settings.audit.origin)
    intents = [each["request_id"] for each in records if each["type"] == "intent"]
    closed = [each["request_id"] for each in records if each["type"] == "intent.closed"]
    outcomes = [each["request_id"] for each in records if each["type"] == "outcome"]
    assert sorted(intents) == sorted(closed + [each for each in outcomes if each in set(intents)])
    return records


def refused(answer: httpx.Response) -> bool:
    """Whether this is the answer that nothing could be recorded."""
    return (
        answer.status_code == 503
        and answer.json()["error"]["code"] == "audit_unavailable"
        and answer.headers["x-should-retry"] == "false"
    )


def back(house: House) -> None:
    """Wait until the house is ready by itself, and answers."""
    until(lambda: house.get_ops("/readyz").status_code == 200, what="readiness")
    assert metric(house, "vestry_audit_healthy") == 1
    assert house.post(json=chat()).status_code == 200


@pytest.mark.parametrize("fault", WRITE_FAULTS.values(), ids=WRITE_FAULTS)
def test_while_the_record_cannot_be_written_nothing_is_served(
    house: House, engine: FakeEngine, disk: Disk, fault: tuple[int, tuple[str, ...]]
) -> None:
    """503 for every route, refusals too; no engine is asked; not ready; it mends without any traffic."""
    number, names = fault
    disk.fail(number, *names)
    assert refused(house.post(json=chat()))
    assert refused(house.post(json=chat(stream=True)))
    assert refused(house.get("/v1/models"))
    assert refused(house.post(json=chat(), headers={"authorization": "Bearer vst_wrong"}))
    assert engine.calls == []
    assert house.get_ops("/readyz").json()["missing"] == {"record": "the record cannot be written"}
    assert metric(house, "vestry_audit_healthy") == 0
    assert metric(house, "vestry_audit_failures_total") >= 1
    answered = {name: metric(house, "vestry_requests_total", code=name) for name in ("200", "401", "503")}
    assert answered == {"200": 0, "401": 0, "503": 4}
    assert metric(house, "vestry_refusals_total", reason="audit_unavailable") == 4
    disk.mend()
    back(house)
    idle(house)
    assert [each["type"] for each in whole_log(house)].count("log.recovered") == 1


def test_the_administration_counts_what_its_callers_get(house: House, disk: Disk) -> None:
    """503 while nothing can be recorded, whatever it would have been: an answer, or a refusal of another kind."""
    desk = Desk(house, Role.ADMIN)
    disk.fail(errno.ENOSPC, "write", "create")
    assert refused(desk.get("/tenants"))
    assert refused(desk.get("/nothing"))
    assert refused(desk.get("/tenants", authorization="Bearer vst_wrong"))
    answered = {name: metric(house, "vestry_requests_total", code=name) for name in ("200", "401", "404", "503")}
    assert answered == {"200": 0, "401": 0, "404": 0, "503": 3}
    assert metric(house, "vestry_refusals_total", reason="audit_unavailable") == 3


def test_a_record_that_hangs_is_no_record(house: House, engine: FakeEngine, disk: Disk) -> None:
    """After the deadline 503, later calls at once; when the disk moves again so does the server."""
    disk.block()
    began = time.monotonic()
    assert refused(house.post(json=chat()))
    assert 0.4 < time.monotonic() - began < 10
    began = time.monotonic()
    assert refused(house.post(json=chat()))
    assert time.monotonic() - began < 0.4
    assert house.get_ops("/readyz").status_code == 503
    assert engine.calls == []
    disk.mend()
    back(house)
    whole_log(house)


def test_openais_client_does_not_try_again(house: House, engine: FakeEngine, disk: Disk) -> None:
    """`x-should-retry: false` is obeyed: one request, one exception."""
    disk.fail(errno.ENOSPC, "write", "create")
    with pytest.raises(openai.InternalServerError) as told:
        house.client(max_retries=3).chat.completions.create(**chat())
    assert told.value.code == "audit_unavailable"
    assert metric(house, "vestry_requests_total", code="503") == 1


def test_the_engine_is_asked_once_the_intent_is_durable(house: House, engine: FakeEngine, disk: Disk) -> None:
    """Not a byte to the engine before fdatasync has returned."""
    disk.block()
    with Wire(house.port) as wire:
        wire.send(chat_request(house.key, chat()))
        until(lambda: metric(house, "vestry_requests_in_progress") == 1, what="the call")
        assert engine.calls == []
        disk.mend()
        assert wire.answer().status_code == 200
    assert len(engine.calls) == 1


def test_the_end_of_a_stream_leaves_once_the_outcome_is_durable(house: House, engine: FakeEngine, disk: Disk) -> None:
    """The words do not wait; the finish reason and `[DONE]` do."""
    engine.behave(first_seconds=0.1)
    with Wire(house.port) as wire:
        wire.send(chat_request(house.key, chat(stream=True)))
        until(lambda: engine.calls, what="the engine to be asked")
        disk.block()
        lines = b""
        while b"Paris" not in lines:
            lines += wire.line()
        while b'"."' not in lines:
            lines += wire.line()
        lines += wire.line() + wire.line()
        assert not wire.readable(0.2)
        assert b"stop" not in lines
        disk.mend()
        rest = b"".join(iter(wire.line, b"0\r\n"))
        assert b'"finish_reason":"stop"' in rest
        assert b"[DONE]" in rest


@pytest.mark.parametrize("how", ["fails", "hangs"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_outcome_that_cannot_be_written_is_not_delivered(
    house: House, engine: FakeEngine, disk: Disk, stream: bool, how: str
) -> None:
    """In one piece: 503, without the answer. Streamed: an error event in place of the end. The intent is closed."""
    engine.behave(first_seconds=0.2)
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(house.post, json=chat(stream=stream))
        until(lambda: engine.calls, what="the engine to be asked")
        if how == "fails":
            disk.fail(errno.EIO, "sync")
        else:
            disk.block()
        answer = answering.result(10)
    if stream:
        found = events(answer.text)
        assert said(found[:-1]) == CONTENT
        assert found[-1]["error"]["code"] == "audit_unavailable"
        assert '"stop"' not in answer.text
    else:
        assert refused(answer)
        assert CONTENT not in answer.text
    assert metric(house, "vestry_requests_total", code=str(answer.status_code)) == 1
    assert metric(house, "vestry_outcomes_total", ending="truncated" if stream else "failed") == 1
    disk.mend()
    engine.behave(first_seconds=0)
    back(house)
    records = whole_log(house)
    about = [each["type"] for each in records if each.get("request_id") == answer.headers["x-request-id"]]
    assert about[0] == "intent"
    assert set(about[1:]) <= {"intent.closed", "outcome"}
    assert len(about) == 2


def test_openais_client_raises_where_the_outcome_is_lost(house: House, engine: FakeEngine, disk: Disk) -> None:
    """A program cannot mistake an unrecorded stream for a whole one."""
    engine.behave(between_seconds=0.03)
    stream = iter(house.client().chat.completions.create(**chat(stream=True)))
    next(stream)
    disk.fail(errno.ENOSPC, "write", "create")
    with pytest.raises(openai.APIError, match="not be recorded"):
        list(stream)


CUT_OFF: dict[str, Callable[[House], tuple[int, bytes]]] = {
    "a call": lambda house: (house.port, chat_request(house.key, chat())),
    "a stream": lambda house: (house.port, chat_request(house.key, chat(stream=True))),
    "a look": lambda house: (house.port, request("GET", "/v1/models", f"Authorization: Bearer {house.key}")),
    "a stranger": lambda house: (house.port, request("GET", "/v1/models")),
    "no route": lambda house: (house.port, request("GET", "/nothing")),
    "an administrator": lambda house: (_admin(house), request("GET", WHOAMI, f"Authorization: Bearer {house.key}")),
    "a stranger there": lambda house: (_admin(house), request("GET", WHOAMI)),
}
WHOAMI = "/admin/v1/whoami"


def _admin(house: House) -> int:
    return int(house.admin.rsplit(":", 1)[1])


@pytest.mark.parametrize("what", CUT_OFF)
def test_a_stop_does_not_wait_for_a_record_and_no_second_one_is_written(
    tmp_path: Path, engine: FakeEngine, disk: Disk, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The drain time ends while the disk hangs under an outcome or a refusal: the client is told that the server stops,
    in an answer of ours; the record that is on its way is the only one; no traceback."""
    engine.behave(first_seconds=0.2)
    with House(tmp_path / "state", [engine], relay={"probe_seconds": 60}, server={"drain_seconds": 0.3}) as house:
        port, asked = CUT_OFF[what](house)
        with Wire(port) as wire, ThreadPoolExecutor(1) as pool:
            if engine_asked := what in {"a call", "a stream"}:
                wire.send(asked)
                until(lambda: engine.calls, what="the engine to be asked")
            disk.block()
            if not engine_asked:
                wire.send(asked)
            until(lambda: disk.held, what="the record to be written")
            stopping = pool.submit(house.stop)
            answer = wire.answer()
            assert not stopping.done()
            disk.mend()
            stopping.result(20)
        told = events(answer.text)[-1] if what == "a stream" else answer.json()
        assert (told["error"]["code"], told["error"]["message"]) == ("overloaded", "The server is stopping.")
        kinds = [each["type"] for each in house.records() if each.get("request_id") == answer.headers["x-request-id"]]
    expected = ["intent", "outcome"] if engine_asked else ["outcome" if "Authorization" in str(asked) else "refusal"]
    assert kinds == expected
    assert [each.exc_info for each in caplog.records if each.exc_info] == []


def test_every_answer_that_was_served_is_recorded_though_the_disk_comes_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load, with faults again and again: every good answer has its intent and its outcome."""
    disk = Disk(monkeypatch)
    served: list[str] = []
    lost: list[str] = []
    over = threading.Event()
    behaviour = Behaviour(first_seconds=0.005, between_seconds=0.001)
    with (
        FakeEngine(behaviour=behaviour) as engine,
        House(tmp_path / "state", [engine], audit={"commit_seconds": 0.3}) as house,
    ):

        def work(stream: bool) -> None:
            with httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {house.key}"}, timeout=20) as client:
                while not over.is_set():
                    answer = client.post(house.url + "/v1/chat/completions", json=chat(stream=stream))
                    good = answer.status_code == 200 and (not stream or answer.text.endswith("data: [DONE]\n\n"))
                    (served if good else lost).append(answer.headers["x-request-id"])
                    time.sleep(0.005)

        assert house.key
        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work, number % 2 == 0) for number in range(4)]
            for fault in ("write", "sync", "hang", "sync", "write"):
                time.sleep(0.15)
                if fault == "hang":
                    disk.block()
                    time.sleep(0.35)
                else:
                    disk.fail(errno.EIO, fault, "create")
                    time.sleep(0.1)
                disk.mend()
                until(lambda: house.get_ops("/readyz").status_code == 200, what="readiness")
            over.set()
            for each in working:
                each.result(20)
        records = whole_log(house)
    kinds: dict[str, list[str]] = {}
    for record in records:
        kinds.setdefault(record.get("request_id", ""), []).append(record["type"])
    assert len(served) > 20
    assert lost
    for request_id in served:
        assert kinds[request_id] == ["intent", "outcome"]
