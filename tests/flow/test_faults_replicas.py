"""Replicas that fail: before the first byte another one answers, and what cannot be mended is told and recorded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.engine import Asked, Behaviour, FakeEngine
from support.house import ENGINE_KEY, PLAIN, House, chat, until
from support.outcomes import answered, content, events, idle, metric, name, said
from vestry import route
from vestry.adapters import upstream

ANSWER = "The capital of France is Paris."
QUIET = {"probe_seconds": 60}
"""Health is asked for once only, so that outcomes alone decide."""
SECRET = "secret engine words about the prompt"

# How a replica fails before its first byte, and the status that is told where nobody else answers.
FAILURES: dict[str, dict[str, Any]] = {
    "drops the connection": {"refuse": True},
    "dies before its first byte": {"die_after": 0, "raw": b""},
    "500": {"status": 500, "complaint": SECRET},
    "503": {"status": 503, "complaint": SECRET},
    "429": {"status": 429, "complaint": SECRET},
    "401": {"status": 401, "complaint": SECRET},
    "404": {"status": 404, "complaint": SECRET},
    "speaks another protocol": {"raw": b"\x16\x03\x01\x02\x00 SSH-2.0-secret engine words\r\n\r\n"},
    "breaks off in its headers": {"raw": b"HTTP/1.1 200 OK\r\ncontent-le"},
    "promises more than it sends": {"raw": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"},
    "states two lengths": {"raw": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"},
    "answers nonsense": {"raw": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope"},
    "answers another thing": {"raw": b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"choices":[]}'},
    "redirects": {"raw": b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"},
}


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


@pytest.fixture(scope="module")
def lone_engine() -> Iterator[FakeEngine]:
    """The one replica of `lone`."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def lone(lone_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with one replica, which is never taken out of service for what it does."""
    with House(tmp_path_factory.mktemp("lone"), [lone_engine], relay={**QUIET, "idle_seconds": 0.5}) as house:
        yield house


@pytest.fixture
def only(lone_engine: FakeEngine) -> Iterator[FakeEngine]:
    """The replica of `lone`, with nothing asked of it yet."""
    lone_engine.asked.clear()
    yield lone_engine
    lone_engine.behaviour = Behaviour()


# Before the first byte ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_another_replica_answers(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, failure: dict[str, Any], stream: bool
) -> None:
    """A failure before the first byte is invisible: one good answer, one outcome that counts both tries."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(**failure)
        answer = house.post(json=chat(stream=stream))
        assert answer.status_code == 200, answer.text
        assert content(answer) == ANSWER
        outcome = answered(house, answer)
        assert (outcome["attempts"], outcome["ending"]) == (2, "complete")
        assert outcome["replica"] == good.url.removeprefix("http://")
        assert metric(house, "vestry_upstream_retries_total", model="small") == 1
        idle(house)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_without_another_replica_the_client_is_told(
    lone: House, only: FakeEngine, failure: dict[str, Any], stream: bool
) -> None:
    """502 in OpenAI's shape, without a word of the engine's; recorded as failed; nothing is retried."""
    only.behave(**failure)
    answer = lone.post(json=chat(stream=stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
    assert "secret" not in answer.text
    outcome = answered(lone, answer)
    assert (outcome["ending"], outcome["code"], outcome["prompt_tokens"]) == ("failed", "engine_error", 0)
    assert (outcome["attempts"], outcome["replica"]) == (1, name(only))
    assert len(only.calls) <= 1
    assert metric(lone, "vestry_upstream_retries_total") == 0
    idle(lone)


def test_a_replica_that_is_not_there_is_passed_over(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """Nobody listens: the other replica answers, and the missing one gets no more calls until it is back."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.stop()
        for _ in range(5):
            assert content(house.post(json=chat())) == ANSWER
        assert [record["attempts"] for record in house.records("outcome")] == [2, 1, 1, 1, 1]
        assert metric(house, "vestry_replica_ejections_total", cause="down") == 1


