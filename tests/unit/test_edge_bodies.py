"""What a body becomes: properties that hold for any text, not only for examples."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vestry.edge.bodies import parse_chat, parse_completion
from vestry.edge.fields import ChatBody, User
from vestry.errors import InvalidRequest
from vestry.settings.tree import Bounds

BOUNDS = Bounds()
PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-[]"
MANY = settings(max_examples=300, deadline=None, derandomize=True, database=None)
awkward = st.text(alphabet=st.sampled_from('\0\\"u0a\n/\u2028\U0001f600'), max_size=12)


def chat(text: str, **more: Any) -> bytes:
    """A chat body, as JSON text of ASCII only."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


@given(text=awkward, name=awkward)
@example(text="\\u0000", name="a")
@example(text="\\\\u0000", name="a")
@example(text="\\\0", name="a")
@example(text="a", name='"\0')
@MANY
def test_text_is_refused_for_a_nul_and_for_nothing_that_looks_like_one(text: str, name: str) -> None:
    """However text is escaped, it is refused exactly if it holds a NUL, and otherwise arrives unchanged."""
    raw = chat(text, metadata={name: "a"})
    if "\0" in text + name:
        with pytest.raises(InvalidRequest):
            parse_chat(raw, BOUNDS)
    else:
        assert json.loads(parse_chat(raw, BOUNDS).body)["messages"][0]["content"] == text


@given(
    n=st.integers(1, 8),
    prompts=st.lists(st.text(max_size=5).filter(lambda text: "\0" not in text), min_size=1, max_size=16),
    most=st.integers(1, 2048),
    stream=st.booleans(),
    wants_usage=st.booleans(),
)
@MANY
def test_a_call_says_of_its_body_what_the_engine_will_read_in_it(
    n: int, prompts: list[str], most: int, stream: bool, wants_usage: bool
) -> None:
    """What policy and record go by is what stands in the bytes for the engine."""
    options = {"stream_options": {"include_usage": wants_usage}} if stream else {}
    wish = {"model": "m", "prompt": prompts, "n": n, "max_tokens": most, "stream": stream, "user": "u", **options}
    call = parse_completion(json.dumps(wish).encode(), BOUNDS)
    got = json.loads(call.body)
    assert (call.model, call.completion_tokens) == (got["model"], got["max_tokens"])
    assert call.stream is got.get("stream", False) is stream
    assert call.choices == n * len(got["prompt"])
    assert call.include_usage is (stream and wants_usage)
    assert call.end_user == "u"
    assert call.sampling == {"n": n, "max_tokens": most}
    assert got.get("stream_options") == ({"include_usage": True} if stream else None)
    assert got["prompt"] == prompts


@given(tokens=st.lists(st.integers(0, 60_000), min_size=1, max_size=8), bias=st.integers(0, 60_000))
@MANY
def test_the_highest_token_is_found_wherever_it_stands(tokens: list[int], bias: int) -> None:
    """The greatest token id of a call, and the field that it stands in, are what authorization looks at."""
    wish = {"model": "m", "prompt": tokens, "logit_bias": {str(bias): 1}, "stop_token_ids": tokens[:1]}
    call = parse_completion(json.dumps(wish).encode(), BOUNDS)
    assert call.highest_token == max(*tokens, bias)
    named = {"prompt": max(tokens), "stop_token_ids": tokens[0], "logit_bias": bias}
    assert named[call.highest_in] == call.highest_token
    assert parse_completion(b'{"model":"m","prompt":"a"}', BOUNDS).highest_token == -1


@given(name=st.text(max_size=30), place=st.sampled_from(["top", "message"]))
@example(name="a` - at `$.b", place="top")
@example(name="a b` - at `$.<b>", place="message")
@MANY
def test_param_is_a_plain_name_or_nothing(name: str, place: str) -> None:
    """Whatever an unknown field is called, `param` holds only letters, digits, dots, brackets and dashes."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    holder = body if place == "top" else body["messages"][0]
    assume(name not in (ChatBody if place == "top" else User).__struct_fields__ and name != "role")
    holder[name] = "client's words"
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"), BOUNDS)
    param = caught.value.param
    assert param is None or (len(param) <= 128 and set(param) <= set(PLAIN))
    assert "client's words" not in caught.value.reason
