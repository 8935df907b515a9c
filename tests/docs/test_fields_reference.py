"""The page about fields says of each what the parser does with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vestry.edge.bodies import parse_chat, parse_completion
from vestry.edge.fields import ChatBody, CompletionBody
from vestry.errors import InvalidRequest, UnsupportedField
from vestry.settings.tree import Bounds

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "fields.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)`(?: ✱)? \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "a"}
TOOLS = [{"type": "function", "function": {"name": "a"}}]

# A value for each field with a meaning of its own, and what must stand beside it.
SAMPLES: dict[str, Any] = {
    "model": "m", "stream": True, "n": 2, "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "seed": 1, "stop": ["a"],
    "frequency_penalty": 1, "presence_penalty": 1, "logit_bias": {"1": 1}, "top_k": 1, "min_p": 0.5,
    "repetition_penalty": 1.5, "min_tokens": 1, "stop_token_ids": [1], "bad_words": ["a"], "ignore_eos": True,
    "include_stop_str_in_output": True, "skip_special_tokens": False, "spaces_between_special_tokens": False,
    "structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"},
    "messages": CHAT["messages"], "max_completion_tokens": 5, "tools": TOOLS, "tool_choice": "auto",
    "parallel_tool_calls": True, "top_logprobs": 2, "chat_template_kwargs": {}, "continue_final_message": True,
    "add_generation_prompt": False, "prompt": "a", "echo": True,
    "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "a", "prompt_cache_key": "a",
    "prompt_cache_retention": "24h", "store": False, "user": "a", "prediction": {"type": "content", "content": "a"},
    "modalities": ["text"], "reasoning_effort": "none", "verbosity": "medium",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
}  # fmt: skip
LOGPROBS: dict[str, Any] = {"chat": True, "completions": 2}
BESIDE: dict[str, dict[str, Any]] = {
    "tool_choice": {"tools": TOOLS},
    "top_logprobs": {"logprobs": True},
    "continue_final_message": {"add_generation_prompt": False},
}


def part(heading: str) -> list[tuple[str, str, str]]:
    """The rows of one table: field, second and third column."""
    assert PAGE.count(f"\n## {heading}\n") == 1
    return ROW.findall(PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0])


def routes(where: str) -> list[str]:
    return ["chat", "completions"] if where == "both" else [where]


PASSED = [(name, route) for name, where, _ in part("Passed on to the engine") for route in routes(where)]
DROPPED = [(name, route) for name, where, _ in part("Accepted, and not passed on") for route in routes(where)]
REFUSED = part("Refused, because ignoring them would mislead")


def engine_gets(name: str, route: str) -> dict[str, Any]:
    """What an engine is sent for a body with this field."""
    value = LOGPROBS[route] if name == "logprobs" else SAMPLES[name]
    body = {**(CHAT if route == "chat" else COMPLETION), **BESIDE.get(name, {}), name: value}
    parse = parse_chat if route == "chat" else parse_completion
    got: dict[str, Any] = json.loads(parse(json.dumps(body).encode(), Bounds()).body)
    return got


@pytest.mark.parametrize(("name", "route"), PASSED)
def test_what_is_said_to_be_passed_on_is(name: str, route: str) -> None:
    """The engine gets the field."""
    assert name in engine_gets(name, route)


@pytest.mark.parametrize(("name", "route"), DROPPED)
def test_what_is_said_to_be_kept_back_is(name: str, route: str) -> None:
    """The body is accepted, and the engine does not get the field."""
    assert name not in engine_gets(name, route)


@pytest.mark.parametrize("row", REFUSED, ids=[name for name, _, _ in REFUSED])
def test_what_is_said_to_be_refused_is(row: tuple[str, str, str]) -> None:
    """The value on the page is refused, with the message on the page."""
    name, value, answer = row
    chat = name in {field.encode_name for field in msgspec.structs.fields(ChatBody)}
    parse = parse_chat if chat else parse_completion
    body = {**(CHAT if chat else COMPLETION), name: json.loads(value.strip("`"))}
    with pytest.raises(UnsupportedField) as refused:
        parse(json.dumps(body).encode(), Bounds())
    assert (refused.value.param, refused.value.reason) == (name, answer)


def test_every_field_is_on_the_page() -> None:
    """Each field of both bodies is passed on, kept back, refused or ours; only some stand in two places."""
    for kind, route in ((ChatBody, "chat"), (CompletionBody, "completions")):
        names = {field.encode_name for field in msgspec.structs.fields(kind)}
        passed = {name for name, each in PASSED if each == route}
        dropped = {name for name, each in DROPPED if each == route}
        refused = {name for name, _, _ in REFUSED} & names
        assert passed | dropped | refused | {"stream_options"} == names
        assert passed & dropped == set()
        assert refused & passed <= {"chat_template_kwargs"}
        assert refused & dropped <= {"store", "modalities", "reasoning_effort", "verbosity"}


def test_the_bounds_of_schemas_are_those_of_the_parser() -> None:
    """A schema as deep as the page allows is taken, one level more is not."""
    [levels] = re.findall(r"A schema is at most (\d+) levels deep", " ".join(PAGE.split()))

    def deep(depth: int) -> bytes:
        schema: dict[str, Any] = {}
        for _ in range(depth - 1):
            schema = {"not": schema}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        return json.dumps({**CHAT, "response_format": form}).encode()

    parse_chat(deep(int(levels)), Bounds())
    with pytest.raises(InvalidRequest):
        parse_chat(deep(int(levels) + 1), Bounds())


def test_what_a_schemas_format_must_hold_is_marked() -> None:
    """What has a mark is enough, and none of it may be missing: OpenAI takes a format without its schema."""
    [row] = re.findall(r"^\| JsonSchema \| (.*) \|$", PAGE, re.MULTILINE)
    values = {"name": "a", "schema": {}}
    assert re.findall(r"`(\w+)` ✱", row) == list(values)

    def parse(form: dict[str, Any]) -> None:
        parse_chat(
            json.dumps({**CHAT, "response_format": {"type": "json_schema", "json_schema": form}}).encode(), Bounds()
        )

    parse(values)
    for name in values:
        with pytest.raises(InvalidRequest, match=f"`{name}` is missing"):
            parse({other: value for other, value in values.items() if other != name})