def test_one_that_was_ejected_answers_while_the_other_is_down(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine
) -> None:
    """A verdict on one replica does not stop the model when the other one dies: no call is lost, and it stays ready."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(status=500)
        until(
            lambda: house.post(json=chat()) and metric(house, "vestry_replica_ejections_total", cause="status"),
            what="the ejection",
        )
        bad.behave(status=200)
        good.stop()
        for _ in range(3):
            assert content(house.post(json=chat())) == ANSWER
        assert house.get_ops("/readyz").status_code == 200
        assert metric(house, "vestry_replica_healthy", replica=name(bad)) == 1


def test_an_answer_that_the_engine_gave_up_is_none(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """vLLM ends the calls of an engine that is put to sleep, or paused, with 200 and the finish reason `abort`: what
    there is of an answer in one piece is thrown away, and another replica answers.
    """
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(finish_reason="abort", words=("The", " capi"))
        answer = house.post(json=chat())
        assert content(answer) == ANSWER
        outcome = answered(house, answer)
        assert (outcome["attempts"], outcome["replica"], outcome["finish_reasons"]) == (2, name(good), ["stop"])
        good.behave(finish_reason="abort")
        answer = house.post(json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
        assert answered(house, answer)["ending"] == "failed"


def test_an_answer_too_large_is_the_requests_fault(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """Many choices with many log probabilities outgrow any bound: the work is not done again elsewhere, nor by the
    client's own tries, and no engine is taken out of service for it.
    """
    with House(tmp_path / "state", [bad, good], relay={**QUIET, "answer_bytes": 65_536}) as house:
        for engine in (bad, good):
            engine.behave(words=("word " * 50,) * 400)
        for _ in range(4):
            answer = house.post(json=chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
            assert "larger than this server passes on" in answer.json()["error"]["message"]
            outcome = answered(house, answer)
            assert (outcome["ending"], outcome["attempts"]) == ("refused", 1)
        assert len(bad.calls) + len(good.calls) == 4
        assert metric(house, "vestry_replica_ejections_total") == 0
        idle(house)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_engine_that_is_busy_is_not_broken(tmp_path: Path, bad: FakeEngine, good: FakeEngine, stream: bool) -> None:
    """Where vLLM keeps no more calls waiting than it was told to, another replica is asked; where all are full the
    client is told to come again. None is taken out of service for having enough to do, nor said to have worked on it.
    """
    full = "The engine is currently busy and cannot accept new requests. Please try again later."
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(status=503, complaint=full)
        for _ in range(4):
            answer = house.post(json=chat(stream=stream))
            assert content(answer) == ANSWER
            assert answered(house, answer)["replica"] == name(good)
        good.behave(
            status=503, complaint="The engine has reached its prefill token backlog limit. Please try again later."
        )
        for _ in range(4):
            answer = house.post(json=chat(stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            outcome = answered(house, answer)
            assert (outcome["ending"], outcome["code"]) == ("failed", "overloaded")
            assert [row["replica"] for row in outcome["engine_work"]] == [outcome["replica"]]
        assert metric(house, "vestry_replica_ejections_total") == 0
        good.behave(status=200)
        assert content(house.post(json=chat(stream=stream))) == ANSWER
        idle(house)


def test_an_engine_that_is_busy_leaves_calls_to_the_others(
    tmp_path: Path,
    bad: FakeEngine,
    good: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that keeps nothing waiting has the least calls in progress: it is asked last for a moment all the same, and
    what it does not take another one gets, however little the budget of second tries. The log says what it said.
    """
    monkeypatch.setattr(route, "BUSY_SECONDS", 3600)
    with House(tmp_path / "state", [bad, good], relay={**QUIET, "retry_budget": 0.01}) as house:
        bad.behave(status=503, complaint="The engine is currently busy and cannot accept new requests.")
        good.behave(first_seconds=0.05)
        with ThreadPoolExecutor(2) as clients:
            for answer in clients.map(lambda _: house.post(json=chat()), range(50)):
                assert content(answer) == ANSWER
        assert f"a call to the engine {name(bad)} failed: it keeps no more calls waiting" in caplog.text
        assert len(good.calls) == 50
        assert len(bad.calls) <= 2


