"""The relay: what goes on at once, what is raised, and what is an outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from fakes.wires import MemoryWire
from support.relays import CLOSED, COUNTED, DONE, LAST, SAID, WHOLE, Bench, failed, relayed, streamed, whole
from vestry.errors import EngineFailed
from vestry.types import Ending, Usage

# Good answers ---------------------------------------------------------------------------------------------------


def test_an_answer_in_one_piece_is_the_last_of_its_outcome() -> None:
    """Nothing leaves before the outcome is durable: the whole body waits in `last`."""
    body = json.dumps(WHOLE).encode()
    outcome, bench = relayed(whole(200, body), stream=False)
    assert (outcome.ending, outcome.status, outcome.last) == (Ending.COMPLETE, 200, body)
    assert outcome.usage == Usage(7, 2)
    assert outcome.finish_reasons == ("stop",)
    assert outcome.replica == "a"
    assert outcome.first_byte is not None
    assert bench.client.written == b""
    assert bench.firsts == 1


def test_a_stream_goes_on_as_it_comes_and_its_end_waits() -> None:
    """Chunks leave in the callback that brought them; from the last finish reason on they wait in `last`."""
    outcome, bench = relayed(streamed(SAID, SAID, LAST + COUNTED, DONE))
    assert outcome.ending is Ending.COMPLETE
    assert bench.client.written == SAID + SAID
    assert outcome.last == LAST + DONE
    assert outcome.usage == Usage(7, 2)
    assert bench.firsts == 1


def test_the_engine_gets_our_request_id_and_the_callers_trace() -> None:
    """Correlation: x-request-id is ours, traceparent is the caller's, and goes on only if there is one."""
    _, bench = relayed(streamed(SAID, LAST, COUNTED, DONE), traceparent="00-1-2-03")
    (wire,) = bench.engine.wires
    assert (wire.method, wire.path, wire.body) == ("POST", "/v1/chat/completions", b"{}")
    assert wire.headers == {"x-request-id": "req_7", "traceparent": "00-1-2-03"}
    _, bench = relayed(streamed(SAID, LAST, COUNTED, DONE))
    assert bench.engine.wires[0].headers == {"x-request-id": "req_7"}


# Failures before the first byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices":[]}',
        b'{"choices":[],"usage":{"prompt_tokens":1}}',
        json.dumps({**WHOLE, "choices": WHOLE["choices"] * 2}).encode(),
        b'{"usage":' + b"[" * 50_000,
        b'{"choices":[{"finish_reason":"\xff"}],"usage":{}}',
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failure_of_the_engine(body: bytes) -> None:
    """Not JSON, no usage, another number of choices: garbage, which another replica may make good."""
    fault = failed(whole(200, body), stream=False)
    assert isinstance(fault, EngineFailed)
    assert (fault.cause, fault.status) == ("garbage", 502)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 405, 429, 500, 502, 503])
def test_another_status_is_a_failure_of_the_engine(status: int) -> None:
    """A wrong key, a wrong path, a redirect, an error: never the client's fault, never followed."""
    fault = failed(whole(status, b'{"error":"x"}'), stream=False)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "status"


