"""Clients as people use them: OpenAI's library, sync and async, streaming and not, and plain HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pydantic
import pytest

from fakes.engine import FakeEngine
from support.house import PLAIN, House, chat

CONTENT = "The capital of France is Paris."
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_chat(house: House, engine: FakeEngine) -> None:
    """An answer, its usage, and our request id where the library looks for it."""
    answer = house.client().chat.completions.create(model="small", messages=MESSAGES, temperature=0, seed=1)
    assert answer.choices[0].message.content == CONTENT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 31
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_streams(house: House, engine: FakeEngine) -> None:
    """Chunks, with usage last for those who ask."""
    stream = house.client().chat.completions.create(
        model="small", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == CONTENT
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7


def test_the_stream_helper(house: House, engine: FakeEngine) -> None:
    """The library's own accumulation of a stream ends with the whole answer."""
    with house.client().chat.completions.stream(model="small", messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.done" in kinds
    assert final.choices[0].message.content == CONTENT


def test_async_clients_at_once(house: House, engine: FakeEngine) -> None:
    """Ten calls at once, every other one streamed."""

    async def one(client: openai.AsyncOpenAI, number: int) -> str | None:
        if number % 2:
            answer = await client.chat.completions.create(model="small", messages=MESSAGES)
            return answer.choices[0].message.content
        stream = await client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run() -> list[str | None]:
        http = openai.DefaultAsyncHttpxClient(verify=PLAIN)
        async with openai.AsyncOpenAI(base_url=house.url + "/v1", api_key=house.key, http_client=http) as client:
            return await asyncio.gather(*(one(client, number) for number in range(10)))

    assert asyncio.run(run()) == [CONTENT] * 10


def test_leaving_a_stream_early(house: House, engine: FakeEngine) -> None:
    """`stream.close()` after the first chunk; the client goes on to work."""
    engine.behave(between_seconds=0.02)
    client = house.client()
    stream = client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="small", messages=MESSAGES).choices[0].message.content == CONTENT


