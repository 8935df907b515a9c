"""What became of a call: its two records, its tokens in the metrics, its events on the wire."""

from __future__ import annotations

import json
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fakes.engine import FakeEngine
from support.house import House, until


def outcome_of(house: House, request_id: str) -> dict[str, Any]:
    """The one outcome of a call that has an intent, once it is there. No refusal stands beside it."""
    found: list[dict[str, Any]] = until(
        lambda: [each for each in house.records("outcome") if each["request_id"] == request_id],
        what=f"the outcome of {request_id}",
    )
    assert len(found) == 1
    kinds = [each["type"] for each in house.records() if each.get("request_id") == request_id]
    assert kinds == ["intent", "outcome"]
    return found[0]


def only_outcome(house: House) -> dict[str, Any]:
    """The outcome of the one call that this house has had, once it is there."""
    until(lambda: house.records("outcome"), what="an outcome")
    (intent,) = house.records("intent")
    return outcome_of(house, intent["request_id"])


def answered(house: House, answer: httpx.Response) -> dict[str, Any]:
    """The outcome of an answered call; it is durable already, for the answer has ended."""
    found = [each for each in house.records("outcome") if each["request_id"] == answer.headers["x-request-id"]]
    assert len(found) == 1
    assert found[0]["status"] == answer.status_code
    return outcome_of(house, answer.headers["x-request-id"])


def metric(house: House, name: str, **labels: str) -> float:
    """The sum over all samples of this name that have these labels; 0 where there is none."""
    total = 0.0
    for family in text_string_to_metric_families(house.metrics()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def idle(house: House) -> None:
    """Check that every place was given back: no call in progress, none at a replica."""
    until(lambda: metric(house, "vestry_requests_in_progress") == 0, what="no call in progress")
    until(lambda: metric(house, "vestry_replica_outstanding") == 0, what="no call at a replica")


def events(text: str) -> list[Any]:
    """The events of a stream, parsed; `[DONE]` as it is. Raises AssertionError if the last one is not whole."""
    assert text.endswith("\n\n"), "the stream ends inside an event"
    payloads = [each.removeprefix("data: ") for each in text[:-2].split("\n\n")]
    return [each if each == "[DONE]" else json.loads(each) for each in payloads]


def name(engine: FakeEngine) -> str:
    """A replica's name in metrics and records."""
    return engine.url.removeprefix("http://")


def content(answer: httpx.Response) -> str:
    """What the model said, streamed or not."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        return said(events(answer.text))
    return str(answer.json()["choices"][0]["message"]["content"])


def said(stream: list[Any]) -> str:
    """What the model said in a stream of chat chunks."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in stream
        if event != "[DONE]"
        for choice in event.get("choices", ())
    )