def test_a_redirect_is_not_followed(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """Wherever it points to: a redirect is a failure of the engine that sent it."""
    with House(tmp_path / "state", [bad], relay=QUIET) as house:
        bad.behave(raw=f"HTTP/1.1 302 X\r\nlocation: {good.url}/\r\ncontent-length: 0\r\n\r\n".encode())
        assert house.post(json=chat()).status_code == 502
        assert good.connections == 0


def test_retries_are_a_share_of_the_calls(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """A model that fails everywhere is not sent double the load: ten retries in hand, then one for five calls."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(status=500)
        good.behave(status=500)
        with httpx.Client(headers={"authorization": f"Bearer {house.key}"}, verify=PLAIN) as client:
            statuses = [client.post(house.url + "/v1/chat/completions", json=chat()).status_code for _ in range(60)]
        assert set(statuses) == {502}
        assert len(bad.calls) + len(good.calls) <= 60 + 10 + 60 * 0.2


def test_without_a_budget_nothing_is_retried(tmp_path: Path, bad: FakeEngine, good: FakeEngine) -> None:
    """`retry_budget: 0`: the failure is told, though another replica would answer."""
    with House(tmp_path / "state", [bad, good], relay={**QUIET, "retry_budget": 0}) as house:
        bad.behave(status=500)
        assert house.post(json=chat()).status_code == 502
        assert good.calls == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_replica_that_hangs_before_its_first_byte(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, stream: bool
) -> None:
    """After the deadline its connection is closed and another replica answers; if that hangs too, 504.

    The connections have been used before: a replica that hangs on one is asked once all the same.
    """
    deadlines = {**QUIET, "first_byte_seconds": 0.4, "answer_seconds": 0.4}
    with House(tmp_path / "state", [bad, good], relay=deadlines) as house:
        for _ in range(2):
            assert house.post(json=chat(stream=stream)).status_code == 200
        bad.behave(hang=True)
        began = time.monotonic()
        answer = house.post(json=chat(stream=stream))
        assert content(answer) == ANSWER
        assert 0.3 < time.monotonic() - began < 10
        assert answered(house, answer)["attempts"] == 2
        assert len(bad.calls) == 2
        until(lambda: bad.calls[-1].left_at, seconds=8, what="the engine to be left")
        good.behave(hang=True)
        began = time.monotonic()
        answer = house.post(json=chat(stream=stream))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
        assert time.monotonic() - began < 10
        outcome = answered(house, answer)
        assert (outcome["ending"], outcome["code"], outcome["attempts"]) == ("failed", "engine_timeout", 2)
        until(lambda: good.calls[-1].left_at, seconds=8, what="the engine to be left")
        idle(house)


# After it -------------------------------------------------------------------------------------------------------

BREAKS: dict[str, dict[str, Any]] = {
    "dies": {"die_after": 4},
    "hangs": {"hang_after": 4},
    "reports an error": {"error_after": 4, "complaint": SECRET},
    "ends short": {"end_after": 4},
    "ends with no finish reason": {"finish_reason": None},
    "ends with no usage": {"usage": False},
    "is put to sleep": {"finish_reason": "abort"},
    "dies after its last word": {"die_after": 9},
    "sends a line of 10 MB": {"long_line": 10_000_000},
    "dies byte by byte": {"die_after": 4, "split": 7},
}


@pytest.mark.parametrize("how", BREAKS.values(), ids=BREAKS)
def test_a_stream_that_breaks_is_never_a_silent_end(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, how: dict[str, Any]
) -> None:
    """An error event in place of the end, in a whole HTTP answer; recorded as truncated, with tokens; not retried."""
    with House(tmp_path / "state", [bad, good], relay={**QUIET, "idle_seconds": 0.5}) as house:
        bad.behave(**how)
        answer = house.post(json=chat(stream=True))
        found = events(answer.text)
        assert "[DONE]" not in found
        code = "engine_timeout" if "hang_after" in how else "engine_error"
        assert found[-1]["error"]["code"] == code
        assert said(found[:-1])
        assert "secret" not in answer.text
        outcome = answered(house, answer)
        assert (outcome["ending"], outcome["status"], outcome["code"]) == ("truncated", 200, code)
        assert outcome["prompt_tokens"] > 0
        assert 3 <= outcome["completion_tokens"] <= 10
        assert metric(house, "vestry_outcomes_total", ending="truncated") == 1
        assert metric(house, "vestry_tokens_total", kind="output") == outcome["completion_tokens"]
        assert good.calls == []
        idle(house)


@pytest.mark.parametrize("how", [BREAKS["dies"], BREAKS["ends short"], BREAKS["ends with no finish reason"]])
def test_openais_client_raises_where_a_stream_breaks(lone: House, only: FakeEngine, how: dict[str, Any]) -> None:
    """What has arrived is read, then comes an exception: a program cannot mistake a part for the whole."""
    only.behave(**how)
    words: list[str] = []
    with pytest.raises(openai.APIError, match="engine failed"):
        words.extend(
            chunk.choices[0].delta.content or "" for chunk in lone.client().chat.completions.create(**chat(stream=True))
        )
    assert ANSWER.startswith("".join(words))
    assert "".join(words)


def test_openais_client_raises_where_the_engine_fails(lone: House, only: FakeEngine) -> None:
    """502 is an InternalServerError, with the server's code."""
    only.behave(status=500)
    with pytest.raises(openai.InternalServerError) as refused:
        lone.client().chat.completions.create(**chat())
    assert (refused.value.status_code, refused.value.code) == (502, "engine_error")


def test_the_clients_connection_survives_a_broken_stream(lone: House, only: FakeEngine) -> None:
    """The broken answer is whole HTTP, so the next call may use the same connection."""
    until(lambda: metric(lone, "vestry_connections") == 0, what="no connection of earlier tests")
    with httpx.Client(headers={"authorization": f"Bearer {lone.key}"}, verify=PLAIN) as client:
        only.behave(die_after=3)
        client.post(lone.url + "/v1/chat/completions", json=chat(stream=True))
        only.behave(die_after=None)
        again = client.post(lone.url + "/v1/chat/completions", json=chat())
        assert content(again) == ANSWER
        assert metric(lone, "vestry_connections") == 1


# Requests that the engine finds wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "complaint",
    [
        ("This model's maximum context length is 2048 tokens. However, you requested", "context_length_exceeded"),
        ("jinja2.exceptions.TemplateError: Conversation roles must alternate", "invalid_request"),
        ("", "invalid_request"),
    ],
)
def test_what_the_engine_refuses_is_refused_in_our_words(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, complaint: tuple[str, str], stream: bool
) -> None:
    """400 stays 400, in a sentence of ours; it is not tried elsewhere, and nothing is held against the replica."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        words, code = complaint
        bad.behave(status=400, complaint=f"{words} {SECRET}")
        answer = house.post(json=chat(stream=stream))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        assert "secret" not in answer.text
        outcome = answered(house, answer)
        assert (outcome["ending"], outcome["attempts"], outcome["replica"]) == ("refused", 1, name(bad))
        assert good.calls == []
        assert metric(house, "vestry_replica_ejections_total") == 0


def test_what_the_engine_refuses_within_a_stream_is_the_same_refusal(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine
) -> None:
    """vLLM looks at a schema after it has begun the stream: its 400 is an event. No engine is taken for broken."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        for engine in (bad, good):
            engine.behave(error_after=0, error_status=400, complaint=f"Grammar error: {SECRET}")
        for _ in range(4):
            answer = house.post(json=chat(stream=True))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
            assert "enforce" in answer.json()["error"]["message"]
            assert "secret" not in answer.text
            outcome = answered(house, answer)
            assert (outcome["ending"], outcome["attempts"]) == ("refused", 1)
        assert len(bad.calls + good.calls) == 4
        assert metric(house, "vestry_replica_ejections_total") == 0


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}}
GIVEN_UP = {"complaint": "Internal server error", "error_status": 500}


