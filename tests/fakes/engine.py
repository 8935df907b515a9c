"""A fake engine that speaks like vLLM's OpenAI server, and misbehaves on demand.

It runs in a thread of its own, on a real socket. What it does is set by `engine.behaviour`; what it was asked, and
which calls were given up before their end, can be read from it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """How the engine answers. The default is a good, quick answer."""

    words: tuple[str, ...] = ("The", " capital", " of", " France", " is", " Paris", ".")
    prompt_tokens: int = 24
    first_seconds: float = 0.0
    between_seconds: float = 0.0
    status: int = 200
    complaint: str = "it broke"
    raw: bytes | None = None
    hang: bool = False
    refuse: bool = False
    die_after: int | None = None
    hang_after: int | None = None
    end_after: int | None = None
    error_after: int | None = None
    error_status: int = 500
    finish_reason: str | None = "stop"
    usage: bool = True
    long_line: int = 0
    split: int = 0
    content_type: str = "text/event-stream; charset=utf-8"
    health: int = 200
    health_hangs: bool = False
    close_when_done: bool = False
    requests_per_connection: int | None = None
    tool_call: str | None = None
    metrics: bytes | None = None
    metrics_hang: bool = False


@dataclass
class Asked:
    """One request that the engine got."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    finished: bool = False
    events: int = 0
    left_at: float | None = None

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def asked(self) -> dict[str, Any]:
        """What the client asked for: the body, parsed, without the salt that the server adds for its tenant."""
        found = self.json
        assert len(found.pop("cache_salt")) == 43
        return found


@dataclass
class Counters:
    """What vLLM 0.32 counts, as it was seen to count: a prompt for each answer, a request when its answer has ended."""

    model: str
    started: float = field(default_factory=time.time)
    prompt: int = 0
    generation: int = 0
    requests: int = 0
    running: int = 0

    def page(self) -> bytes:
        """As `/metrics` shows it, with a few of the families that nobody looks for here."""
        labels = f'engine="0",model_name="{self.model}"'
        return "\n".join(
            [
                "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.",
                "# TYPE vllm:prompt_tokens_total counter",
                f"vllm:prompt_tokens_total{{{labels}}} {float(self.prompt)}",
                f"vllm:prompt_tokens_created{{{labels}}} {self.started}",
                f"vllm:prompt_tokens_cached_total{{{labels}}} 0.0",
                f"vllm:generation_tokens_total{{{labels}}} {float(self.generation)}",
                f'vllm:request_success_total{{finished_reason="stop",{labels}}} {float(self.requests)}',
                f'vllm:request_success_total{{finished_reason="length",{labels}}} 0.0',
                f"vllm:num_requests_running{{{labels}}} {float(self.running)}",
                f"vllm:num_requests_waiting{{{labels}}} 0.0",
                f"process_start_time_seconds {self.started}",
                "",
            ]
        ).encode()


