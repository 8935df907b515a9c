"""Nothing tells one tenant of another: a model that is another's answers as one that there is not."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import httpx
import pytest

from fakes.engine import FakeEngine
from flow.conftest import RATES
from support.house import House, chat
from support.wire import Wire, chat_request, request

CALLS = 1000
TOLERANCE = 0.08
"""How far the chance that one kind of answer comes sooner may be from a half: five standard errors of 1,000 calls."""
TRIES = 3
OTHERS, NOBODYS = "large", "lurge"


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two tenants, each with a model of its own."""
    tenants = {"default": {**RATES, "models": ["small"]}, "other": {**RATES, "models": [OTHERS]}}
    models: dict[str, object] = {"small": {}, OTHERS: {}}
    with House(tmp_path_factory.mktemp("walls"), [shared_engine], tenants=tenants, models=models) as house:
        yield house


def asking(house: House, method: str, model: str) -> bytes:
    """The bytes of a call that names this model."""
    if method == "POST":
        return chat_request(house.key, chat(model=model))
    return request("GET", f"/v1/models/{model}", f"Authorization: Bearer {house.key}")


def told(answer: httpx.Response) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    """All of an answer that could tell something: not its id, nor the time of day."""
    headers = tuple(
        (name, value) for name, value in answer.headers.multi_items() if name not in {"x-request-id", "date"}
    )
    return answer.status_code, headers, answer.content


def sooner(one: list[float], other: list[float]) -> float:
    """The chance that a time of the first is less than one of the second (Mann and Whitney's U, as a share)."""
    ranked = sorted([(seconds, 0) for seconds in one] + [(seconds, 1) for seconds in other])
    ranks = sum(place for place, (_, which) in enumerate(ranked) if which == 1)
    return (ranks - len(other) * (len(other) - 1) / 2) / (len(one) * len(other))


def test_what_compares_times_sees_a_difference() -> None:
    """Times that differ by a standard deviation's third are found to; times of one kind are not."""
    dice = random.Random(7)
    one, same, later = ([dice.gauss(mean, 0.3) for _ in range(CALLS)] for mean in (1.0, 1.0, 1.1))
    assert abs(sooner(one, same) - 0.5) < TOLERANCE
    assert sooner(one, later) - 0.5 > TOLERANCE
    assert sooner(later, one) - 0.5 < -TOLERANCE


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_anothers_model_and_no_model_are_the_same(house: House, method: str) -> None:
    """By status, headers, body and time, over 1,000 calls each on one connection, in an order that is drawn."""
    calls = {model: asking(house, method, model) for model in (OTHERS, NOBODYS)}
    dice = random.Random(11)
    seen = set()
    for _ in range(TRIES):
        order = [OTHERS, NOBODYS] * CALLS
        dice.shuffle(order)
        times: dict[str, list[float]] = {OTHERS: [], NOBODYS: []}
        with Wire(house.port) as wire:
            for model in order:
                began = time.perf_counter()
                wire.send(calls[model])
                answer = wire.answer()
                times[model].append(time.perf_counter() - began)
                seen.add(told(answer))
        assert len(seen) == 1
        chance = sooner(times[OTHERS], times[NOBODYS])
        if abs(chance - 0.5) < TOLERANCE:
            break
    else:
        raise AssertionError(f"{method}: another's model answers sooner than no model with a chance of {chance}")
    [(status, _, body)] = seen
    assert status == 404
    assert b"model_not_found" in body
    assert house.get("/v1/models").json()["data"][0]["id"] == "small"
    assert len(house.get("/v1/models").json()["data"]) == 1
