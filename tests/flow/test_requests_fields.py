"""Field by field: what is refused by name, what is accepted and kept back, what passes, and what an engine gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.house import House, chat
from support.refusal import Visit
from support.wire import chat_request

MARK = "s3cr3t-words-of-the-client"
PART = {"type": "text", "text": "hello"}


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One request to come."""
    return Visit(house, engine)


def with_part(part: Any) -> dict[str, Any]:
    """A chat body with one more part in its message."""
    return chat(messages=[{"role": "user", "content": [PART, part]}])


FORBIDDEN: dict[str, Any] = {
    # Where the call goes, and how the engine's template reads it
    "api_base": "http://169.254.169.254/",
    "base_url": "http://evil.example/",
    "api_key": "sk-theirs",
    "custom_llm_provider": "openai",
    "extra_body": {"priority": 1},
    "extra_headers": {"x-a": "b"},
    "chat_template": "{{ ''.__class__.__mro__ }}",
    "documents": [{"title": "a", "text": "b"}],
    "tokenizer": "other",
    # vLLM's own that reach into the engine, or past the bounds here
    "prompt_embeds": "AAAA",
    "mm_processor_kwargs": {"num_crops": 10**9},
    "media_io_kwargs": {},
    "guided_decoding_backend": "outlines",
    "guided_json": {},
    "guided_regex": "(a+)+b",
    "guided_grammar": "root ::= root",
    "structural_tag": "{}",
    "cache_salt": "other-tenant",
    "priority": -10,
    "kv_transfer_params": {"remote_host": "169.254.169.254"},
    "vllm_xargs": {"a": "b"},
    "request_id": "theirs",
    "logits_processors": ["os.system"],
    "prompt_logprobs": 20,
    "truncate_prompt_tokens": -1,
    "allowed_token_ids": [1],
    "use_beam_search": True,
    "best_of": 2,
    "length_penalty": 1.5,
    "return_tokens_as_token_ids": True,
    "return_token_ids": True,
    "include_reasoning": False,
    "add_special_tokens": True,
    "adapter": "other",
    "lora_request": {"lora_path": "/etc"},
    # Nobody's
    "unknown": 1,
    "temperatur": 0.5,
    "Model": "small",
    "__proto__": {"admin": True},
    "__class__": "Admin",
    "type": "ChatBody",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_field_that_is_not_ours_is_refused_by_name(name: str, visit: Visit) -> None:
    """An unknown field is answered 400, and `param` names it; its value is not repeated."""
    answer = visit.post(chat(**{name: FORBIDDEN[name]}))
    visit.refused(answer, 400, "unsupported_parameter", param=name, unlike=("169.254", "evil.example", "theirs"))


MISLEADING: dict[str, tuple[dict[str, Any], str]] = {
    "store": ({"store": True}, "store"),
    "web search": ({"web_search_options": {}}, "web_search_options"),
    "audio": ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    "audio among the modalities": ({"modalities": ["text", "audio"]}, "modalities"),
    "moderation": ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
    "functions": ({"functions": [{"name": "a"}]}, "functions"),
    "function_call": ({"function_call": "auto"}, "function_call"),
    "an effort": ({"reasoning_effort": "high"}, "reasoning_effort"),
    "a verbosity": ({"verbosity": "low"}, "verbosity"),
    "arguments for the template": ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_what_would_mislead_when_ignored_is_refused(name: str, visit: Visit) -> None:
    """A field of OpenAI's whose meaning cannot be had here is refused with a reason, not silently dropped."""
    more, param = MISLEADING[name]
    visit.refused(visit.post(chat(**more)), 400, "unsupported_parameter", param=param)


NESTED: dict[str, tuple[dict[str, Any], str]] = {
    "in a message": (chat(messages=[{"role": "user", "content": "a", "cache_salt": 1}]), "messages[0].cache_salt"),
    "in a part": (with_part({**PART, "url": MARK}), "messages[0].content[1].url"),
    "in a tool": (
        chat(tools=[{"type": "function", "function": {"name": "a", "url": MARK}}]), "tools[0].function.url",
    ),
    "in stream_options": (chat(stream=True, stream_options={"continuous_usage_stats": True}),
                          "stream_options.continuous_usage_stats"),
    "in structured_outputs": (
        chat(structured_outputs={"regex": "a", "structural_tag": "{}"}), "structured_outputs.structural_tag",
    ),
    "in response_format": (
        chat(response_format={"type": "json_object", "backend": "outlines"}), "response_format.backend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_an_unknown_field_inside_is_refused_with_its_place(name: str, visit: Visit) -> None:
    """The allow-list reaches into messages, parts, tools and formats."""
    body, param = NESTED[name]
    visit.refused(visit.post(body), 400, "unsupported_parameter", param=param, unlike=(MARK,))


@pytest.mark.parametrize(
    "name",
    [
        "two words", "", "a" * 65, "a` - at `$.b", "bad` - at `$.<script>alert(1)</script>", "\u202e", "a\r\nx-evil: 1",
        "data: x\n\n", '"', "`", "a\\", "\ud7ff", "$", "x\0",
    ],
)  # fmt: skip
def test_a_field_whose_name_is_an_attack_is_not_repeated(name: str, visit: Visit) -> None:
    """`param` holds a name only if it is a plain one: a crafted name cannot put words into the answer."""
    answer = visit.post(chat(**{name: MARK}))
    visit.refused(answer, 400, "unsupported_parameter", unlike=(MARK, "script", "x-evil", "two words"))
    assert answer.json()["error"]["param"] in (None, "b.a", "bad")


def test_a_name_that_is_too_long_is_refused_by_the_field_that_has_it(visit: Visit) -> None:
    """In `metadata` names have a bound too: `param` is the field, and the message is a sentence like the others."""
    answer = visit.post(chat(metadata={MARK * 3: "a"}))
    visit.refused(answer, 400, "invalid_request", param="metadata", unlike=(MARK, "$"))


PARTS: dict[str, Any] = {
    "an image at a link-local address": {
        "type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data/iam/security-credentials/"},
    },
    "an image at a private address": {"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}},
    "an image at loopback": {"type": "image_url", "image_url": {"url": "http://[::1]:8081/metrics"}},
    "an image in a file": {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    "an image behind a redirect": {"type": "image_url", "image_url": {"url": "https://evil.example/redirect"}},
    "an image in line": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    "an image as a text": {"type": "image_url", "image_url": "file:///etc/passwd"},
    "an image without a type": {"image_url": {"url": "file:///etc/passwd"}},
    "embedded image": {"type": "image_embeds", "image_embeds": "AAAA"},
    "an input image": {"type": "input_image", "image_url": "file:///etc/passwd"},
    "a file": {"type": "file", "file": {"file_id": "file-1"}},
    "a file in line": {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
    "input audio": {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    "audio at an address": {"type": "audio_url", "audio_url": {"url": "http://10.0.0.1/a.wav"}},
    "a video": {"type": "video_url", "video_url": {"url": "http://10.0.0.1/a.mp4"}},
    "a refusal of a user's": {"type": "refusal", "refusal": "no"},
    "a text with an image": {**PART, "image_url": {"url": "file:///etc/passwd"}},
    "a text": "hello",
    "null": None,
}  # fmt: skip


UNKNOWN_INSIDE = {"a text with an image", "an image without a type"}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_not_text_is_refused(name: str, visit: Visit) -> None:
    """Nothing is fetched, opened or decoded for a client: parts other than text do not reach an engine."""
    answer = visit.post(with_part(PARTS[name]))
    code = "unsupported_parameter" if name in UNKNOWN_INSIDE else "invalid_request"
    visit.refused(answer, 400, code, unlike=("169.254", "passwd", "evil", "10.0.0.1", "AAAA"))
    assert answer.json()["error"]["param"].startswith("messages[0].content[1]")


# What is accepted ---------------------------------------------------------------------------------------------------

DROPPED: dict[str, Any] = {
    "metadata": {"ward": MARK},
    "service_tier": "auto",
    "safety_identifier": MARK,
    "prompt_cache_key": MARK,
    "prompt_cache_retention": "24h",
    "store": False,
    "user": MARK,
    "prediction": {"type": "content", "content": MARK},
    "modalities": ["text"],
    "reasoning_effort": "none",
    "verbosity": "medium",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_has_no_meaning_here_is_accepted_and_kept_back(name: str, visit: Visit) -> None:
    """A field of OpenAI's that changes nothing is accepted, and no engine gets it."""
    assert visit.post(chat(**{name: DROPPED[name]})).status_code == 200
    (asked,) = visit.engine.calls
    assert name not in asked.json
    assert MARK not in asked.body.decode()
    assert MARK not in str(asked.headers)


def test_what_openais_libraries_leave_in_a_message_is_accepted_and_kept_back(visit: Visit) -> None:
    """Their own parse of an answer, and the ends of a cacheable prompt: whatever it is, no engine gets it."""
    every: tuple[Any, ...] = ({"secret": [MARK]}, MARK, [], None)
    for left in every:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "a", "arguments": "{}", "parsed_arguments": left},
        }
        messages = [
            {"role": "user", "content": [{**PART, "prompt_cache_breakpoint": left}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "parsed": left},
            {"role": "tool", "tool_call_id": "call_1", "content": "b"},
        ]
        assert visit.post(chat(messages=messages)).status_code == 200
        sent = visit.engine.calls[-1]
        assert MARK not in sent.body.decode()
        assert "parsed" not in sent.body.decode()
        assert sent.json["messages"][0]["content"] == [PART]


def test_null_is_the_same_as_left_out(visit: Visit) -> None:
    """Every optional field may be null, as OpenAI's own clients write it, and is then not sent."""
    every = [*DROPPED, *PASSED, *(param for _, param in MISLEADING.values())]
    assert visit.post(chat() | dict.fromkeys(every)).status_code == 200
    assert set(visit.engine.calls[0].asked) == {"model", "messages"}


PASSED: dict[str, Any] = {
    "n": 2,
    "max_tokens": 64,
    "max_completion_tokens": 64,
    "temperature": 0,
    "top_p": 0.9,
    "seed": -(2**63),
    "stop": ["\n", "END"],
    "frequency_penalty": -2,
    "presence_penalty": 1.5,
    "logit_bias": {"49151": -100, "0": 0.5},
    "logprobs": True,
    "response_format": {"type": "json_object"},
    "parallel_tool_calls": False,
    # vLLM's
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "min_tokens": 1,
    "stop_token_ids": [2],
    "bad_words": ["no"],
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "structured_outputs": {"regex": "[a-z]{1,63}(\\.[a-z]{1,63})?"},
}


SAMPLED: dict[str, Any] = {
    "n": 2,
    "max_tokens": 64,
    "max_completion_tokens": 64,
    "temperature": "0.0",
    "top_p": "0.9",
    "seed": str(-(2**63)),
    "frequency_penalty": "-2.0",
    "presence_penalty": "1.5",
    "top_k": 40,
    "min_p": "0.05",
    "repetition_penalty": "1.1",
    "min_tokens": 1,
}


@pytest.mark.parametrize("name", PASSED)
def test_what_an_engine_acts_on_passes(name: str, visit: Visit) -> None:
    """A field within its bounds reaches the engine as it was meant, and the record names what was sampled with."""
    assert visit.post(chat(**{name: PASSED[name]})).status_code == 200
    assert visit.engine.calls[0].asked == {**chat(), name: PASSED[name]}
    sampling = visit.house.records("intent")[-1]["sampling"]
    recorded_as = "max_tokens" if name == "max_completion_tokens" else name
    assert sampling == ({recorded_as: SAMPLED[name]} if name in SAMPLED else {})


def test_a_structure_that_is_not_asked_for_is_not_sent(visit: Visit) -> None:
    """`json_object: false` beside a schema: vLLM counts it as a second structure, and refuses both."""
    schema = {"type": "object"}
    assert visit.post(chat(structured_outputs={"json": schema, "json_object": False})).status_code == 200
    assert visit.engine.calls[0].json["structured_outputs"] == {"json": schema}


def test_everything_at_once_passes(visit: Visit) -> None:
    """A long conversation with tools, parts, names and a schema, as OpenAI's client writes it, reaches the engine."""
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"ward": "A\\"3"}'}}
    parameters = {
        "type": "object",
        "properties": {"ward": {"type": "string", "pattern": "^[A-Z][0-9]{1,3}$", "maxLength": 4}, "$ref": {}},
        "required": ["ward"],
        "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 1000}},
    }
    body = chat(
        messages=[
            {"role": "system", "content": "You are brief.", "name": "clinic"},
            {"role": "developer", "content": [PART]},
            {"role": "user", "content": [PART, {"type": "text", "text": "caf\u00e9 \U0001f600 \u2028"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "free"},
            {"role": "assistant", "content": "Free.", "refusal": None, "annotations": [], "audio": None},
            {"role": "user", "content": ""},
        ],
        tools=[{"type": "function", "function": {"name": "look_up", "parameters": parameters, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": parameters, "strict": True}},
    )
    assert visit.post(body).status_code == 200
    got = visit.engine.calls[0].json
    assert got["tools"] == body["tools"]
    assert got["tool_choice"] == body["tool_choice"]
    assert got["response_format"] == body["response_format"]
    sent = body["messages"]
    assert got["messages"][3] == {"role": "assistant", "tool_calls": [call]}
    assert got["messages"][5] == {"role": "assistant", "content": "Free.", "annotations": []}
    assert [got["messages"][place] for place in (0, 1, 2, 4, 6)] == [sent[place] for place in (0, 1, 2, 4, 6)]


def test_a_function_without_parameters_has_none(visit: Visit) -> None:
    """As OpenAI has it: an engine that is told of no schema takes whatever arguments its model makes up."""
    every: tuple[dict[str, Any], ...] = ({"name": "now"}, {"name": "now", "parameters": None})
    for function in every:
        assert visit.post(chat(tools=[{"type": "function", "function": function}])).status_code == 200
        [tool] = visit.engine.calls[-1].json["tools"]
        assert tool["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("prompt", ["hello", ["a", "b"], [1, 2, 49151], [[1], [2, 3]], ""])
def test_prompts_of_every_kind_pass(prompt: Any, visit: Visit) -> None:
    """Text, texts, tokens and lists of tokens reach the engine as they are."""
    body = {"model": "small", "prompt": prompt, "max_tokens": 5, "echo": True, "logprobs": 2, "best_of": 1}
    assert visit.post(body, "/v1/completions").status_code == 200
    assert visit.engine.calls[0].json["prompt"] == prompt
    assert "best_of" not in visit.engine.calls[0].json


def test_a_prompt_may_be_scored_without_an_answer(visit: Visit) -> None:
    """`max_tokens` of 0 with `echo`, as OpenAI and vLLM have it: the prompt comes back with its log probabilities."""
    body = {"model": "small", "prompt": "a", "max_tokens": 0, "logprobs": 1}
    for echo in ({}, {"echo": False}):
        visit.refused(visit.post({**body, **echo}, "/v1/completions"), 400, "invalid_request", param="max_tokens")
    visit.refused(visit.post(chat(max_tokens=0)), 400, "invalid_request", param="max_tokens")
    assert visit.post({**body, "echo": True}, "/v1/completions").status_code == 200
    assert visit.engine.calls[0].json["max_tokens"] == 0


# One meaning everywhere ---------------------------------------------------------------------------------------------

TWICE: dict[str, tuple[str, str, Any]] = {
    "the model": ('"model":"other","model":"small"', "model", "small"),
    "the model, escaped": ('"model":"other","m\\u006fdel":"small"', "model", "small"),
    "a count": ('"model":"small","max_tokens":999999,"max_tokens":5', "max_tokens", 5),
    "the choices": ('"model":"small","n":1000000,"n":2', "n", 2),
    "a stream": ('"model":"small","stream":true,"stream":false', "stream", False),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_field_that_stands_twice_has_one_meaning(name: str, visit: Visit) -> None:
    """Policy, record and engine see the same value of a repeated field; the engine gets it once."""
    text, field, value = TWICE[name]
    answer = visit.post(b"{" + text.encode() + b',"messages":[{"role":"user","content":"a"}]}')
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    (asked,) = visit.engine.calls
    assert asked.json[field] == value
    assert asked.body.count(b'"%b":' % field.encode()) == 1
    intent = visit.house.records("intent")[-1]
    assert intent["model"] == "small"
    assert intent["stream"] is False
    assert intent["sampling"].get(field, value) == value


def test_a_message_whose_fields_stand_twice_has_one_meaning(visit: Visit) -> None:
    """Inside messages too the engine gets each key once; a message of two roles is refused."""
    start, message = b'{"model":"small","messages":[', b'{"role":"user","content":"one","content":"two"}]}'
    answer = visit.post(start + message.replace(b"{", b'{"role":"system",'))
    visit.refused(answer, 400, "invalid_request", param="messages[0].role")
    answer = visit.post(start + message)
    assert answer.status_code == 200
    got = visit.engine.calls[0]
    assert got.body.count(b'"role"') == got.body.count(b'"content"') == 1
    assert got.json["messages"] == [{"role": "user", "content": "two"}]


def test_the_engine_never_gets_the_clients_bytes(visit: Visit) -> None:
    """White space, escapes and order of the client's text are gone: what the engine gets is written anew."""
    body = b'\r\n\t {"messages" : [ { "content":"\\u0068i\\/", "role":"user"} ], "model"\n:"small" , "n": 1 } '
    assert visit.post(body).status_code == 200
    got = visit.engine.calls[0]
    assert got.asked == {"model": "small", "messages": [{"role": "user", "content": "hi/"}], "n": 1}
    assert b"\\u" not in got.body
    assert b" " not in got.body
    assert got.headers["authorization"] == "Bearer engine-key-of-the-tests"
    assert visit.key not in str(got.headers)


# Words that are written down ----------------------------------------------------------------------------------------

EVIL = 'a\r\nSet-Cookie: x=1\r\n\r\ndata: {"choices":[]}\n\n\u2028\x1b[31m'


@pytest.mark.parametrize("field", ["user", "model"])
def test_line_ends_in_a_field_that_is_recorded_are_escaped(field: str, visit: Visit) -> None:
    """CR, LF and `data:` in a field make neither a second line of the record nor an event of a stream."""
    before = len(visit.house.records())
    answer = visit.post(chat(stream=True, **{field: EVIL}))
    assert "Set-Cookie" not in str(answer.headers)
    assert "Set-Cookie" not in answer.text
    if field == "model":
        visit.refused(answer, 404, "model_not_found", param="model", unlike=("data:",))
        (record,) = visit.house.records("refusal")[-1:]
        written = record["model"]
    else:
        assert answer.text.count("data: ") == 10
        written = visit.house.records("intent")[-1]["end_user"]
    assert written.startswith("a\\r\\nSet-Cookie: x=1\\r\\n")
    assert written.isprintable()
    assert len(visit.house.records()) > before


def test_line_ends_in_headers_that_are_recorded_are_escaped(visit: Visit) -> None:
    """What a header may hold that is not printable is escaped in the record, once, and cut with a mark."""
    agent = "User-Agent: a\tb\\n\x80\xff" + "c" * 9000
    answer = visit.send(chat_request(visit.key, chat(), agent, 'X-Request-Id: "}\t{"type":"x"' + "d" * 500))
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].startswith("req_")
    intent = visit.house.records("intent")[-1]
    assert intent["user_agent"].startswith(r"a\tb\\n\udc80\udcffccc")
    assert intent["user_agent"].endswith("ccc…[of 9007 characters]")
    assert intent["user_agent"].isprintable()
    assert len(intent["user_agent"]) <= 256
    assert intent["client_request_id"].isprintable()
    assert len(intent["client_request_id"]) <= 128
    assert intent["client_request_id"].endswith(" characters]")
    named = "User-Agent: Befund/1 (Z\u00fcrich)".encode().decode("latin-1")
    assert visit.send(chat_request(visit.key, chat(), named)).status_code == 200
    assert visit.house.records("intent")[-1]["user_agent"] == "Befund/1 (Z\u00fcrich)"
    assert json.dumps(intent).count('"type": ') == 1


@pytest.mark.parametrize("wish", [None, {}, {"include_usage": False}, {"include_usage": True}])
def test_usage_is_counted_always_and_told_on_request(wish: dict[str, Any] | None, visit: Visit) -> None:
    """The engine is asked for usage on every stream; the client gets that event only if it asked too."""
    answer = visit.post(chat(stream=True) if wish is None else chat(stream=True, stream_options=wish))
    assert visit.engine.calls[0].json["stream_options"] == {"include_usage": True}
    told = '"usage":{' in answer.text
    assert told is bool(wish and wish.get("include_usage"))
    outcome = visit.house.records("outcome")[-1]
    assert (outcome["prompt_tokens"], outcome["completion_tokens"]) == (24, 7)
