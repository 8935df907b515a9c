"""OpenAI's own client at the receiving end of refusals: the right exception, the right fields, the right patience."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.engine import FakeEngine
from support.house import House, chat, until

MESSAGES: Any = chat()["messages"]

REFUSED: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str, str | None]] = {
    "an unknown field": ({"extra_body": {"x": 1}}, openai.BadRequestError, "unsupported_parameter", "x"),
    "a value out of bounds": ({"n": 10**18}, openai.BadRequestError, "invalid_request", "n"),
    "storing": ({"store": True}, openai.BadRequestError, "unsupported_parameter", "store"),
    "a web search": ({"web_search_options": {}}, openai.BadRequestError, "unsupported_parameter", "web_search_options"),
    "too many tokens": ({"max_tokens": 5000}, openai.BadRequestError, "context_length_exceeded", "max_tokens"),
    "another model": ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
    "a large body": ({"user": "u" * 5_000_000}, openai.APIStatusError, "request_too_large", None),
}  # fmt: skip


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it comes, with a key of its own: it retries twice."""
    with house.client(house.new_key(), max_retries=2) as client:
        yield client


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_become_the_clients_exceptions(
    name: str, stream: bool, client: openai.OpenAI, house: House, engine: FakeEngine
) -> None:
    """Each refusal is the exception that OpenAI's own server causes, with its fields, and is not tried again."""
    more, kind, code, param = REFUSED[name]
    before = len(house.records("refusal"))
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "small", "messages": MESSAGES, "stream": stream, **more})
    fault = caught.value
    assert isinstance(fault, openai.APIStatusError)
    assert (fault.code, fault.param, fault.type) == (code, param, "invalid_request_error")
    assert fault.request_id is not None
    assert len(house.records("refusal")) == before + 1
    assert house.records("refusal")[-1]["request_id"] == fault.request_id
    assert engine.calls == []


@pytest.mark.parametrize("key", ["vst_wrong", "sk-1234", "vst_" + "a" * 4000])
def test_a_wrong_key_is_an_authentication_error(key: str, house: House, engine: FakeEngine) -> None:
    """A key that is not known is AuthenticationError, on every route."""
    with house.client(key, max_retries=2) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="small", messages=MESSAGES)
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="small", prompt="hello")
    assert engine.calls == []


def test_calls_to_routes_that_are_not_here_are_not_found(client: openai.OpenAI, engine: FakeEngine) -> None:
    """What OpenAI has and this server has not is NotFoundError."""
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="small", input="hello")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="small", input="hello")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete("small")
    assert (refused.value.status_code, refused.value.code) == (405, "method_not_allowed")
    assert engine.calls == []


def test_the_engines_complaint_becomes_a_bad_request(client: openai.OpenAI, engine: FakeEngine) -> None:
    """What the engine finds wrong is BadRequestError with OpenAI's code, and the engine is asked once."""
    engine.behave(status=400, complaint="This model's maximum context length is 2048 tokens.")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=MESSAGES)
    assert caught.value.code == "context_length_exceeded"
    assert len(engine.calls) == 1


class Hesitant(httpx.HTTPTransport):
    """Sends half of each body, and then nothing: a client whose network went away."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0
        self.over = threading.Event()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.tries += 1
        body = request.read()

        def slowly() -> Iterator[bytes]:
            yield body[: len(body) // 2]
            self.over.wait(20)
            yield body[len(body) // 2 :]

        return super().handle_request(
            httpx.Request(request.method, request.url, headers=request.headers, content=slowly())
        )


def test_a_request_that_did_not_arrive_is_not_tried_again(engine: FakeEngine, tmp_path: Path) -> None:
    """408 says not to retry: a client that sends too slowly does not come back three times by itself."""
    with House(tmp_path, [engine], door={"body_seconds": 0.3}) as house:
        transport = Hesitant()

        def go_on() -> None:
            until(lambda: house.records("refusal"), what="the refusal")
            transport.over.set()

        http = httpx.Client(transport=transport)
        with house.client(max_retries=2, http_client=http) as client:
            threading.Thread(target=go_on).start()
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model="small", messages=MESSAGES)
        assert (caught.value.status_code, caught.value.code) == (408, "request_timeout")
        assert transport.tries == 1
        assert engine.calls == []


def test_a_busy_key_is_told_how_long_to_wait(engine: FakeEngine, tmp_path: Path) -> None:
    """429 is RateLimitError with Retry-After, and the client that waits for it gets its answer."""
    engine.behave(first_seconds=0.7)
    with House(tmp_path, [engine], tenants={"default": {"key_concurrency": 1}}) as house:
        long_call = threading.Thread(target=lambda: house.post(json=chat()))
        long_call.start()
        until(lambda: engine.calls, what="the engine being asked")
        with house.client() as impatient, pytest.raises(openai.RateLimitError) as caught:
            impatient.chat.completions.create(model="small", messages=MESSAGES)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        wait = int(caught.value.response.headers["retry-after"])
        assert wait >= 1
        began = time.monotonic()
        with house.client(max_retries=2) as patient:
            assert patient.chat.completions.create(model="small", messages=MESSAGES).choices[0].finish_reason == "stop"
        assert time.monotonic() - began >= wait * 0.75
        long_call.join(10)


def test_the_asynchronous_client_sees_the_same(house: House, engine: FakeEngine) -> None:
    """The async client raises the same exceptions, and many at once do not disturb each other."""

    async def calls() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=house.url + "/v1", api_key=house.key, max_retries=0) as client:
            bad = client.chat.completions.create(model="small", messages=MESSAGES, n=999)
            missing = client.chat.completions.create(model="other", messages=MESSAGES)
            good = client.chat.completions.create(model="small", messages=MESSAGES)
            return list(await asyncio.gather(bad, missing, good, return_exceptions=True))

    bad, missing, good = asyncio.run(calls())
    assert isinstance(bad, openai.BadRequestError)
    assert isinstance(missing, openai.NotFoundError)
    assert good.choices[0].message.content == "The capital of France is Paris."


def test_what_the_client_says_of_itself_does_not_matter(client: openai.OpenAI, house: House) -> None:
    """Headers of organisation, project and idempotency, and a query, are no part of a call."""
    answer = client.chat.completions.create(
        model="small",
        messages=MESSAGES,
        extra_headers={"OpenAI-Organization": "org", "OpenAI-Project": "p", "Idempotency-Key": "k"},
        extra_query={"api-version": "2024-06-01"},
    )
    assert answer.choices[0].finish_reason == "stop"
    assert str(answer._request_id).startswith("req_")
    assert house.records("outcome")[-1]["request_id"] == answer._request_id