@pytest.mark.parametrize(
    "how", [{"error_after": 0}, {"error_after": 1}, {"status": 500}], ids=["first", "later", "whole"]
)
def test_a_schema_that_an_engine_gives_up_is_the_clients_fault(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine, how: dict[str, Any]
) -> None:
    """vLLM says 500 where its core cannot compile a grammar, within a stream too: no engine is taken for broken."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        for engine in (bad, good):
            engine.behave(**GIVEN_UP, **how)
        for _ in range(4):
            answer = house.post(json=chat(stream="status" not in how, response_format=SCHEMA))
            begun = how.get("error_after") == 1
            error = events(answer.text)[-1]["error"] if begun else answer.json()["error"]
            assert answer.status_code == (200 if begun else 400)
            assert (error["code"], error["param"]) == ("invalid_request", "response_format")
            outcome = answered(house, answer)
            assert (outcome["ending"], outcome["attempts"]) == ("truncated" if begun else "refused", 1)
        assert len(bad.calls + good.calls) == 4
        assert metric(house, "vestry_replica_ejections_total") == 0


def test_a_call_without_a_schema_that_an_engine_gives_up_is_the_engines_fault(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine
) -> None:
    """The same words without a schema are a failure like any other: tried elsewhere."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        bad.behave(status=500, complaint="Internal server error")
        assert content(house.post(json=chat())) == ANSWER
        bad.behave(status=500, complaint=SECRET)
        assert content(house.post(json=chat(response_format=SCHEMA))) == ANSWER
        assert len(bad.calls) == 2


