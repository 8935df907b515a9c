"""Server-sent events as an engine streams them (WHATWG HTML, section 9.2; `data:` lines and comments only).

Rules:
- Only whole events are passed on, so that an error event never lands inside half of another.
- An event is parsed only if it may carry something that is acted on: a finish reason, usage, an error, the end.
  Inside JSON strings quotes are escaped, so the marks looked for cannot come from the model's words.
- From the last finish reason on, everything is held: it leaves when the outcome is durable.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestry.types import Usage

END = b"\n\n"
DATA = b"data: "
COMMENT = b":"
DONE = b"[DONE]"
MARK_FINISH = b'"finish_reason":"'
MARK_USAGE = b'"usage":{'
MARK_ERROR = b'data: {"error"'
MARK_DONE = b"data: [DONE]"


Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""What an engine may say that it counted: no less than nothing, and so little that a record, whose integers end at
2**53 - 1, can hold a prompt counted once for each of its answers, and the sums of many calls."""


MAX_REASON = 256
"""Characters: a word or two. Records name it, and what they name is remembered for a while."""


class _Details(Struct):
    cached_tokens: Tokens | None = None


class EngineUsage(Struct):
    """OpenAI's usage object, as far as it is counted here."""

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens | None = None
    prompt_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        details = self.prompt_tokens_details
        return Usage(
            prompt=self.prompt_tokens,
            completion=self.completion_tokens or 0,
            cached=(details.cached_tokens or 0) if details else 0,
        )


class _Choice(Struct):
    index: int = 0
    finish_reason: Annotated[str, Meta(max_length=MAX_REASON)] | None = None


class Answer(Struct):
    """What is read of an answer in one piece, or of one event."""

    choices: list[_Choice] = []
    usage: EngineUsage | None = None
    error: object = None


decode_answer = msgspec.json.Decoder(Answer).decode


_NAMED = re.compile(rb'(?:data: )?\{"id":"(?:chat)?cmpl-(req_[0-9a-f]{32})"')


def is_anothers(said: bytes | bytearray, request_id: str) -> bool:
    """Whether what an answer begins with is the beginning of the one to another call of ours. vLLM names its answers
    after `x-request-id`; of one that has another name nothing can be said.
    """
    named = _NAMED.match(said)
    return named is not None and named[1] != request_id.encode()


class BrokenStream(Exception):  # noqa: N818 - says what the stream is
    """The engine's stream makes no sense, or is an error."""


class ReportedError(BrokenStream):
    """The engine's stream is an error. `status` is what it would have answered with, had it not begun a stream by then;
    `event` is what it says, for nobody outside."""

    def __init__(self, event: bytes, error: object) -> None:
        super().__init__("the engine reported an error")
        self.event = event
        code = error.get("code") if isinstance(error, dict) else None
        self.status = code if isinstance(code, int) and 400 <= code < 600 else 500


class EventStream:
    """Follows one stream. `feed` returns the bytes that may leave at once; `held` is what must wait."""

    __slots__ = (
        "_choices", "_held", "_limit", "_rest", "_wants_usage", "done", "events", "finish_reasons", "usage",
    )  # fmt: skip

    def __init__(self, *, choices: int, wants_usage: bool, limit: int) -> None:
        self._choices = choices
        self._wants_usage = wants_usage
        self._limit = limit
        self._rest = bytearray()  # as what is held: it grows in place, and pieces would cost forty bytes each
        self._held = bytearray()
        self.done = False
        self.events = 0
        self.finish_reasons: dict[int, str] = {}
        self.usage: Usage | None = None

    @property
    def held(self) -> bytes:
        """What must wait."""
        return bytes(self._held)

    @property
    def whole(self) -> bool:
        """True if the stream ended as it should: every choice finished, usage counted, `[DONE]` seen."""
        return self.done and len(self.finish_reasons) >= self._choices and self.usage is not None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream. Raises BrokenStream."""
        if self._rest or not data.endswith(END):
            data = self._gathered(data)
            if not data:
                return data
        self.events += data.count(END)
        if (
            MARK_FINISH in data or MARK_USAGE in data or MARK_DONE in data or MARK_ERROR in data
            or self._held or not data.startswith(DATA)
        ):  # fmt: skip
            return b"".join([self._event(event) for event in data[:-2].split(END)])
        return data

    def _gathered(self, data: bytes) -> bytes:
        """The whole events that there are with these bytes. The rest waits: however small its pieces come, it is looked
        at once an event may have ended. Raises BrokenStream for a rest that is too long.
        """
        rest = self._rest
        ended = END in data or (data.startswith(b"\n") and rest.endswith(b"\n"))
        rest += data
        whole = b""
        if ended:
            cut = rest.rfind(END) + 2
            whole = bytes(rest[:cut])
            del rest[:cut]
        if len(rest) > self._limit:
            raise BrokenStream("an event is too long")
        return whole

    def _event(self, event: bytes) -> bytes:
        """Read one event; what of it may leave at once."""
        if event.startswith(COMMENT):
            return self._hold(event) if self._held else event + END
        if not event.startswith(DATA):
            raise BrokenStream("not an event stream")
        payload = event[len(DATA) :]
        if payload == DONE:
            self.done = True
            return self._hold(event)
        try:
            answer = decode_answer(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BrokenStream("an event is not JSON") from None
        if answer.error is not None:
            raise ReportedError(payload, answer.error)
        if answer.usage is not None:
            self.usage = answer.usage.usage()
            if not answer.choices:
                return self._hold(event) if self._wants_usage else b""
        for choice in answer.choices:
            if choice.finish_reason is not None:
                self.finish_reasons[choice.index] = choice.finish_reason
        return self._hold(event) if self._held or len(self.finish_reasons) >= self._choices else event + END

    def _hold(self, event: bytes) -> bytes:
        self._held += event
        self._held += END
        if len(self._held) > self._limit:
            raise BrokenStream("the end of the stream is too long")
        return b""
