"""Following an engine's stream: what leaves at once, what waits, what is counted, and what is not a stream."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestry.sse import BrokenStream, EventStream, decode_answer
from vestry.types import Usage

LIMIT = 65_536
TRICKY = st.sampled_from(
    [
        '"finish_reason":"stop"',
        '"usage":{',
        "data: [DONE]",
        'data: {"error"',
        "\n\n",
        "data: ",
        "ü",
        "\u2028",
        '\\"',
        "",
    ]
)
WORD = st.one_of(TRICKY, st.text(st.characters(exclude_categories=["Cs"]), max_size=12))


def event(value: Any) -> bytes:
    """One event, in vLLM's compact JSON."""
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def said(text: str, index: int = 0, finish: str | None = None) -> bytes:
    """One chunk of a chat answer."""
    return event({"id": "1", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]})


USAGE = event({"id": "1", "choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}})
DONE = b"data: [DONE]\n\n"


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, list[bytes]]:
    """A good stream as its events: so many choices, words in any order, each choice finished, usage, end."""
    choices = draw(st.integers(1, 3))
    words = draw(st.lists(st.tuples(st.integers(0, choices - 1), WORD), max_size=12))
    events = [said(word, index) for index, word in words]
    for index in range(choices):
        events.insert(draw(st.integers(0, len(events))), said("", index, finish="stop"))
    comments = draw(st.lists(st.integers(0, len(events)), max_size=2))
    for place in comments:
        events.insert(place, b": still here\n\n")
    return choices, [*events, USAGE, DONE]


def fed(stream: EventStream, data: bytes, cuts: list[int]) -> list[bytes]:
    """What the stream lets go, fed the data cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [stream.feed(data[start:end]) for start, end in pairwise(places)]


@settings(max_examples=200, deadline=None)
@given(stream=streams(), wants=st.booleans(), cuts=st.lists(st.integers(0, 10**6), max_size=20))
def test_nothing_is_lost_added_or_split(stream: tuple[int, list[bytes]], wants: bool, cuts: list[int]) -> None:
    """However a stream is cut, what left and what is held are the engine's events, whole, but for withheld usage."""
    choices, events = stream
    follower = EventStream(choices=choices, wants_usage=wants, limit=LIMIT)
    left = fed(follower, b"".join(events), cuts)
    assert all(part == b"" or part.endswith(b"\n\n") for part in left)
    assert b"".join(left) + follower.held == b"".join(each for each in events if wants or each != USAGE)
    assert follower.whole
    assert follower.usage == Usage(prompt=3, completion=5)
    assert follower.finish_reasons == dict.fromkeys(range(choices), "stop")
    assert follower.events == len(events)
    assert DONE in follower.held
    assert b"".join(left).count(b'"finish_reason":"stop"}') == choices - 1, "the last finish reason waits"


@settings(max_examples=100, deadline=None)
@given(stream=streams(), cut=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 10**6), max_size=6))
def test_a_short_stream_is_never_whole(stream: tuple[int, list[bytes]], cut: int, cuts: list[int]) -> None:
    """A stream that stops anywhere before its last event is not whole, and what left is a prefix of whole events."""
    choices, events = stream
    data = b"".join(events)
    data = data[: cut % len(data)]
    follower = EventStream(choices=choices, wants_usage=True, limit=LIMIT)
    left = b"".join(fed(follower, data, cuts))
    assert not follower.whole
    assert data.startswith(left + follower.held)


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    """A line that does not end breaks the stream within one read of the limit."""
    follower = EventStream(choices=1, wants_usage=False, limit=LIMIT)
    piece = b"data: " + b"x" * 1018
    for _ in range(LIMIT // 1024):
        assert follower.feed(piece) == b""
    with pytest.raises(BrokenStream, match="too long"):
        follower.feed(piece)


def test_a_long_event_may_come_in_small_pieces() -> None:
    """It is put together once, and not with each piece; ends that two pieces share are found."""
    events = said("x" * (1 << 20), 0) + said("y", 0)
    follower = EventStream(choices=1, wants_usage=False, limit=1 << 21)
    assert b"".join(follower.feed(events[at : at + 1]) for at in range(len(events))) == events
    assert follower.events == 2


def test_an_end_that_does_not_end_is_refused_before_it_fills_the_memory() -> None:
    """What comes after the last finish reason is held, and only so much of it."""
    follower = EventStream(choices=1, wants_usage=False, limit=LIMIT)
    last, more = said("", finish="stop"), said("x" * 1000)
    for piece in [last, *[more] * ((LIMIT - len(last)) // len(more))]:
        assert follower.feed(piece) == b""
    with pytest.raises(BrokenStream, match="too long"):
        follower.feed(more)


@pytest.mark.unmeasured
def test_an_end_of_very_many_events_is_not_copied_with_each_of_them() -> None:
    """Comments without end, after the last finish reason: where each made what is held anew, they took minutes."""
    follower = EventStream(choices=1, wants_usage=False, limit=1 << 22)
    assert follower.feed(said("", finish="stop")) == b""
    for _ in range(16):
        assert follower.feed(b":\n\n" * (1 << 16)) == b""
    with pytest.raises(BrokenStream, match="too long"):
        follower.feed(b":\n\n" * (1 << 19))


def test_an_event_in_small_pieces_takes_no_more_memory_than_it_has_bytes() -> None:
    """Two bytes a piece: kept one by one they would be twenty times as large."""
    follower = EventStream(choices=1, wants_usage=False, limit=1 << 20)
    tracemalloc.start()
    try:
        for number in range(32_000):
            assert follower.feed(b"%02d" % (number % 100)) == b""
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'data: {"error": {"message": "m"}}\n\n', "reported an error"),
        (b'data: {"error":{"message":"m","code":500}}\n\n', "reported an error"),
        (said("a") + event({"error": {"message": "m"}}), "reported an error"),
        (b"event: ping\n\n", "not an event stream"),
        (b"<html>\n\n", "not an event stream"),
        (b"\n\n", "not an event stream"),
        (b'data: {"usage":{\n\n', "not JSON"),
        (b'data: {"choices":[{"index":0,"finish_reason":"' + b"\xff" + b'"}]}\n\n', "not JSON"),
        (b'data: {"finish_reason":"","choices":' + b"[" * 5000 + b"\n\n", "not JSON"),
        (b'data: {"choices":[{"index":"zero","finish_reason":"stop"}]}\n\n', "not JSON"),
    ],
)
def test_what_is_no_stream_is_said_to_be_none(data: bytes, why: str) -> None:
    """Errors of the engine, other media and broken JSON break the stream, each with its reason."""
    follower = EventStream(choices=1, wants_usage=False, limit=LIMIT)
    with pytest.raises(BrokenStream, match=why):
        follower.feed(data)


