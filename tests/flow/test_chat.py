"""Whole calls in one piece: what the client gets, what the engine gets, and what is kept of it."""

from __future__ import annotations

import re

import pytest

from fakes.engine import FakeEngine
from support.house import ENGINE_KEY, House, chat
from support.outcomes import answered, metric

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTENT = "The capital of France is Paris."


def test_the_engines_answer_arrives_as_it_is(house: House, engine: FakeEngine) -> None:
    """Byte for byte what the engine said, as JSON, with a request id and a length."""
    answer = house.post(json=chat())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert int(answer.headers["content-length"]) == len(answer.content)
    body = answer.json()
    assert body["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    assert body["choices"][0]["message"]["content"] == CONTENT
    assert body["usage"] == {"prompt_tokens": 24, "completion_tokens": 7, "total_tokens": 31}


def test_the_engine_gets_our_words_and_nothing_of_the_clients(house: House, engine: FakeEngine) -> None:
    """The re-serialised body, our request id, the caller's trace, the engine's key; no header of the client's."""
    answer = house.post(
        content=b'{ "messages" : [ {"content":"Hi", "role":"user"} ],\n "temperature": 0, "model":"small" }',
        headers={
            "authorization": f"Bearer {house.key}",
            "content-type": "application/json",
            "traceparent": TRACE,
            "x-request-id": "mine",
            "x-secret": "mine",
            "cookie": "mine",
        },
    )
    assert answer.status_code == 200
    (asked,) = engine.calls
    assert asked.json["messages"] == [{"role": "user", "content": "Hi"}]
    assert asked.json["temperature"] == 0
    assert b"\n" not in asked.body
    assert asked.headers == {
        "host": engine.url.removeprefix("http://"),
        "authorization": f"Bearer {ENGINE_KEY}",
        "x-request-id": answer.headers["x-request-id"],
        "traceparent": TRACE,
        "content-type": "application/json",
        "content-length": str(len(asked.body)),
    }


def test_a_call_has_an_intent_and_an_outcome(house: House, engine: FakeEngine) -> None:
    """Who, what, which weights, why it was allowed, and how it went; never the key, never the words."""
    answer = house.post(
        json=chat("Is my secret safe?", temperature=0.5, max_tokens=9, user="ward 7"),
        headers={"authorization": f"Bearer {house.key}", "x-request-id": "theirs-1", "user-agent": "tests/1"},
    )
    outcome = answered(house, answer)
    (intent,) = [each for each in house.records("intent") if each["request_id"] == outcome["request_id"]]
    assert intent["index"] < outcome["index"]
    for record in (intent, outcome):
        assert record["tenant"] == "default"
        assert record["subject"] == "tester"
        assert record["key_id"].startswith("key_")
        assert record["model"] == "small"
        assert house.key not in str(record)
        assert "secret" not in str(record)
        assert CONTENT not in str(record)
    assert (intent["revision"], intent["quantization"]) == ("r1", "w8a8")
    assert intent["weights_digest"] == "sha256:" + "0" * 64
    assert (intent["rule"], intent["decision"], intent["stream"]) == ("tenant-model", "allow", False)
    assert (intent["client_request_id"], intent["user_agent"], intent["source"]) == ("theirs-1", "tests/1", "127.0.0.1")
    assert intent["sampling"]["max_tokens"] == 9
    assert intent["end_user"] == "ward 7"
    assert (outcome["ending"], outcome["status"], outcome["attempts"]) == ("complete", 200, 1)
    assert (outcome["prompt_tokens"], outcome["completion_tokens"], outcome["estimated"]) == (24, 7, False)
    assert outcome["finish_reasons"] == ["stop"]
    assert outcome["replica"] == engine.url.removeprefix("http://")
    assert 0 < outcome["first_byte_us"] <= outcome["duration_us"]
    assert "code" not in outcome


def test_a_call_is_metered_once(house: House, engine: FakeEngine) -> None:
    """One request, one ending, its tokens, one observation in each histogram."""
    series = {
        "vestry_requests_total": {"code": "200", "tenant": "default", "model": "small"},
        "vestry_outcomes_total": {"ending": "complete"},
        "vestry_request_duration_seconds_count": {},
        "vestry_time_to_first_token_seconds_count": {},
    }
    before = {name: metric(house, name, route="chat.completions", **labels) for name, labels in series.items()}
    tokens = metric(house, "vestry_tokens_total", kind="output")
    house.post(json=chat())
    for name, labels in series.items():
        assert metric(house, name, route="chat.completions", **labels) == before[name] + 1, name
    assert metric(house, "vestry_tokens_total", kind="output") == tokens + 7


def test_plain_completions_are_served_too(house: House, engine: FakeEngine) -> None:
    """`/v1/completions`, with several prompts and several choices each."""
    answer = house.post("/v1/completions", json={"model": "small", "prompt": ["One", "Two"], "n": 2})
    assert [choice["text"] for choice in answer.json()["choices"]] == [CONTENT] * 4
    outcome = answered(house, answer)
    assert (outcome["route"], outcome["operation"]) == ("completions", "text_completion")
    assert outcome["finish_reasons"] == ["stop"] * 4
    assert engine.calls[0].path == "/v1/completions"


def test_an_answer_with_too_few_choices_is_not_passed_on(house: House, engine: FakeEngine) -> None:
    """The client asked for three; an engine that gives one has failed."""
    body = b'{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    engine.behave(raw=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    assert house.post(json=chat()).status_code == 200
    assert house.post(json=chat(n=3)).status_code == 502


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/small"])
def test_models_are_recorded_like_calls(house: House, engine: FakeEngine, path: str) -> None:
    """Looking at the models is an outcome of its own, without an intent: no engine is asked."""
    answer = house.get(path)
    assert answer.status_code == 200
    found = [each for each in house.records() if each.get("request_id") == answer.headers["x-request-id"]]
    assert [(each["type"], each["operation"], each["status"]) for each in found] == [("outcome", "models", 200)]
    assert engine.calls == []


def test_request_ids_are_never_given_twice(house: House, engine: FakeEngine) -> None:
    """Whatever id the client sends, each answer has one of ours."""
    headers = {"authorization": f"Bearer {house.key}", "x-request-id": "always the same"}
    ids = {house.post(json=chat(), headers=headers).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