# Connections ----------------------------------------------------------------------------------------------------


def test_connections_to_an_engine_are_used_again(tmp_path: Path, good: FakeEngine) -> None:
    """A hundred calls, streamed and not, one after another: one connection, with the engine's key on each."""
    with House(tmp_path / "state", [good], relay=QUIET) as house:
        with httpx.Client(headers={"authorization": f"Bearer {house.key}"}, verify=PLAIN) as client:
            for number in range(100):
                answer = client.post(house.url + "/v1/chat/completions", json=chat(stream=number % 2 == 0))
                assert content(answer) == ANSWER
        assert len(good.calls) == 100
        assert good.connections <= 2
        assert {asked.headers["authorization"] for asked in good.calls} == {f"Bearer {ENGINE_KEY}"}
        assert {asked.headers["host"] for asked in good.calls} == {name(good)}


@pytest.mark.parametrize("how", [{"close_when_done": True}, {"requests_per_connection": 1}])
def test_stale_connections_are_replaced_without_an_error(tmp_path: Path, good: FakeEngine, how: dict[str, Any]) -> None:
    """The engine closes after each answer, or when the next request comes: no call fails, none is sent twice."""
    with House(tmp_path / "state", [good], relay=QUIET) as house:
        good.behave(**how)
        for number in range(20):
            answer = house.post(json=chat(stream=number % 2 == 0))
            assert content(answer) == ANSWER
            assert answered(house, answer)["attempts"] == 1
        assert len(good.calls) == 20
        assert metric(house, "vestry_upstream_retries_total") == 0
        assert metric(house, "vestry_replica_ejections_total") == 0


def test_a_call_that_an_engine_dies_of_is_sent_elsewhere_and_the_record_names_both(
    tmp_path: Path, bad: FakeEngine, good: FakeEngine
) -> None:
    """It works for a while, and then closes a connection that has served before: it has the call once, what it did is
    explained, and the second try is one of the budget's."""
    with House(tmp_path / "state", [bad, good], relay=QUIET) as house:
        for _ in range(2):
            assert content(house.post(json=chat())) == ANSWER
        bad.behave(first_seconds=0.3, die_after=0)
        answer = house.post(json=chat())
        assert content(answer) == ANSWER
        assert (len(bad.calls), len(good.calls)) == (2, 2)
        assert bad.calls[1].connection == bad.calls[0].connection
        outcome = answered(house, answer)
        assert (outcome["replica"], outcome["attempts"]) == (name(good), 2)
        assert [row["replica"] for row in outcome["engine_work"]] == [name(bad), name(good)]
        assert metric(house, "vestry_upstream_retries_total") == 1


