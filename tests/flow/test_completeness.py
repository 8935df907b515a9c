"""Completeness in whole: what the engine counted is what the log says, or somebody is told."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import FakeEngine
from support.house import ENGINE_KEY, PLAIN, House, chat, read_records, until
from support.server import ServerProcess
from vestry.audit.canonical import SAFE_INTEGER, leaf
from vestry.audit.condition import condition

FAST = {"reconcile_seconds": 0.1}
Sample = dict[str, float]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(key=ENGINE_KEY) as engine:
        yield engine


def samples(house: House, family: str) -> Sample:
    """The series of one family, by kind, or `requests`, or the replica where there is no kind."""
    found: Sample = {}
    for line in house.metrics().splitlines():
        if line.startswith(family + "{"):
            labels, value = line[len(family) :].rsplit(" ", 1)
            found[labels.partition('kind="')[2].partition('"')[0] or "all"] = float(value)
    return found


def behind(engine: FakeEngine, **more: Any) -> None:
    """A call to the engine behind the server's back, by somebody who has its key."""
    headers = {"authorization": f"Bearer {ENGINE_KEY}"}
    answer = httpx.post(engine.url + "/v1/chat/completions", json=chat(**more), headers=headers, verify=PLAIN)
    assert answer.status_code == 200


def looks(engine: FakeEngine) -> int:
    return sum(asked.path == "/metrics" for asked in engine.asked)


def look_again(engine: FakeEngine, times: int = 4) -> None:
    """Wait until the counters have been read so many times more."""
    before = looks(engine)
    until(lambda: looks(engine) >= before + times, what="looks at the counters")


def silent(house: House) -> None:
    """Nothing is unexplained."""
    assert not any(samples(house, "vestry_audit_unexplained_tokens_total").values())
    assert not any(samples(house, "vestry_audit_unexplained_requests_total").values())


def rows(house: House) -> list[dict[str, Any]]:
    return [
        {**row, "cause": record["cause"]} for record in house.records("log.reconciled") for row in record["replicas"]
    ]


def test_what_went_through_the_server_agrees(tmp_path: Path, engine: FakeEngine) -> None:
    """Plain, streamed, with several answers and several prompts: both sides count alike, and the log ends with both."""
    with House(tmp_path, [engine], audit=FAST) as house:
        for body in (chat(), chat(stream=True), chat(n=3), chat(stream=True, n=2)):
            assert house.post(json=body).status_code == 200
        body = {"model": "small", "prompt": ["a", "b"], "n": 2}
        assert house.post("/v1/completions", json=body).status_code == 200
        look_again(engine)
        reported = samples(house, "vestry_engine_reported_tokens_total")
        assert reported == samples(house, "vestry_audit_engine_tokens_total")
        assert reported == {"input": 24 * (1 + 1 + 3 + 2 + 2), "output": 7 * (1 + 1 + 3 + 2 + 4)}
        assert samples(house, "vestry_engine_reported_requests_total") == {"all": 11}
        assert not any(samples(house, "vestry_audit_uncounted_tokens_total").values())
        assert samples(house, "vestry_engine_counters_readable") == {"all": 1}
        silent(house)
    first, last = rows(house)
    assert (first["cause"], last["cause"]) == ("start", "stop")
    assert last["engine"] == last["least"] == last["most"] == [24 * 9, 77, 11]
    assert last["unexplained"] == last["uncounted"] == [0, 0, 0]


def test_a_call_behind_the_servers_back_is_noticed(tmp_path: Path, engine: FakeEngine, caplog: Any) -> None:
    """Within a look or two, to the token; counted, logged, and recorded at once. A second one adds to it."""
    with House(tmp_path, [engine], audit=FAST) as house:
        assert house.post(json=chat()).status_code == 200
        look_again(engine)
        silent(house)
        behind(engine)
        found = until(lambda: [row for row in rows(house) if row["cause"] == "difference"], seconds=10)
        assert found[0]["unexplained"] == [24, 7, 1]
        assert samples(house, "vestry_audit_unexplained_tokens_total") == {"input": 24, "output": 7}
        assert "work that no record explains" in caplog.text
        behind(engine, n=2)
        until(lambda: samples(house, "vestry_audit_unexplained_requests_total") == {"all": 3}, seconds=10)
        look_again(engine)
    assert sum(row["unexplained"][0] for row in rows(house)) == 24 * 3


def test_work_behind_the_back_shows_while_the_server_is_busy(tmp_path: Path, engine: FakeEngine) -> None:
    """Calls in progress are slack, but no more than they can come to: what is beyond it is noticed at once."""
    engine.behave(first_seconds=3.0)
    with House(tmp_path, [engine], audit=FAST) as house:
        thread = threading.Thread(target=lambda: house.post(json=chat(max_tokens=8)))
        thread.start()
        until(lambda: engine.calls, what="the engine to be asked")
        engine.behave(first_seconds=0.0)
        behind(engine)
        look_again(engine)
        silent(house)  # as far as anybody can tell, it was the call in progress
        behind(engine, n=8)
        until(lambda: samples(house, "vestry_audit_unexplained_requests_total") == {"all": 8}, seconds=10)
        thread.join()
        until(lambda: samples(house, "vestry_audit_unexplained_requests_total") == {"all": 9}, seconds=10)