@dataclass
class FakeEngine:
    """Use as a context manager; `url` is where it listens."""

    model: str = "small"
    behaviour: Behaviour = field(default_factory=Behaviour)
    key: str | None = None
    port: int = 0
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.counters = Counters(self.model)

    def __enter__(self) -> FakeEngine:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(10)

    def behave(self, **changes: Any) -> None:
        """Change the behaviour for the requests that come after."""
        self.behaviour = replace(self.behaviour, **changes)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`, or `https`."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[Asked]:
        """What was asked, health checks and looks at the counters left out."""
        return [asked for asked in self.asked if asked.path not in {"/health", "/metrics"}]

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=2048, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._over.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        if self.behaviour.refuse:
            writer.transport.abort()
            return
        try:
            earlier = 0
            while await self._exchange(reader, writer, number, earlier):
                earlier += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, earlier: int
    ) -> bool:
        """Answer one request; False if the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        how = self.behaviour
        if how.refuse or (how.requests_per_connection is not None and earlier >= how.requests_per_connection):
            return False
        asked = Asked(path, headers, body, number)
        self.asked.append(asked)
        answering = asyncio.create_task(self._answer(asked, writer))
        watching = asyncio.create_task(reader.read(1))
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() or isinstance(answering.exception(), ConnectionError):
            asked.left_at = time.monotonic()
            answering.cancel()
            return False
        watching.cancel()
        await asyncio.wait({watching})
        asked.finished = True
        return answering.result() and not self.behaviour.close_when_done

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        how = self.behaviour
        health = asked.path == "/health"
        if how.health_hangs if health else how.hang and asked.path != "/metrics":
            await asyncio.sleep(3600)
        if health:
            return await _reply(writer, how.health, b"")
        if asked.path == "/metrics":
            if how.metrics_hang:
                await asyncio.sleep(3600)
            return await _reply(writer, 200, self.counters.page() if how.metrics is None else how.metrics)
        if self.key is not None and asked.headers.get("authorization") != f"Bearer {self.key}":
            return await _reply(writer, 401, b'{"error":"Unauthorized"}')
        if how.raw is not None:
            writer.write(how.raw)
            await writer.drain()
            return False
        await asyncio.sleep(how.first_seconds)
        if how.status != 200:
            fault = {"error": {"message": how.complaint, "type": "BadRequestError", "param": None, "code": how.status}}
            return await _reply(writer, how.status, json.dumps(fault).encode())
        wish = asked.json
        self.counters.running += 1
        try:
            return await self._work(asked, wish, writer)
        finally:
            self.counters.running -= 1

    async def _work(self, asked: Asked, wish: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        how = self.behaviour
        self.counters.prompt += how.prompt_tokens * int(wish.get("n") or 1)
        if wish.get("stream"):
            return await self._stream(asked, wish, writer)
        self.counters.generation += len(how.words) * _count(wish)
        self.counters.requests += _count(wish)
        return how.die_after is None and await _reply(writer, 200, _compact(self._whole(asked, wish)))

    def _whole(self, asked: Asked, wish: dict[str, Any]) -> dict[str, Any]:
        text = "".join(self.behaviour.words)
        choices = []
        for index in range(_count(wish)):
            tools = self._tool_calls()
            content: dict[str, Any] = (
                {
                    "message": {
                        "role": "assistant",
                        "content": None if tools else text,
                        "refusal": None,
                        "tool_calls": tools,
                    }
                }
                if "messages" in wish
                else {"text": text}
            )
            logprobs = _logprobs(self.behaviour.words, wish)
            finish = {"logprobs": logprobs, "finish_reason": self._finish_reason, "stop_reason": None}
            choices.append({"index": index, **content, **finish})
        return {
            "id": f"chatcmpl-{asked.headers.get('x-request-id', 'none')}",
            "object": "chat.completion" if "messages" in wish else "text_completion",
            "created": 1_735_689_600,
            "model": wish["model"],
            "choices": choices,
            "usage": self._usage(_count(wish)),
        }

    @property
    def _finish_reason(self) -> str | None:
        return "tool_calls" if self.behaviour.tool_call else self.behaviour.finish_reason

    def _tool_calls(self) -> list[dict[str, Any]]:
        name = self.behaviour.tool_call
        function = {"name": name, "arguments": '{"city":"Paris"}'}
        return [{"id": "chatcmpl-tool-1", "type": "function", "function": function}] if name else []

    def _usage(self, choices: int) -> dict[str, Any]:
        prompt, completion = self.behaviour.prompt_tokens, len(self.behaviour.words) * choices
        return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}

    async def _stream(self, asked: Asked, wish: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        how = self.behaviour
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: {how.content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        await writer.drain()
        for number, event in enumerate(self._events(asked, wish)):
            if number == how.die_after:
                return False
            if number == how.hang_after:
                await asyncio.sleep(3600)
            if number == how.end_after:
                break
            self.counters.generation += event.count(b'"finish_reason":null') and b'"role"' not in event
            self.counters.requests += event.count(b'"stop_reason"')
            said = self._error if number == how.error_after else event
            for piece in _pieces(said, how.split):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            asked.events += 1
            await asyncio.sleep(how.between_seconds)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    @property
    def _error(self) -> bytes:
        """An error as an event, as vLLM writes it."""
        said = {"message": self.behaviour.complaint, "type": "X", "param": None, "code": self.behaviour.error_status}
        return f"data: {json.dumps({'error': said})}\n\n".encode()

    def _events(self, asked: Asked, wish: dict[str, Any]) -> list[bytes]:
        how = self.behaviour
        chat = "messages" in wish
        frame = {
            "id": f"chatcmpl-{asked.headers.get('x-request-id', 'none')}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1_735_689_600,
            "model": wish["model"],
        }
        words = [*how.words[:-1], how.words[-1] + "x" * how.long_line]
        parts: list[dict[str, Any]] = []
        for index in range(_count(wish)):
            if chat:
                parts.append({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
            for call in self._tool_calls():
                parts += [{"index": index, "delta": {"tool_calls": [{"index": 0, **call}]}, "finish_reason": None}]
            parts.extend(
                {"index": index, **_said(word, chat=chat), "logprobs": _logprobs((word,), wish), "finish_reason": None}
                for word in (() if how.tool_call else words)
            )
            if self._finish_reason is not None:
                end = {"finish_reason": self._finish_reason, "stop_reason": None}
                parts.append({"index": index, **_said("", chat=chat), **end})
        events = [_event({**frame, "choices": [part]}) for part in parts]
        if how.usage and (wish.get("stream_options") or {}).get("include_usage"):
            events.append(_event({**frame, "choices": [], "usage": self._usage(_count(wish))}))
        return [*events, b"data: [DONE]\n\n"]


def _count(wish: dict[str, Any]) -> int:
    prompt = wish.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return int(wish.get("n") or 1) * prompts


def _said(word: str, *, chat: bool) -> dict[str, Any]:
    return {"delta": {"content": word}} if chat else {"text": word}


def _logprobs(words: tuple[str, ...], wish: dict[str, Any]) -> dict[str, Any] | None:
    """As OpenAI's chat and completion answers have them, where they were asked for."""
    if not wish.get("logprobs"):
        return None
    if "messages" not in wish:
        return {"tokens": list(words), "token_logprobs": [-0.5] * len(words), "top_logprobs": None, "text_offset": []}
    return {"content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in words]}


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _compact(value) + b"\n\n"


def _pieces(event: bytes, size: int) -> list[bytes]:
    return [event[place : place + size] for place in range(0, len(event), size)] if size else [event]


async def _reply(writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
    writer.write(
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )
    await writer.drain()
    return True