def test_words_of_the_model_are_not_marks() -> None:
    """A model that writes the stream's own marks into its answer changes nothing."""
    follower = EventStream(choices=1, wants_usage=False, limit=LIMIT)
    text = said('"finish_reason":"stop" "usage":{} data: [DONE]\n\ndata: {"error"')
    assert follower.feed(text) == text
    assert not follower.finish_reasons
    assert follower.usage is None
    assert not follower.done


def test_usage_beside_choices_is_counted_and_passed_on() -> None:
    """Usage on a chunk that also says something is read, and the chunk leaves."""
    follower = EventStream(choices=1, wants_usage=False, limit=LIMIT)
    details = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    chunk = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}], "usage": details})
    assert follower.feed(chunk) == chunk
    assert follower.usage == Usage(prompt=9, completion=1, cached=8)


def test_counts_that_the_engine_leaves_out_are_zero() -> None:
    """Usage without a completion (the first chunk of continuous usage) and without details is read all the same."""
    follower = EventStream(choices=1, wants_usage=True, limit=LIMIT)
    follower.feed(event({"choices": [], "usage": {"prompt_tokens": 9, "prompt_tokens_details": {}}}))
    assert follower.usage == Usage(prompt=9)
    assert follower.held


@pytest.mark.parametrize("count", ["-1", str(2**31), "1e3", '"5"', "true"])
def test_absurd_counts_make_no_sense(count: str) -> None:
    """Tokens that no record can hold, or that are no count, are the engine's garbage and never become a record."""
    event = b'{"choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":1}}' % count.encode()
    with pytest.raises(msgspec.ValidationError):
        decode_answer(event)
    with pytest.raises(BrokenStream):
        EventStream(choices=1, wants_usage=True, limit=1 << 16).feed(b"data: " + event + b"\n\n")


@pytest.mark.parametrize(("length", "stands"), [(256, True), (257, False), (1_000_000, False)])
def test_an_absurd_finish_reason_makes_no_sense(length: int, stands: bool) -> None:
    """What an answer ends with goes into the record, and is remembered: a text of any length took as much memory."""
    follower = EventStream(choices=1, wants_usage=True, limit=1 << 21)
    end = said("", finish="x" * length)
    if stands:
        assert follower.feed(end) == b""
        assert follower.finish_reasons == {0: "x" * length}
    else:
        with pytest.raises(BrokenStream, match="not JSON"):
            follower.feed(end)
        with pytest.raises(msgspec.ValidationError):
            decode_answer(end.removeprefix(b"data: "))
