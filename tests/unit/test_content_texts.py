"""What is kept of a prompt and of an answer: the same bytes however it came, and no more than fits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from vestry.audit.content.texts import TEXTS, Transcript, prompt

PLENTY = 1 << 20
words = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=20)


def event(**body: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def streamed(*events: bytes, limit: int = PLENTY) -> Transcript:
    transcript = Transcript(limit)
    for each in events:
        transcript.hear(each)
    return transcript


def whole(body: dict[str, Any], limit: int = PLENTY) -> Transcript:
    transcript = Transcript(limit)
    transcript.take(json.dumps(body).encode())
    return transcript


def read(transcript: Transcript) -> dict[str, Any]:
    """What is kept, checked to be canonical by an independent implementation."""
    content = transcript.kept().content
    found: dict[str, Any] = json.loads(content)
    assert rfc8785.dumps(found) == content
    return found


@given(said=words, cuts=st.integers(1, 5))
def test_a_stream_and_an_answer_in_one_piece_are_kept_alike(said: list[str], cuts: int) -> None:
    """Whatever the words, and however the events are bundled into chunks."""
    events = [event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])]
    events += [event(choices=[{"index": 0, "delta": {"content": word}, "finish_reason": None}]) for word in said]
    events += [event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]), b": ping\n\n", b"data: [DONE]\n\n"]
    chunks = [b"".join(events[at : at + cuts]) for at in range(0, len(events), cuts)]
    message = {"role": "assistant", "content": "".join(said)}
    one = whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}})
    kept = streamed(*chunks).kept()
    assert kept == one.kept()
    assert read(one)["choices"][0]["text"] == "".join(said)
    assert kept.texts == (("".join(said),) if any(said) else ())


def test_completions_are_kept_too() -> None:
    """`text` in the place of a delta; several choices, in their order."""
    kept = read(
        streamed(
            event(choices=[{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]),
            event(choices=[{"index": 1, "text": "B", "finish_reason": "length"}]),
        )
    )
    assert kept == {
        "choices": [{"index": 0, "text": "a"}, {"finish_reason": "length", "index": 1, "text": "bB"}],
    }


def test_reasoning_refusals_and_tools_are_kept() -> None:
    """Whatever the client was shown; a call's arguments are put together from their pieces."""
    call: dict[str, Any] = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    parts = [
        {"reasoning_content": "hm"},
        {"reasoning": " so"},
        {"refusal": "no"},
        {"tool_calls": [call]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": ":1}"}},
                {"index": 1, "id": "c2", "function": {"name": "g"}},
            ]
        },
    ]
    kept = read(streamed(*(event(choices=[{"index": 0, "delta": part}]) for part in parts)))
    expected = {
        "index": 0,
        "text": "",
        "reasoning": "hm so",
        "refusal": "no",
        "tool_calls": [{"id": "c1", "name": "f", "arguments": '{"a":1}'}, {"id": "c2", "name": "g"}],
    }
    assert kept["choices"] == [expected]
    calls = [{"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}, {"id": "c2", "function": {"name": "g"}}]
    message = {"content": None, "reasoning": "hm so", "refusal": "no", "tool_calls": calls}
    assert read(whole({"choices": [{"index": 0, "message": message}]}))["choices"] == [expected]


def test_what_cannot_be_read_is_kept_as_it_was_sent() -> None:
    """The client saw it, so it is part of the answer."""
    odd = b'data: {"choices":[{"index":0,"delta":{"content":["parts"]}}]}\n\n'
    kept = read(streamed(odd, b"data: \xff\xfe{\n\n", event(choices=[{"index": 0, "text": "fine"}])))
    assert kept["unread"][0] == odd[6:-2].decode()
    assert "\ufffd" in kept["unread"][1]
    assert kept["choices"][0]["text"] == "fine"


def test_nothing_is_empty() -> None:
    """No event, nothing to keep; an event without words is something that was sent."""
    assert Transcript(PLENTY).empty
    assert not streamed(event(choices=[{"index": 0, "delta": {"role": "assistant"}}])).empty


@given(said=words, limit=st.integers(0, 60))
def test_a_bound_is_kept_and_said(said: list[str], limit: int) -> None:
    """No more text than there is room for, no half characters, and every byte is accounted for."""
    kept = streamed(*(event(choices=[{"index": 0, "text": word}]) for word in said), limit=limit).kept()
    choices = json.loads(kept.content)["choices"]
    text = choices[0]["text"] if choices else ""
    size = len(text.encode())
    assert size <= limit
    assert "".join(said).startswith(text)
    assert size + kept.left_out == len("".join(said).encode())


def test_a_long_stream_takes_no_more_memory_than_its_text() -> None:
    """The bytes of events are read as they pile up, and let go."""
    transcript = Transcript(1000)
    for _ in range(20_000):
        transcript.hear(event(choices=[{"index": 0, "delta": {"content": "word "}}]))
        assert transcript._size < 16_384 + 200
    kept = transcript.kept()
    assert len(kept.content) < 1100
    assert kept.left_out == 20_000 * 5 - 1000


@pytest.mark.parametrize("kind", ["choices", "calls"])
def test_an_answer_of_nothing_but_places_has_an_end(kind: str) -> None:
    """An engine may name ever more choices or tool calls, with next to nothing in each: they cost memory for their
    number, not for their text, so their number has a bound, and what did not find a place is said to be left out."""
    transcript = Transcript(PLENTY)
    for first in range(0, 20_000, 100):
        some = range(first, first + 100)
        if kind == "choices":
            choices: list[dict[str, Any]] = [{"index": each, "delta": {"content": "x"}} for each in some]
        else:
            calls = [{"index": each, "function": {"arguments": "x"}} for each in some]
            choices = [{"index": 0, "delta": {"tool_calls": calls}}]
        transcript.hear(event(choices=choices))
    kept = read(transcript)["choices"]
    found = kept if kind == "choices" else kept[0]["tool_calls"]
    assert 8000 < len(found) < 9000
    assert transcript.kept().left_out == 20_000 - len(found)


def test_the_texts_of_a_prompt() -> None:
    """Each message's, its parts joined; each prompt's; none of token ids; the last ones of very many."""
    asked = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
    ]
    assert prompt(json.dumps({"messages": asked}).encode(), PLENTY).texts == ("be brief", "ab")
    assert prompt(b'{"prompt":"x"}', PLENTY).texts == ("x",)
    assert prompt(b'{"prompt":["x","y"]}', PLENTY).texts == ("x", "y")
    assert prompt(b'{"prompt":[1,2]}', PLENTY).texts == ()
    many = [{"role": "user", "content": str(number)} for number in range(100)]
    assert prompt(json.dumps({"messages": many}).encode(), PLENTY).texts == tuple(map(str, range(100 - TEXTS, 100)))


@pytest.mark.parametrize("limit", range(8, 24))
def test_a_prompt_that_is_cut_stays_text(limit: int) -> None:
    """Never half a character; what is left out is counted; the texts are those of the whole."""
    body = '{"prompt":"Zürich 東京"}'.encode()
    kept = prompt(body, limit)
    kept.content.decode()
    assert len(kept.content) <= limit
    assert len(kept.content) + kept.left_out == len(body)
    assert kept.texts == ("Zürich 東京",)