def test_a_call_that_is_sent_again_at_once_is_recorded_as_asked_twice(
    tmp_path: Path, good: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine closes a connection that has served before, just after it was asked: whether it was idle or at work
    already, nobody can tell. The call goes there once more, and what the engine may have done of it is explained.
    """
    monkeypatch.setattr(upstream, "STALE_SECONDS", 5)
    with House(tmp_path / "state", [good], relay=QUIET) as house, ThreadPoolExecutor(1) as aside:
        assert content(house.post(json=chat())) == ANSWER
        good.behave(first_seconds=0.5, die_after=0)
        asked = aside.submit(house.post, json=chat())
        until(lambda: len(good.calls) == 3, what="the second asking")
        good.behave(die_after=None)
        answer = asked.result(20)
        assert (content(answer), len(good.calls)) == (ANSWER, 3)
        (work,) = answered(house, answer)["engine_work"]
        assert work == {"replica": name(good), "least": [24, 7, 1], "most": [2048 + 24, 2048 + 7, 2]}


def test_an_engine_that_dies_with_its_only_call_is_told(tmp_path: Path, good: FakeEngine) -> None:
    """There is no other: 502, and the engine has had the call once."""
    with House(tmp_path / "state", [good], relay=QUIET) as house:
        assert house.post(json=chat()).status_code == 200
        good.behave(first_seconds=0.3, die_after=0)
        answer = house.post(json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
        assert len(good.calls) == 2
        assert [row["replica"] for row in answered(house, answer)["engine_work"]] == [name(good)]


class Behind(FakeEngine):
    """Answers each call with the answer to the one before, as where an answer too many is on its way."""

    before: Asked | None = None

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        if not asked.path.startswith("/v1/"):
            return await super()._answer(asked, writer)
        found, self.before = self.before or asked, asked
        return await super()._answer(found, writer)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_to_another_call_reaches_nobody(tmp_path: Path, stream: bool) -> None:
    """Whatever got out of step between here and the engine: what one caller was told is not told to the next. Where it
    has come in pieces, too."""
    with Behind() as engine, House(tmp_path / "state", [engine], relay=QUIET) as house:
        first = house.post(json=chat(stream=stream))
        assert first.status_code == 200
        for split in (0, 5):
            engine.behave(split=split)
            second = house.post(json=chat(stream=stream))
            assert (second.status_code, second.json()["error"]["code"]) == (502, "engine_error")
            assert answered(house, second)["ending"] == "failed"
        idle(house)


def test_why_calls_fail_at_an_engine_stands_in_the_log(
    tmp_path: Path, bad: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Each reason once, however many calls it costs: it is all that an operator has who has one engine only, which is
    never ejected. Not a word of it is the engine's, and a good answer says nothing."""

    def told(**how: Any) -> list[str]:
        caplog.clear()
        bad.behaviour = Behaviour(**how)
        for _ in range(3):
            house.post(json=chat(stream=True))
        found = [record.getMessage() for record in caplog.records if "a call to the engine" in record.message]
        return [each.removeprefix(f"a call to the engine {name(bad)} failed: ") for each in found]

    with House(tmp_path / "state", [bad], relay={**QUIET, "first_byte_seconds": 0.2}) as house:
        assert told() == []
        assert told(**FAILURES["401"]) == ["it answered 401"]
        assert told(**FAILURES["answers nonsense"]) == ["the engine did not stream"]
        assert told(**BREAKS["dies"]) == ["the engine closed the connection"]
        assert told(hang=True) == ["the engine was silent too long"]
        bad.stop()
        assert told() == ["it cannot be connected to (ECONNREFUSED)"]


def test_an_engine_that_asks_for_another_key_is_told_to_nobody(tmp_path: Path) -> None:
    """The engine's 401 is our fault: 502 for the client, whose own key is good."""
    with FakeEngine(key="another") as engine, House(tmp_path / "state", [engine], relay=QUIET) as house:
        answer = house.post(json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
        assert "www-authenticate" not in answer.headers
        assert json.loads(answer.text)["error"]["type"] == "server_error"