def test_tools(house: House, engine: FakeEngine) -> None:
    """A tool call comes back whole, streamed and not, and the tools reach the engine."""
    engine.behave(tool_call="weather")
    client = house.client()
    answer = client.chat.completions.create(model="small", messages=MESSAGES, tools=[WEATHER], tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"
    (made,) = answer.choices[0].message.tool_calls or []
    assert made.type == "function"
    assert (made.function.name, json.loads(made.function.arguments)) == ("weather", {"city": "Paris"})
    assert engine.calls[0].json["tools"][0]["function"]["name"] == "weather"
    with client.chat.completions.stream(model="small", messages=MESSAGES, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    (made,) = final.choices[0].message.tool_calls or []
    assert made.function.name == "weather"


def test_a_tool_that_takes_an_email_address(house: House, engine: FakeEngine) -> None:
    """Zod, which most tools in TypeScript are described with, gives this expression to every `z.email()`."""
    pattern = r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    schema = {"type": "object", "properties": {"to": {"type": "string", "format": "email", "pattern": pattern}}}
    tool: Any = {"type": "function", "function": {"name": "send", "parameters": schema}}
    house.client().chat.completions.create(model="small", messages=MESSAGES, tools=[tool])
    assert engine.calls[0].json["tools"][0]["function"]["parameters"] == schema


def test_a_conversation_with_tool_results(house: House, engine: FakeEngine) -> None:
    """What the library makes of an answer can be sent back as it is."""
    engine.behave(tool_call="weather")
    client = house.client()
    first = client.chat.completions.create(model="small", messages=MESSAGES, tools=[WEATHER]).choices[0].message
    engine.behave(tool_call=None)
    result = {"role": "tool", "tool_call_id": (first.tool_calls or [])[0].id, "content": "sunny"}
    messages = [*MESSAGES, first.model_dump(exclude_none=True), result]
    again = client.chat.completions.create(model="small", messages=messages, tools=[WEATHER])
    assert again.choices[0].message.content == CONTENT
    assert [each["role"] for each in engine.calls[-1].json["messages"]] == ["user", "assistant", "tool"]


class Capital(pydantic.BaseModel):
    """What is asked for."""

    city: str
    country: str


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str


@pytest.mark.parametrize("streamed", [False, True])
def test_what_the_helpers_make_of_an_answer_can_be_sent_back(house: House, engine: FakeEngine, streamed: bool) -> None:
    """`parse` and `stream` leave what they have parsed in the message; no engine gets it."""
    client = house.client()

    def asked(messages: list[Any], **options: Any) -> Any:
        if not streamed:
            return client.chat.completions.parse(model="small", messages=messages, **options)
        with client.chat.completions.stream(model="small", messages=messages, **options) as stream:
            return stream.get_final_completion()

    engine.behave(tool_call="Weather")
    called = asked(MESSAGES, tools=[openai.pydantic_function_tool(Weather)]).choices[0].message
    (call,) = called.tool_calls
    assert call.function.parsed_arguments == Weather(city="Paris")
    engine.behave(tool_call=None, words=('{"city":"Paris",', '"country":"France"}'))
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = asked([*MESSAGES, called, result], response_format=Capital).choices[0].message
    assert answer.parsed == Capital(city="Paris", country="France")
    asked([*MESSAGES, called, result, answer, *MESSAGES])
    assert b'"parsed' not in engine.calls[-1].body


def test_a_streamed_tool_call_without_arguments_can_be_sent_back(house: House, engine: FakeEngine) -> None:
    """vLLM names the tool in a chunk of its own: where no other follows, the library's message has no arguments."""
    call = {"id": "chatcmpl-tool-1", "type": "function", "index": 0, "function": {"name": "weather"}}
    choices: list[Any] = [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    ]
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    chunks = [*({**frame, "choices": [each]} for each in choices), {**frame, "choices": [], "usage": usage}]
    said = "".join(f"data: {json.dumps(each, separators=(',', ':'))}\n\n" for each in chunks) + "data: [DONE]\n\n"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(said)}\r\n\r\n"
    engine.behave(raw=(head + said).encode())
    with house.client().chat.completions.stream(model="small", messages=MESSAGES, tools=[WEATHER]) as stream:
        asked: Any = stream.get_final_completion().choices[0].message
    assert asked.tool_calls[0].function.arguments is None
    engine.behave(raw=None)
    result: Any = {"role": "tool", "tool_call_id": "chatcmpl-tool-1", "content": "Which city?"}
    for again in (asked, asked.model_dump()):
        house.client().chat.completions.create(model="small", messages=[*MESSAGES, again, result])
        assert engine.calls[-1].json["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": ""}


def test_json_schema(house: House, engine: FakeEngine) -> None:
    """`parse` sends a strict JSON schema, and gets an object back."""
    engine.behave(words=('{"city":"Paris",', '"country":"France"}'))
    answer = house.client().chat.completions.parse(model="small", messages=MESSAGES, response_format=Capital)
    assert answer.choices[0].message.parsed == Capital(city="Paris", country="France")
    asked = engine.calls[0].json
    assert (asked.get("response_format") or asked.get("structured_outputs")) is not None
    assert "Capital" in json.dumps(asked) or "city" in json.dumps(asked)


def test_log_probabilities_and_choices(house: House, engine: FakeEngine) -> None:
    """`logprobs` and `n`."""
    answer = house.client().chat.completions.create(
        model="small", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2
    )
    assert len(answer.choices) == 2
    assert answer.choices[1].logprobs is not None
    assert next(each.token for each in answer.choices[1].logprobs.content or []) == "The"
    assert engine.calls[0].json["top_logprobs"] == 2


def test_plain_completions(house: House, engine: FakeEngine) -> None:
    """The older route, streamed and not, with its own log probabilities."""
    client = house.client()
    answer = client.completions.create(model="small", prompt="The capital of France", logprobs=2)
    assert answer.choices[0].text == CONTENT
    assert answer.choices[0].logprobs is not None
    stream = client.completions.create(model="small", prompt="The capital of France", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == CONTENT


def test_extras_of_the_engine(house: House, engine: FakeEngine) -> None:
    """vLLM's own parameters go in `extra_body`, and arrive."""
    house.client().chat.completions.create(
        model="small", messages=MESSAGES, extra_body={"top_k": 5, "repetition_penalty": 1.1}
    )
    assert engine.calls[0].json["top_k"] == 5
    assert engine.calls[0].json["repetition_penalty"] == 1.1


def test_models(house: House, engine: FakeEngine) -> None:
    """The list, one model, and none."""
    client = house.client()
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "vestry"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none-such")


def test_errors_are_the_librarys_own(house: House, engine: FakeEngine) -> None:
    """Each status raises the class that programs catch, with our code and parameter."""
    with pytest.raises(openai.AuthenticationError) as unknown:
        house.client("vst_wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        house.client().chat.completions.create(model="none-such", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        house.client().chat.completions.create(model="small", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    assert bad.value.request_id is not None


def test_what_the_library_prints_of_an_error_names_the_field(house: House, engine: FakeEngine) -> None:
    """It prints the message alone, as Node's does, and what is built on either; the record keeps the name out."""
    with pytest.raises(openai.BadRequestError) as unknown:
        house.client().chat.completions.create(model="small", messages=MESSAGES, extra_body={"tempreature": 1})
    assert "(`tempreature`)" in str(unknown.value)
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError) as picture:
        house.client().chat.completions.create(model="small", messages=[{"role": "user", "content": [image]}])
    assert "(`messages[0].content[0].type`)" in str(picture.value)
    log = house.settings.audit_directory / house.settings.audit.origin
    assert not any(b"tempreature" in segment.read_bytes() for segment in log.glob("*.jsonl"))


def test_a_route_that_is_not_served_says_which_are(house: House, engine: FakeEngine) -> None:
    """Libraries ask for `responses` of their own accord, and call its 404 a missing model."""
    client = house.client()
    for ask in (
        lambda: client.responses.create(model="small", input="Hello"),
        lambda: client.embeddings.create(model="small", input="Hello"),
    ):
        with pytest.raises(openai.NotFoundError, match="chat completions, completions and models are served") as none:
            ask()
        assert none.value.code == "not_found"


def test_the_library_retries_what_may_pass(house: House, engine: FakeEngine) -> None:
    """An engine that is back at the second try: the library's own retry makes it good."""
    engine.behave(status=500)

    def mend(request: httpx.Request) -> None:
        if request.headers.get("x-stainless-retry-count") == "1":
            engine.behave(status=200)

    http = httpx.Client(verify=PLAIN, event_hooks={"request": [mend]})
    answer = house.client(max_retries=2, http_client=http).chat.completions.create(model="small", messages=MESSAGES)
    assert answer.choices[0].message.content == CONTENT
    assert len(engine.calls) == 2


def test_plain_http(house: House, engine: FakeEngine) -> None:
    """No library at all: JSON in, JSON out; the key may also come as `x-api-key`."""
    for headers in ({"authorization": f"Bearer {house.key}"}, {"x-api-key": house.key}):
        answer = house.post(json=chat(), headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == CONTENT