@pytest.mark.parametrize(
    ("words", "code", "param"),
    [
        ("This model's maximum context length is 2048 tokens.", "context_length_exceeded", "messages"),
        ("the prompt is longer than the maximum model length", "context_length_exceeded", "messages"),
        ("max_tokens must be at least 1, got 0. (parameter=max_tokens)", "context_length_exceeded", "messages"),
        ("min_tokens must be less than or equal to max_tokens=5, got 50.", "invalid_request", "min_tokens"),
        ("bad_words entries must tokenize to at least one token.", "invalid_request", "bad_words"),
        ("Requested sample logprobs of 20, which is greater than max allowed: 9", "invalid_request", "top_logprobs"),
        ("Chat template raised: jinja2 error", "invalid_request", None),
        ("Failed to convert the grammar from EBNF", "invalid_request", "structured_outputs"),
        ('"auto" tool choice requires --enable-auto-tool-choice', "invalid_request", "tools"),
        ("Token id 99999 is out of vocab", "invalid_request", None),
        ("Sing me a song of tokens", "invalid_request", None),
        ("", "invalid_request", None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_the_engine_calls_a_bad_request_is_one_in_our_words(
    words: str, code: str, param: str | None, stream: bool
) -> None:
    """400 from the engine is 400 for the client, in a sentence of ours: the engine's may repeat the prompt."""
    said = json.dumps({"error": {"message": words + " my secret prompt"}}).encode()
    fault = failed(whole(400, said), stream=stream, body=b'{"structured_outputs":{"regex":"a"}}')
    assert (fault.status, fault.code, fault.param) == (400, code, param)
    assert "secret" not in fault.reason
    assert param is None or param in ("messages", "top_logprobs") or param in fault.reason or "schema" in fault.reason
    assert ("vocabulary" in fault.reason) == ("vocab" in words)


@pytest.mark.parametrize(
    ("words", "code", "param"),
    [
        ("This model's maximum context length is 2048 tokens.", "context_length_exceeded", "prompt"),
        ("Either prompt or prompt_embeds must be provided and non-empty.", "invalid_request", "prompt"),
        ("The decoder prompt cannot be empty", "invalid_request", "prompt"),
        ("Requested sample logprobs of 5, which is greater than max allowed: 3", "invalid_request", "logprobs"),
        ("Grammar error: Unknown format: nope", "invalid_request", None),
    ],
)
def test_it_names_fields_of_the_route(words: str, code: str, param: str | None) -> None:
    """`/v1/completions` has no messages; where several fields may be meant, none is named."""
    fault = failed(whole(400, json.dumps({"error": {"message": words}}).encode()), route="completions")
    assert (fault.status, fault.code, fault.param) == (400, code, param)


def test_an_endless_error_is_cut_off() -> None:
    """No more of an error is read than 64 KiB."""
    outcome = failed(whole(500, b"x" * 70_000), stream=False)
    assert isinstance(outcome, EngineFailed)


def test_an_endless_answer_is_cut_off() -> None:
    """An answer in one piece has a bound; beyond it the engine is told to stop."""

    def play(wire: MemoryWire) -> None:
        wire.head(200, b"application/json")
        for _ in range(10):
            wire.data(b"x" * 10_000)
        assert wire.closed

    fault = failed(play, stream=False)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "garbage"


def test_a_stream_that_is_none_is_refused_at_its_head() -> None:
    """200 with another content type: given up before a byte of it."""

    def play(wire: MemoryWire) -> None:
        wire.head(200, b"text/html")
        assert wire.closed
        wire.data(b"<html>")

    fault = failed(play)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "garbage"


@pytest.mark.parametrize(
    "play",
    [
        streamed(b'data: {"error":{"message":"dead"}}\n\n', error="closed"),
        streamed(SAID + b'data: {"error":{"message":"dead"}}\n\n'),
        streamed(),
        streamed(b"data: {"),
        streamed(LAST, error=CLOSED),
        streamed(b"data: " + b"x" * 5000),
    ],
)
def test_while_nothing_has_been_sent_a_stream_that_breaks_is_raised(play: Callable[[MemoryWire], None]) -> None:
    """An error as the first event, an empty stream, one that dies in its first event: another replica may try."""
    with pytest.raises(EngineFailed):
        relayed(play)


def test_a_replica_that_cannot_be_connected_to_is_raised() -> None:
    """The cause is `connect`."""

    async def run() -> None:
        bench = Bench()
        bench.engine.refusing = True
        with pytest.raises(EngineFailed) as refused:
            await bench.send()
        assert refused.value.cause == "connect"

    asyncio.run(run())


def test_an_error_is_no_first_byte() -> None:
    """A replica that is quick to say 500 is not quick."""

    async def run() -> int:
        bench = Bench()
        with pytest.raises(EngineFailed):
            await bench.while_(whole(500, b"{}"))
        return bench.firsts

    assert asyncio.run(run()) == 0


# Failures behind it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "code"),
    [
        (streamed(SAID, SAID, error=CLOSED), "engine_error"),
        (streamed(SAID, SAID), "engine_error"),
        (streamed(SAID, SAID, DONE), "engine_error"),
        (streamed(SAID, SAID, b'data: {"error":{}}\n\n'), "engine_error"),
        (streamed(SAID, SAID, b'data: {"error": {"code": true}}\n\n'), "engine_error"),
        (streamed(SAID, SAID, b'data: {"error": {"message": "grammar", "code": 400}}\n\n'), "invalid_request"),
        (streamed(SAID, SAID, b"data: " + b"x" * 5000), "engine_error"),
    ],
)
def test_what_breaks_after_the_first_byte_is_an_outcome(play: Callable[[MemoryWire], None], code: str) -> None:
    """Truncated, with its tokens estimated, and an error event in place of the end."""
    outcome, bench = relayed(play)
    assert (outcome.ending, outcome.status, outcome.code) == (Ending.TRUNCATED, 200, code)
    assert outcome.usage.estimated
    assert outcome.usage.prompt == 10
    assert outcome.usage.completion >= 2
    assert json.loads(outcome.last.removeprefix(b"data: "))["error"]["code"] == code
    assert bench.client.written == SAID + SAID


def test_a_stream_that_breaks_after_its_usage_keeps_the_count() -> None:
    """Where the engine has counted, its count is used; the held end is not sent."""
    outcome, bench = relayed(streamed(SAID, LAST, COUNTED, error=CLOSED))
    assert outcome.ending is Ending.TRUNCATED
    assert outcome.usage == Usage(7, 2)
    assert LAST not in outcome.last + bench.client.written