def test_a_stream_cancelled_midway_is_no_alarm(tmp_path: Path, engine: FakeEngine) -> None:
    """Nor an answer in one piece whose client left, nor a stream that broke off; none of them leaves slack behind."""
    engine.behave(between_seconds=0.1)
    with House(tmp_path, [engine], audit=FAST) as house:
        headers = {"authorization": f"Bearer {house.key}"}
        url = house.url + "/v1/chat/completions"
        with httpx.stream("POST", url, json=chat(stream=True), headers=headers, verify=PLAIN) as answer:
            next(answer.iter_lines())
        engine.behave(between_seconds=0.0, die_after=3)
        house.post(json=chat(stream=True))
        engine.behave(die_after=None, first_seconds=5.0)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=chat(), headers=headers, verify=PLAIN, timeout=httpx.Timeout(20, read=0.3))
        engine.behave(first_seconds=0.0)
        until(lambda: len(house.records("outcome")) == 3, what="the outcomes")
        assert all("engine_work" in record for record in house.records("outcome"))
        until(lambda: engine.counters.running == 0, what="the engine to be idle")
        look_again(engine, 5)
        silent(house)
        behind(engine)
        until(lambda: samples(house, "vestry_audit_unexplained_requests_total") == {"all": 1}, seconds=10)


def test_a_restart_of_the_engine_is_no_alarm(tmp_path: Path, engine: FakeEngine) -> None:
    """Counters begin at zero, and what the killed engine had not yet shown leaves no place to hide work in."""
    with House(tmp_path, [engine], audit={"reconcile_seconds": 0.3}) as house:
        for _ in range(3):
            assert house.post(json=chat()).status_code == 200
        engine.stop()
        with FakeEngine(key=ENGINE_KEY, port=engine.port) as again:
            until(lambda: house.post(json=chat()).status_code == 200, what="an answer")
            look_again(again, 5)
            assert samples(house, "vestry_engine_restarts_total") == {"all": 1}
            silent(house)
            behind(again)
            until(lambda: samples(house, "vestry_audit_unexplained_requests_total") == {"all": 1}, seconds=10)


def test_work_while_the_server_was_down_is_noticed(tmp_path: Path) -> None:
    """The log says where the counters stood: after a stop, and after kill -9, the next life goes on from there."""
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine], audit=FAST) as server:
        server.start()
        with server.client() as client:
            assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        time.sleep(1.1)  # so late an engine might count what it has answered
        assert server.process is not None
        server.process.terminate()
        assert server.wait() == 0
        httpx.post(engine.url + "/v1/chat/completions", json=chat(), verify=PLAIN)
        server.start()
        home = server.settings.audit_directory / "server"
        (row,) = until(lambda: _unexplained(home), what="the difference")
        assert row["unexplained"] == [24, 7, 1]
        with server.client() as client:
            assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        server.process.kill()
        server.wait()
        server.start()
        look_again(engine, 5)
        assert len(_unexplained(home)) == 1


def test_calls_just_before_a_stop_are_no_doubt_about_the_engine(tmp_path: Path, engine: FakeEngine) -> None:
    """They may have been counted before the last look or after: an honest engine is not said to have counted less."""
    for _ in range(2):
        with House(tmp_path, [engine], audit=FAST) as house:
            assert house.post(json=chat()).status_code == 200
    with House(tmp_path, [engine], audit=FAST) as house:
        look_again(engine, 5)
    assert [row for row in rows(house) if any(row["uncounted"]) or any(row["unexplained"])] == []


@pytest.mark.parametrize("shared", [False, True])
def test_after_a_kill_the_metrics_begin_with_neither_side(shared: bool, tmp_path: Path) -> None:
    """What the killed life had counted and recorded is on neither side again: a Prometheus that has its series would
    add the engine's once more, and the alert on the sum of all servers would fire for nothing.
    """
    audit = {**FAST, "engines_shared": shared}
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine], audit=audit) as server:

        def sides() -> list[float]:
            page = httpx.get(f"{server.ops}/metrics", verify=PLAIN).text
            return [
                float(re.findall(rf"^vestry_{side}_requests_total{{.*}} (.+)$", page, re.MULTILINE)[0])
                for side in ("engine_reported", "audit_engine")
            ]

        for calls in (3, 2):
            server.start()
            look_again(engine)
            assert sides() == [0, 0]
            with server.client() as client:
                for _ in range(calls):
                    assert client.post("/v1/chat/completions", json=chat()).status_code == 200
            until(lambda calls=calls: sides() == [calls, calls], what="a look at the counters")  # type: ignore[misc]
            server.signal(signal.SIGKILL)
            server.wait()


