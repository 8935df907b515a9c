"""Streams: each chunk leaves when it comes, usage is counted and withheld, and the end waits for the record."""

from __future__ import annotations

import itertools
import time

import httpx
import pytest

from fakes.engine import FakeEngine
from support.house import PLAIN, House, chat
from support.outcomes import answered, events, metric, said
from support.wire import Wire, chat_request

CONTENT = "The capital of France is Paris."


def test_a_stream_is_the_engines_stream(house: House, engine: FakeEngine) -> None:
    """Every event as the engine wrote it, but for the usage that this client did not ask for; then `[DONE]`."""
    answer = house.post(json=chat(stream=True))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["transfer-encoding"] == "chunked"
    found = events(answer.text)
    assert found[-1] == "[DONE]"
    assert len(found) == 1 + 7 + 1 + 1
    assert said(found) == CONTENT
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert all(each["id"] == f"chatcmpl-{answer.headers['x-request-id']}" for each in found[:-1])


def test_usage_is_always_counted_and_given_to_those_who_ask(house: House, engine: FakeEngine) -> None:
    """The engine is asked for it on every stream; the client sees it only if it did."""
    plain = house.post(json=chat(stream=True))
    asking = house.post(json=chat(stream=True, stream_options={"include_usage": True}))
    assert [call.json["stream_options"] for call in engine.calls] == [{"include_usage": True}] * 2
    assert "usage" not in plain.text
    assert events(asking.text)[-2]["usage"] == {"prompt_tokens": 24, "completion_tokens": 7, "total_tokens": 31}
    for answer in (plain, asking):
        outcome = answered(house, answer)
        assert (outcome["prompt_tokens"], outcome["completion_tokens"], outcome["estimated"]) == (24, 7, False)


def test_each_chunk_leaves_when_it_comes(house: House, engine: FakeEngine) -> None:
    """No buffering: the first words are here long before the last ones have been made."""
    engine.behave(between_seconds=0.1)
    came: list[float] = []
    with (
        httpx.Client(verify=PLAIN, headers={"authorization": f"Bearer {house.key}"}) as client,
        client.stream("POST", house.url + "/v1/chat/completions", json=chat(stream=True)) as answer,
    ):
        came.extend(time.monotonic() for line in answer.iter_lines() if '"content":' in line)
    assert len(came) == 9
    gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
    assert sorted(gaps[:-1])[1] > 0.05  # none came with another, but for one that was late
    assert came[-1] - came[0] > 0.5


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_how_the_engine_cuts_its_bytes_changes_nothing(house: House, engine: FakeEngine, size: int) -> None:
    """Chunks of the engine's that end anywhere, inside an event or a character."""
    engine.behave(words=("Zürich", " 東京", ' "finish_reason":"stop"', "\n\ndata: [DONE]\n\n", "."), split=size)
    answer = house.post(json=chat(stream=True))
    assert said(events(answer.text)) == 'Zürich 東京 "finish_reason":"stop"\n\ndata: [DONE]\n\n.'
    assert answered(house, answer)["completion_tokens"] == 5


def test_several_choices_share_a_stream(house: House, engine: FakeEngine) -> None:
    """It ends when the last of them has ended."""
    answer = house.post(json=chat(stream=True, n=3))
    found = events(answer.text)
    for index in range(3):
        own = [each for each in found[:-1] if each["choices"][0]["index"] == index]
        assert said(own) == CONTENT
        assert own[-1]["choices"][0]["finish_reason"] == "stop"
    assert answered(house, answer)["finish_reasons"] == ["stop"] * 3


def test_completions_stream_too(house: House, engine: FakeEngine) -> None:
    """`/v1/completions` with `stream`."""
    answer = house.post("/v1/completions", json={"model": "small", "prompt": "Hi", "stream": True})
    found = events(answer.text)
    assert "".join(each["choices"][0]["text"] for each in found[:-1]) == CONTENT
    assert answered(house, answer)["route"] == "completions"


def test_a_connection_carries_one_stream_after_another(house: House, engine: FakeEngine) -> None:
    """A stream's end is framed, so its connection can be used again."""
    with Wire(house.port) as wire:
        for _ in range(3):
            wire.send(chat_request(house.key, chat(stream=True)))
            answer = wire.answer()
            assert said(events(answer.text)) == CONTENT
            assert "connection" not in answer.headers


def test_time_to_first_token_is_the_engines_first_event(house: House, engine: FakeEngine) -> None:
    """Metered and recorded: at least the engine's own time, and less than the whole."""
    engine.behave(first_seconds=0.2, between_seconds=0.02)
    before = metric(house, "vestry_time_to_first_token_seconds_sum", model="small")
    outcome = answered(house, house.post(json=chat(stream=True)))
    assert 200_000 <= outcome["first_byte_us"] < outcome["duration_us"]
    spent = metric(house, "vestry_time_to_first_token_seconds_sum", model="small") - before
    assert spent == pytest.approx(outcome["first_byte_us"] / 1e6, abs=0.01)
