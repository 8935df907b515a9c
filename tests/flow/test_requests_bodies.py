"""Bodies that are wrong: refused by field, never a 500, never an echo, never passed to an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.bodies import deep_schema, structure, tool
from support.house import House, chat
from support.refusal import ANY, Visit

DEEP = 100_000
MARK = "s3cr3t-words-of-the-client"


def raw(text: str) -> bytes:
    """A chat body with this text in place of its last field."""
    return b'{"model":"small","messages":[{"role":"user","content":"' + MARK.encode() + b'"}],' + text.encode() + b"}"


def says(content: str) -> bytes:
    """A chat body whose one message has this content, as JSON text."""
    return b'{"model":"small","messages":[{"role":"user","content":' + content.encode("utf-8", "surrogatepass") + b"}]}"


def one(message: str) -> bytes:
    """A chat body whose one message is this JSON text."""
    return b'{"model":"small","messages":[' + message.encode() + b"]}"


def nested(levels: int) -> str:
    """A list in a list in a list."""
    return "[" * levels + "1" + "]" * levels


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


# What is not JSON, or not one JSON text in UTF-8 ---------------------------------------------------------------------

GOOD = json.dumps(chat(MARK))
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "half of a body": GOOD[:-5].encode(),
    "two bodies": (GOOD + GOOD).encode(),
    "a body and a byte": GOOD.encode() + b"x",
    "a comma too many": GOOD[:-1].encode() + b",}",
    "single quotes": GOOD.replace('"', "'").encode(),
    "a comment": b"/* a */" + GOOD.encode(),
    "form data": b"model=small&messages=hello",
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16 without a mark": GOOD.encode("utf-16-le"),
    "UTF-32": GOOD.encode("utf-32"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "Latin-1": says('"caf\u00e9"').replace(b"\xc3\xa9", b"\xe9"),
    "invalid UTF-8 in a key": b'{"model":"small","\xff":1}',
    "overlong UTF-8": says('"a"').replace(b'"a"', b'"\xc0\xaf"'),
    "a surrogate in UTF-8": says('"\ud800"'),
    "beyond Unicode": says('"a"').replace(b'"a"', b'"\xf4\x90\x80\x80"'),
    "a lone high surrogate": says('"\\ud800"'),
    "a lone low surrogate": says('"\\udc00"'),
    "surrogates the wrong way round": says('"\\udc00\\ud800"'),
    "half an escape": says('"\\u12"'),
    "an escape that JSON lacks": says('"\\x41"'),
    "a raw line feed in text": says('"a\nb"'),
    "a raw NUL in text": says('"a\0b"'),
    "a NUL after the body": GOOD.encode() + b"\0",
    "NaN": raw('"temperature":NaN'),
    "Infinity": raw('"temperature":Infinity'),
    "minus Infinity": raw('"temperature":-Infinity'),
    "NaN in a schema": raw('"tools":[{"type":"function","function":{"name":"a","parameters":{"minimum":NaN}}}]'),
    "a number with a plus": raw('"temperature":+1'),
    "a number with a leading zero": raw('"n":01'),
    "a number in hex": raw('"n":0x1'),
    "a number with an underscore": raw('"max_tokens":1_0'),
    "a number without digits": raw('"temperature":1.'),
    "true in Python's words": raw('"stream":True'),
    "undefined": raw('"stream":undefined'),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_in_utf_8_is_refused(name: str, visit: Visit) -> None:
    """Bytes that RFC 8259 does not allow are answered 400, whatever a lenient parser would have made of them."""
    visit.refused(visit.post(NOT_JSON[name]), 400, "invalid_request", unlike=(MARK,))


# Values that a field cannot have ------------------------------------------------------------------------------------

WRONG: dict[str, tuple[bytes | dict[str, Any], str | None]] = {
    # Another kind of JSON
    "a list": (b"[]", None),
    "a text": (b'"small"', None),
    "null": (b"null", None),
    "a number": (b"1", None),
    "no model": ({"messages": chat()["messages"]}, "model"),
    "no messages": ({"model": "small"}, "messages"),
    # Numbers beyond what there is
    "1e999": (raw('"temperature":1e999'), "temperature"),
    "-1e999": (raw('"presence_penalty":-1e999'), "presence_penalty"),
    "1e999 as a count": (raw('"max_tokens":1e999'), "max_tokens"),
    "a number of 5,000 digits": (raw('"max_tokens":' + "9" * 5000), "max_tokens"),
    "a seed of 5,000 digits": (raw('"seed":-' + "9" * 5000), "seed"),
    "a temperature of 5,000 digits": (raw('"temperature":' + "9" * 5000), "temperature"),
    "n of 10^18": (raw('"n":1000000000000000000'), "n"),
    "n of 10^30": (raw('"n":1000000000000000000000000000000'), "n"),
    "n just above the bound": (chat(n=9), "n"),
    "n of zero": (chat(n=0), "n"),
    "n below zero": (chat(n=-1), "n"),
    "max_tokens of zero": (chat(max_tokens=0), "max_tokens"),
    "max_tokens below zero": (chat(max_tokens=-1), "max_tokens"),
    "max_tokens of 10^18": (chat(max_tokens=10**18), "max_tokens"),
    "max_completion_tokens below zero": (chat(max_completion_tokens=-5), "max_completion_tokens"),
    "min_tokens below zero": (chat(min_tokens=-1), "min_tokens"),
    "a temperature below zero": (chat(temperature=-0.1), "temperature"),
    "a temperature above two": (chat(temperature=2.1), "temperature"),
    "top_p of zero": (chat(top_p=0), "top_p"),
    "top_p above one": (chat(top_p=1.1), "top_p"),
    "top_k below -1": (chat(top_k=-2), "top_k"),
    "min_p above one": (chat(min_p=2), "min_p"),
    "a repetition penalty of zero": (chat(repetition_penalty=0), "repetition_penalty"),
    "a frequency penalty of three": (chat(frequency_penalty=3), "frequency_penalty"),
    "top_logprobs of 21": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "a seed beyond 64 bits": (chat(seed=2**63), "seed"),
    # A kind that looks like another
    "true for a count": (chat(n=True), "n"),
    "false for a count": (chat(max_tokens=False), "max_tokens"),
    "true for a fraction": (chat(temperature=True), "temperature"),
    "a text for a count": (chat(n="5"), "n"),
    "a text for a fraction": (chat(temperature="0.5"), "temperature"),
    "a text for a truth": (chat(stream="true"), "stream"),
    "1 for a truth": (chat(stream=1), "stream"),
    "a fraction for a count": (chat(n=1.5), "n"),
    "a list for a count": (chat(n=[1]), "n"),
    "an object for a count": (chat(max_tokens={"$gt": 0}), "max_tokens"),
    "a number for the model": (chat(model=5), "model"),
    "an empty model": (chat(model=""), "model"),
    "a model of 129 characters": (chat(model="a" * 129), "model"),
    "a list for the model": (chat(model=["small"]), "model"),
    "a text for messages": (chat(messages="hello"), "messages"),
    "a text for stop's list": (chat(stop=[5]), "stop[0]"),
    "5 stops": (chat(stop=["a"] * 5), "stop"),
    "an empty stop": (chat(stop=""), "stop"),
    "an empty stop in a list": (chat(stop=["a", ""]), "stop[1]"),
    "an empty bad word": (chat(bad_words=[""]), "bad_words[0]"),
    "two answers without chance": (chat(n=2, temperature=0), "n"),
    "two answers without chance, said with a fraction": (chat(n=2, temperature=0.0), "n"),
    "a text for logit_bias": (chat(logit_bias="5"), "logit_bias"),
    "a word for a token id": (chat(logit_bias={"five": 1}), "logit_bias"),
    "a token id below zero": (chat(logit_bias={"-1": 1}), "logit_bias"),
    "a bias beyond 100": (chat(logit_bias={"5": 101}), ANY),
    "a token id out of range": (chat(logit_bias={"49152": 1}), "logit_bias"),
    "a token id of 10^7": (chat(logit_bias={"10000000": 1}), "logit_bias"),
    "a token id of 30 digits": (chat(logit_bias={"9" * 30: 1}), "logit_bias"),
    "a token id in Arabic digits": (chat(logit_bias={"\u0665": 1}), "logit_bias"),
    "a stop token out of range": (chat(stop_token_ids=[49152]), "stop_token_ids"),
    "a stop token below zero": (chat(stop_token_ids=[-1]), "stop_token_ids[0]"),
    "301 biases": (chat(logit_bias={str(each): 1 for each in range(301)}), "logit_bias"),
    "a user of 513 characters": (chat(user="u" * 513), "user"),
    "an object for the user": (chat(user={"id": MARK}), "user"),
    # NUL
    "NUL in a message": (says('"a\\u0000b"'), None),
    "NUL in the model": (chat(model="small\0"), None),
    "NUL in the user": (chat(user="a\0b"), None),
    "NUL in a stop": (chat(stop="\0"), None),
    "NUL in a schema's key": (chat(**tool({"properties": {"a\0b": {}}})), None),
    "NUL in what is dropped": (chat(metadata={"a": "b\0"}), None),
    # Depth
    "900 deep in place of a message": (says(nested(900)), "messages[0].content[0]"),
    "900 deep in metadata": (raw('"metadata":{"a":' + nested(900) + "}"), "metadata[...]"),
    "900 deep in a schema": (chat(**tool({"a": json.loads(nested(900))})), "tools[0].function.parameters"),
    "900 deep objects in a schema": (chat(**structure(deep_schema(450))), "response_format.json_schema.schema"),
    "33 deep in a schema": (chat(**structure(deep_schema(16))), "response_format.json_schema.schema"),
    "900 deep in a prediction": (raw('"prediction":{"type":"content","content":' + nested(900) + "}"), ANY),
    "900 deep in annotations": (
        one('{"role":"assistant","content":"a","annotations":' + nested(900) + "}"), "messages[0].annotations",
    ),
    "100,000 deep": (nested(DEEP).encode(), ANY),
    "100,000 deep in place of a message": (says(nested(DEEP)), ANY),
    "100,000 deep in metadata": (raw('"metadata":{"a":' + nested(DEEP) + "}"), ANY),
    "100,000 deep in a schema": (
        raw('"tools":[{"type":"function","function":{"name":"a","parameters":{"a":' + nested(DEEP) + "}}}]"), ANY,
    ),
    "100,000 deep before the role": (
        one('{"content":' + nested(DEEP) + ',"role":"user"}'), ANY,
    ),
    "100,000 deep, never closed": (says("[" * DEEP), ANY),
    "100,000 objects deep": (raw('"metadata":' + '{"a":' * DEEP + "1" + "}" * DEEP), ANY),
    "900 deep in a tool's answer": (
        one('{"role":"tool","tool_call_id":"a","content":' + nested(900) + "}"), "messages[0].content[0]",
    ),
    # Messages
    "no message": (chat(messages=[]), "messages"),
    "null for a message": (chat(messages=[None]), "messages[0]"),
    "a message without a role": (chat(messages=[{"content": MARK}]), "messages[0].role"),
    "a role that there is not": (chat(messages=[{"role": "root", "content": MARK}]), "messages[0].role"),
    "a role that is a number": (chat(messages=[{"role": 1, "content": MARK}]), "messages[0].role"),
    "a message without content": (chat(messages=[{"role": "user"}]), "messages[0].content"),
    "null for a user's content": (chat(messages=[{"role": "user", "content": None}]), "messages[0].content"),
    "an empty list of parts": (chat(messages=[{"role": "user", "content": []}]), "messages[0].content"),
    "a number for content": (chat(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
    "a text part without a text": (
        chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text",
    ),
    "a tool's answer to nothing": (
        chat(messages=[{"role": "tool", "content": "a"}]), "messages[0].tool_call_id",
    ),
    "a tool call of no kind": (
        chat(messages=[{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]),
        "messages[0].tool_calls[0].function.name",
    ),
    "4,097 messages": (chat(messages=chat()["messages"] * 4097), "messages"),
    # What goes together, and what does not
    "stream_options without a stream": (chat(stream_options={"include_usage": True}), "stream_options"),
    "two greatest counts": (chat(max_tokens=5, max_completion_tokens=6), "max_tokens"),
    "top_logprobs without logprobs": (chat(top_logprobs=2), "top_logprobs"),
    "no tool in tools": (chat(tools=[]), "tools"),
    "a choice without tools": (chat(tool_choice="required"), "tool_choice"),
    "a choice of another tool": (
        chat(tool_choice={"type": "function", "function": {"name": "other"}}, **tool({})), "tool_choice",
    ),
    "a choice that there is not": (chat(tool_choice="maybe", **tool({})), "tool_choice"),
    "two tools of one name": (chat(tools=tool({})["tools"] * 2), "tools"),
    "129 tools": (chat(tools=tool({})["tools"] * 129), "tools"),
    "a tool's name with a space": (
        chat(tools=[{"type": "function", "function": {"name": "look up"}}]), "tools[0].function.name",
    ),
    "a tool of another kind": (chat(tools=[{"type": "web_search"}]), ANY),
    "a format that there is not": (chat(response_format={"type": "xml"}), "response_format.type"),
    "a schema that is none": (chat(**structure("string")), "response_format.json_schema.schema"),
    "a format without its schema": (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
        "response_format.json_schema.schema",
    ),
    "two ways to a structure": (
        chat(response_format={"type": "json_object"}, structured_outputs={"regex": "a"}), "structured_outputs",
    ),
    "a structure beside a named tool": (
        chat(
            tool_choice={"type": "function", "function": {"name": "look_up"}}, structured_outputs={"regex": "a"},
            **tool({}),
        ),
        "structured_outputs",
    ),
    "a structure of two kinds": (chat(structured_outputs={"regex": "a", "choice": ["a"]}), "structured_outputs"),
    "a structure of no kind": (chat(structured_outputs={}), "structured_outputs"),
    "continue_final_message alone": (chat(continue_final_message=True), "continue_final_message"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_a_field_cannot_have_is_refused(name: str, visit: Visit) -> None:
    """A wrong value is answered 400, `param` names its place, and the answer does not repeat it."""
    body, param = WRONG[name]
    visit.refused(visit.post(body), 400, "invalid_request", param=param, unlike=(MARK, "99999", "[[["))