def _unexplained(home: Path) -> list[dict[str, Any]]:
    records = read_records(home, "log.reconciled")
    return [row for record in records for row in record["replicas"] if any(row["unexplained"])]


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"vllm:prompt_tokens_total 1\nvllm:generation_tokens_total 1\n",
        b"vllm:prompt_tokens_total NaN\nvllm:generation_tokens_total 1\nvllm:request_success_total 1\n",
        b"vllm:prompt_tokens_total 1e300\nvllm:generation_tokens_total 1\nvllm:request_success_total 1\n",
        b"vllm:prompt_tokens_total -1\nvllm:generation_tokens_total 1\nvllm:request_success_total 1\n",
        b"\xff\xfe" * 1000,
        b"x" * ((8 << 20) + 1),
    ],
    ids=["empty", "one-missing", "nan", "absurd", "negative", "binary", "long"],
)
def test_an_engine_that_hides_its_counters_shows(tmp_path: Path, engine: FakeEngine, page: bytes) -> None:
    """It is said that there is no reading; the server goes on, and nothing is invented. That there is one again stands
    in the log at once: what `vestry audit status` says of an engine that came after the server is not an hour old."""
    engine.behave(metrics=page)
    with House(tmp_path, [engine], audit=FAST) as house:
        look_again(engine, 2)
        assert house.post(json=chat()).status_code == 200
        assert samples(house, "vestry_engine_counters_readable") == {"all": 0}
        silent(house)
        engine.behave(metrics=None)
        until(lambda: samples(house, "vestry_engine_counters_readable") == {"all": 1}, seconds=10)
        until(lambda: len(rows(house)) == 2, what="the record of it")
        (found,) = condition(house.settings.audit_directory / "server", "server").engines
        assert found.readable
    told = [(row["cause"], row["readable"]) for row in rows(house)]
    assert told == [("start", False), ("counters", True), ("stop", True)]


def test_an_engine_whose_counters_hang_does_not_hang_the_server(tmp_path: Path, engine: FakeEngine) -> None:
    """The server starts, serves and stops."""
    engine.behave(metrics_hang=True)
    with House(tmp_path, [engine], audit=FAST) as house:
        assert house.post(json=chat()).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 10
    (last,) = [row for row in rows(house) if row["cause"] == "stop"]
    assert not last["readable"]


def test_servers_that_share_an_engine_do_not_judge_alone(tmp_path: Path, engine: FakeEngine) -> None:
    """Each sees more engine work than its own, and says so without an alarm; the sum over their metrics agrees."""
    shared = {**FAST, "engines_shared": True}
    with House(tmp_path / "one", [engine], audit=shared) as one, House(tmp_path / "two", [engine], audit=shared) as two:
        look_again(engine)
        for house in (one, one, two):
            assert house.post(json=chat()).status_code == 200
        look_again(engine, 8)
        for house in (one, two):
            silent(house)
            assert samples(house, "vestry_engine_reported_requests_total") == {"all": 3}
        recorded = [samples(house, "vestry_audit_engine_requests_total")["all"] for house in (one, two)]
        assert recorded == [2, 1]


def test_an_answer_that_no_record_could_hold_is_none(tmp_path: Path, engine: FakeEngine) -> None:
    """A prompt is counted once for each answer: twice the most that an integer of a record can be does not reach the
    record, which would fail whoever verifies it. Nothing is lost by that, the server's own end least."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": SAFE_INTEGER, "completion_tokens": 2}
    body = json.dumps({"choices": [choice, {**choice, "index": 1}], "usage": usage}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with House(tmp_path, [engine], audit=FAST) as house:
        engine.behave(raw=head + body)
        assert house.post(json=chat(n=2, temperature=1)).status_code == 502
        engine.behave(raw=None)
        assert house.post(json=chat()).status_code == 200
        house.stop()
        assert house.fault is None
        assert [record["status"] for record in house.records("outcome")] == [502, 200]
        for record in house.records():
            leaf(record)  # raises what a verifier would find


def test_counters_that_lie_do_not_end_the_reconciling(tmp_path: Path, engine: FakeEngine) -> None:
    """They rise to the most that is believed, and begin anew, again and again: what that adds up to is recorded as far
    as a record can hold it, and the server ends in order."""
    page = b"vllm:prompt_tokens_total %d\nvllm:generation_tokens_total 0\nvllm:request_success_total 0\n"
    with House(tmp_path, [engine], audit={**FAST, "engines_shared": True}) as house:
        for _ in range(3):
            for count in (0, SAFE_INTEGER):
                engine.behave(metrics=page % count)
                look_again(engine, 2)
        house.stop()
        assert house.fault is None
        assert rows(house)[-1]["cause"] == "stop"
        for record in house.records("log.reconciled"):
            leaf(record)
