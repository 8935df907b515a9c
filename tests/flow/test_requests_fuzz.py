"""Whatever the bytes: an answer with the right shape and never a 500, and an engine that gets only what is allowed.

The examples are the same in every run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fakes.engine import FakeEngine
from support.house import House, chat
from support.refusal import Visit, check_shape
from support.wire import Wire, chat_request, chunked

CALM = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
PASSABLE = {
    "model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "top_k", "min_p", "repetition_penalty",
    "min_tokens", "stop_token_ids", "bad_words", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
    "spaces_between_special_tokens", "structured_outputs", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "logprobs", "top_logprobs", "continue_final_message", "add_generation_prompt",
}  # fmt: skip
FULL = chat(
    stream=False,
    n=1,
    max_tokens=5,
    temperature=0.5,
    stop=["a"],
    logit_bias={"5": 1},
    metadata={"a": "b"},
    user="u",
    tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}],
    tool_choice="auto",
    response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"pattern": "a+"}}},
)
SECONDS = 0.15

numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -0.0, 1e308, 5e-324])
)
texts = st.one_of(st.text(max_size=20), st.sampled_from(["", "\0", "\ud800", "small", "user", "\r\n", "a" * 600]))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that loses patience at once, and whose rates do not come in the way."""
    rates = {"requests_per_minute": 1_000_000, "key_requests_per_minute": 1_000_000}
    door = {"header_seconds": SECONDS, "body_seconds": SECONDS}
    with House(tmp_path_factory.mktemp("fuzz"), [shared_engine], tenants={"default": rates}, door=door) as house:
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[httpx.Client]:
    """One connection for all examples, for as long as it lasts."""
    headers = {"authorization": f"Bearer {house.key}", "content-type": "application/json"}
    with httpx.Client(base_url=house.url, headers=headers, timeout=10) as client:
        yield client


def write(value: Any) -> bytes:
    """JSON as Python writes it, with NaN and lone surrogates where there are some."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def check(answer: httpx.Response, engine: FakeEngine) -> None:
    """The answer is 200 and the engine got what is allowed, or it is a refusal and the engine heard nothing."""
    calls, engine.asked[:] = engine.calls, []
    if answer.status_code != 200:
        assert answer.status_code in (400, 404, 413, 415), answer.text
        check_shape(answer)
        assert calls == []
        return
    (call,) = calls
    got = json.loads(call.body, parse_constant=pytest.fail)
    assert set(call.asked) <= PASSABLE
    assert got["model"] == "small"
    assert got["messages"]
    assert 1 <= (got.get("n") or 1) <= 8
    assert 1 <= (got.get("max_tokens") or 1) <= 2048
    assert b"\\u0000" not in call.body.replace(b"\\\\", b"")


@given(body=st.binary(max_size=200))
@CALM
def test_random_bytes_are_refused(body: bytes, client: httpx.Client, engine: FakeEngine) -> None:
    """No bytes that are not a call become one."""
    answer = client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    check(answer, engine)


@given(body=values)
@CALM
def test_random_json_is_refused(body: Any, client: httpx.Client, engine: FakeEngine) -> None:
    """Nor does any JSON, on either route."""
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = client.post(path, content=write(body))
        assert answer.status_code == 400
        check(answer, engine)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


PLACES = places(FULL)[1:]


WAYS = ["replace", "remove", "add", "twice"]


@given(change=st.tuples(st.sampled_from(WAYS), st.sampled_from(PLACES), texts, values))
@example(change=("replace", ("stream",), "", True))
@example(change=("replace", ("messages", 0, "role"), "", "assistant"))
@example(change=("twice", ("n",), "", None))
@CALM
def test_a_good_body_with_one_thing_changed_never_breaks_the_server(
    change: tuple[str, tuple[Any, ...], str, Any], client: httpx.Client, engine: FakeEngine
) -> None:
    """One value replaced, removed, added or doubled: a call within the bounds, or a refusal that says so."""
    how, path, name, value = change
    body = copy.deepcopy(FULL)
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    if how == "replace":
        holder[path[-1]] = value
    elif how == "remove":
        del holder[path[-1]]
    elif how == "add" and isinstance(holder, dict):
        holder[name] = value
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[0]))
    raw = write(body)
    if how == "twice" and isinstance(holder, dict):
        raw = raw[:-1] + b"," + write({str(path[0]): value})[1:]
    check(client.post("/v1/chat/completions", content=raw), engine)


@given(
    pattern=st.text(alphabet="ab0(){}[]|*+?.^$\\,-:=!<>P1239", max_size=30),
    count=st.integers(min_value=0, max_value=10**6),
)
@CALM
def test_random_expressions_pass_or_are_refused(
    pattern: str, count: int, client: httpx.Client, engine: FakeEngine
) -> None:
    """Any text as a regular expression is an expression within the bounds, or is refused."""
    wish = {"json": {"pattern": pattern, "maxLength": count, "items": [{"patternProperties": {pattern: {}}}]}}
    check(client.post("/v1/chat/completions", content=write(chat(structured_outputs=wish))), engine)


@given(
    edits=st.lists(
        st.tuples(
            st.sampled_from(["flip", "insert", "delete", "double"]),
            st.floats(min_value=0, max_value=1, exclude_max=True),
            st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\t", b",", b";", b"0", b"A", b"\xff", b"/"]),
        ),
        min_size=1, max_size=3,
    ),
    is_chunked=st.booleans(),
)  # fmt: skip
@settings(CALM, max_examples=120)
def test_a_request_with_some_bytes_changed_never_breaks_the_door(
    edits: list[tuple[str, float, bytes]], is_chunked: bool, house: House, engine: FakeEngine
) -> None:
    """A few bytes of a request changed anywhere: it is still a call, or refused, and the connection ends in time."""
    body = write(chat("hi"))
    data = chat_request(house.key, body)
    if is_chunked:
        data = chat_request(house.key, chunked(body), "Transfer-Encoding: chunked")
    for how, place, new in edits:
        at = int(place * len(data))
        old = {"flip": 1, "insert": 0, "delete": len(new), "double": 0}[how]
        put = {"flip": new, "insert": new, "delete": b"", "double": data[at : at + 20]}[how]
        data = data[:at] + put + data[at + old :]
    with Wire(house.port) as wire:
        wire.send(data)
        answer = wire.answer()
        assert answer.status_code in (200, 400, 401, 404, 405, 408, 413, 415, 431), answer.text
        if answer.status_code == 200:
            assert len(engine.calls) <= 1
        else:
            check_shape(answer)
            assert engine.calls == []
        del engine.asked[:]


def test_the_server_is_well_after_all_that(house: House, engine: FakeEngine) -> None:
    """After every example the server is as healthy as before, and holds nothing."""
    visit = Visit(house, engine)
    visit.well()
    assert 'vestry_requests_in_progress{model="small"} 0' in house.metrics()
    assert 'code="500"' not in house.metrics()
