"""The older route's prompts, prompts that are too long for the model, and what of them an engine takes apart."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.house import House, chat
from support.refusal import ANY, Visit

MARK = "s3cr3t-words-of-the-client"


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


UNSUPPORTED = {"best_of of 10^18", "best_of above n", "best_of below n", "a suffix", "messages", "embeddings"}
PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({}, "prompt"),
    "null": ({"prompt": None}, "prompt"),
    "a number": ({"prompt": 5}, "prompt"),
    "an empty list": ({"prompt": []}, "prompt"),
    "an empty list of tokens": ({"prompt": [[]]}, "prompt"),
    "10^5 prompts": ({"prompt": ["a"] * 100_000}, "prompt"),
    "10^5 prompts of tokens": ({"prompt": [[1]] * 100_000}, "prompt"),
    "17 prompts": ({"prompt": ["a"] * 17}, "prompt"),
    "texts and tokens": ({"prompt": ["a", 1]}, "prompt"),
    "tokens and lists": ({"prompt": [1, [1]]}, "prompt"),
    "a token below zero": ({"prompt": [-1]}, "prompt"),
    "a token out of range": ({"prompt": [49152]}, "prompt"),
    "a token far out of range": ({"prompt": [10**12]}, "prompt"),
    "a token of 30 digits": ({"prompt": [10**30]}, ANY),
    "a token in a list out of range": ({"prompt": [[1], [49152]]}, "prompt"),
    "a token in a list below zero": ({"prompt": [[-1]]}, ANY),
    "true for a token": ({"prompt": [True]}, ANY),
    "a fraction for a token": ({"prompt": [1.5]}, ANY),
    "an object": ({"prompt": {"prompt_embeds": "AAAA"}}, "prompt"),
    "best_of of 10^18": ({"prompt": "a", "best_of": 10**18}, "best_of"),
    "best_of above n": ({"prompt": "a", "best_of": 2}, "best_of"),
    "best_of below n": ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
    "best_of of zero": ({"prompt": "a", "best_of": 0}, "best_of"),
    "n of 10^18": ({"prompt": "a", "n": 10**18}, "n"),
    "logprobs of six": ({"prompt": "a", "logprobs": 6}, "logprobs"),
    "logprobs as a truth": ({"prompt": "a", "logprobs": True}, "logprobs"),
    "a suffix": ({"prompt": "a", "suffix": MARK}, "suffix"),
    "messages": ({"prompt": "a", "messages": []}, "messages"),
    "embeddings": ({"prompt": "a", "prompt_embeds": "AAAA"}, "prompt_embeds"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_that_is_wrong_is_refused(name: str, visit: Visit) -> None:
    """The bounds on prompts, tokens and choices of `/v1/completions` hold."""
    more, param = PROMPTS[name]
    code = "unsupported_parameter" if name in UNSUPPORTED else "invalid_request"
    answer = visit.post({"model": "small", **more}, "/v1/completions")
    visit.refused(answer, 400, code, param=param, unlike=(MARK,))


def test_more_tokens_than_the_context_are_refused(visit: Visit) -> None:
    """A completion that is longer than the model's context can be is refused before an engine is asked."""
    answer = visit.post(chat(max_completion_tokens=2049))
    visit.refused(answer, 400, "context_length_exceeded", param="max_completion_tokens")
    answer = visit.post(chat(max_tokens=2049))
    visit.refused(answer, 400, "context_length_exceeded", param="max_tokens")
    assert answer.json()["error"]["message"].startswith("This model's maximum context length is 2048 tokens")


@pytest.mark.parametrize(
    "complaint",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 5000 tokens (4990 in the messages, "
        f"10 in the completion). Please reduce the length. Prompt: {MARK}",
        f"The decoder prompt (length 5000) is longer than the maximum model length of 2048. {MARK}",
        f"'max_completion_tokens' is too large: 4990. This model's maximum context length is 2048. {MARK}",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused(complaint: str, stream: bool, visit: Visit) -> None:
    """The engine's complaint about the length becomes OpenAI's code, without the engine's words."""
    visit.engine.behave(status=400, complaint=complaint)
    answer = visit.post(chat(MARK, stream=stream))
    visit.engine.behave(status=200)
    assert visit.house.records("intent")[-1]["request_id"] == answer.headers["x-request-id"]
    assert visit.house.records("outcome")[-1]["code"] == "context_length_exceeded"
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert answer.json()["error"]["param"] == "messages"
    assert answer.json()["error"]["message"].startswith("This model's maximum context length is ")  # LiteLLM's mark
    assert MARK not in answer.text
    assert "4990" not in answer.text
    visit.well()


SCHEMA: dict[str, Any] = {"type": "string", "format": "nope"}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
TOOLS = [{"type": "function", "function": {"name": "a", "parameters": SCHEMA}}]
ENFORCED: dict[str, tuple[dict[str, Any], str | None]] = {
    "a format": (chat(response_format=FORM), "response_format"),
    "structured outputs": (chat(structured_outputs={"json": SCHEMA}), "structured_outputs"),
    "tools": (chat(tools=TOOLS), "tools"),
    "tools beside the format of text": (chat(tools=TOOLS, response_format={"type": "text"}), "tools"),
    "tools and a format": (chat(tools=TOOLS, response_format=FORM), None),
}


@pytest.mark.parametrize("name", ENFORCED)
def test_a_schema_that_no_engine_can_enforce_is_named_by_its_field(name: str, visit: Visit) -> None:
    """`param` is the field that the client has set; where it may be either of two, none is named."""
    body, param = ENFORCED[name]
    visit.engine.behave(status=400, complaint="Grammar error: Unknown format: nope")
    answer = visit.post(body)
    visit.engine.behave(status=200)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == param
    visit.well()


def with_arguments(arguments: str) -> dict[str, Any]:
    """A conversation in which a tool was called with these."""
    call = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "b"}
    return chat(messages=[{"role": "user", "content": "c"}, {"role": "assistant", "tool_calls": [call]}, result])


@pytest.mark.parametrize("arguments", ["[" * 201 + "]" * 201, "[" * 4_000_000, '{"a":' * 201 + '"' + MARK, "[{" * 101])
def test_a_call_nested_without_end_is_refused(arguments: str, visit: Visit) -> None:
    """A small model can open brackets until it is cut off; vLLM answers 500 to a thousand that are sent back to it, and
    would be taken out of service for it."""
    answer = visit.post(with_arguments(arguments))
    visit.refused(answer, 400, "invalid_request", param="messages[1].tool_calls[0].function", unlike=(MARK, "[["))


@pytest.mark.parametrize(
    "arguments",
    ["[" * 200, "[{}]" * 2000, '{"code": "' + "[{" * 2000 + '\\" [' + '"}', '"' + "\\" * 3 + "[" * 300, '"["' * 201],
)
def test_a_call_with_many_brackets_passes(arguments: str, visit: Visit) -> None:
    """What counts is how deep they are, and not those in a text."""
    assert visit.post(with_arguments(arguments)).status_code == 200
    assert visit.engine.calls[0].json["messages"][1]["tool_calls"][0]["function"]["arguments"] == arguments
