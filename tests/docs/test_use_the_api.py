"""The application developer's page: its programs run as they stand, and its figures are the defaults."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fakes.engine import Behaviour, FakeEngine
from support.house import House
from vestry.settings.tree import Bounds, Door, Relay, Tenant

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "use-the-api.md").read_text(encoding="utf-8")
MODEL = "smollm2-135m-instruct"
PARIS = "The capital of France is Paris."
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OTHERS = "langchain_openai"  # LangChain is not among the tests' packages: its program is only compiled


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, FakeEngine]]:
    """A server with the model that the page asks."""
    with (
        FakeEngine(MODEL) as engine,
        House(tmp_path_factory.mktemp("house"), [engine], models={MODEL: {}}) as house,
    ):
        yield house, engine


@pytest.fixture
def engine(served: tuple[House, FakeEngine], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The engine behind that server; the environment is the one that the page tells to make."""
    house, engine = served
    monkeypatch.setenv("OPENAI_BASE_URL", f"{house.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", house.key)
    engine.asked.clear()
    yield engine
    engine.behaviour = Behaviour()


def program(mark: str) -> str:
    """The one program of the page that has this text in it."""
    [found] = [each for each in PROGRAMS if mark in each]
    return str(found)


def run(mark: str) -> None:
    """Run a program of the page, as it stands."""
    exec(compile(program(mark), "use-the-api.md", "exec"), {"__name__": "program"})


def test_every_program_is_tried() -> None:
    """Each is run by one test below, but for LangChain's, which compiles."""
    tried = ("client.models.list", "stream=True", "AsyncOpenAI", "City", '"choice"', "free_beds", "APIStatusError")
    assert len({program(mark) for mark in tried}) == len(tried)
    assert set(PROGRAMS) == {program(mark) for mark in (*tried, OTHERS)}
    compile(program(OTHERS), "use-the-api.md", "exec")


def test_the_first_program(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """Models are listed, and a question is answered."""
    run("client.models.list")
    assert capsys.readouterr().out == f"['{MODEL}']\n{PARIS} 31\n"


def test_a_proxy_that_is_set_is_passed_by(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says: a client asks the proxy, unless `NO_PROXY` names the server."""
    assert "name the server's host in `NO_PROXY`" in PAGE
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(max_retries=0).models.list()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run("client.models.list")
    assert len(engine.calls) == 1


def test_the_stream(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """The words come one by one, then the count of tokens."""
    run("stream=True")
    assert capsys.readouterr().out == f"{PARIS}\n7 tokens\n"


def test_many_at_once(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """The asynchronous client gets its answers."""
    run("AsyncOpenAI")
    assert capsys.readouterr().out == f"{[PARIS, PARIS]}\n"
    assert len(engine.calls) == 2


def test_a_schema(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """The class becomes a schema that the engine gets, and the answer becomes an object of the class."""
    engine.behave(words=('{"name": "Paris", ', '"country": "France"}'))
    run("City")
    assert capsys.readouterr().out == "name='Paris' country='France'\n"
    assert engine.calls[0].json["response_format"]["json_schema"]["schema"]["required"] == ["name", "country"]


def test_a_choice(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """vLLM's own structured outputs reach the engine."""
    engine.behave(words=("yes",))
    run('"choice"')
    assert capsys.readouterr().out == "yes\n"
    assert engine.calls[0].json["structured_outputs"] == {"choice": ["yes", "no"]}


def test_tools(engine: FakeEngine) -> None:
    """The model's call is answered by the program, and the result goes back to the model."""
    call = {"id": "call_1", "type": "function", "function": {"name": "free_beds", "arguments": '{"ward": "A3"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer: dict[str, Any] = {
        "id": "a", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
    body = json.dumps(answer).encode()
    engine.behave(
        raw=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    run("free_beds")
    first, second = engine.calls
    assert first.json["tool_choice"] == "required"
    assert second.json["messages"][1:] == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": '{"ward": "A3", "free": 3}', "tool_call_id": "call_1"},
    ]


def test_an_error(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """The error is the one that the comment in the program shows."""
    run("APIStatusError")
    [shown] = re.findall(r"# (400 .*)req_…", program("APIStatusError"))
    assert capsys.readouterr().out.startswith(f"{shown}req_")
    assert engine.calls == []


def test_the_curl_line(served: tuple[House, FakeEngine], engine: FakeEngine) -> None:
    """What curl would send is accepted, and answered as a stream."""
    house, _ = served
    [line] = [each for each in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "curl" in each]
    words = shlex.split(line.replace("\\\n", " "))
    assert words[2] == "$OPENAI_BASE_URL/chat/completions"
    values = {"$OPENAI_API_KEY": house.key}
    headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
    headers = {name: re.sub(r"\$\w+", lambda name: values[name[0]], value) for name, value in headers.items()}
    answer = httpx.post(f"{house.url}/v1/chat/completions", content=words[words.index("-d") + 1], headers=headers)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


def test_the_figures_are_the_defaults() -> None:
    """Times, sizes and counts on the page are those of the settings."""
    relay, door, bounds = Relay(), Door(), Bounds()
    table = dict(re.findall(r"^\| ([^|]+?) \| (\d+ s)(?: each)? \|", PAGE, re.MULTILINE))
    assert table == {
        "the first piece of a streamed answer": f"{relay.first_byte_seconds:g} s",
        "an answer in one piece": f"{relay.answer_seconds:g} s",
        "between two pieces": f"{relay.idle_seconds:g} s",
        "a streamed answer as a whole": f"{relay.stream_seconds:g} s",
        "your headers, or your body, not here whole": f"{door.header_seconds:g} s",
        "a stream that you do not read, with all buffers full": f"{door.reader_seconds:g} s",
        "a connection without a call": f"{door.keep_alive_seconds:g} s",
    }
    assert door.header_seconds == door.body_seconds
    text = " ".join(PAGE.split())
    assert f"the body ({door.body_bytes // 2**20} MiB), `n` ({bounds.choices}), prompts in one request" in text
    assert f"prompts in one request ({bounds.prompts})" in text
    assert f"{bounds.schema_bytes // 1024} KiB, 32 levels" in text
    tenant = Tenant()
    assert f"in progress at once ({tenant.key_concurrency} and {tenant.concurrency})" in text
    assert f"in a minute ({tenant.key_requests_per_minute:,} and {tenant.requests_per_minute:,})" in text
    assert f"timeout be longer than {relay.answer_seconds:g} s" in text
