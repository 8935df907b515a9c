"""The bytes that are kept of a prompt and of an answer, and the texts in them.

Of a prompt it is the body that the engine is sent. Of an answer it is canonical JSON of what the client was sent,
the same for a stream and for an answer in one piece:

    {"choices": [{"finish_reason": "stop", "index": 0, "text": "…"}]}

with `reasoning`, `refusal` and `tool_calls` where there are any. Whatever of a stream could not be read stands in
`unread`, as it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

END = b"\n\n"
_DATA = b"data: "
_IDLE = frozenset({b"[DONE]", b""})
TEXTS = 32
"""Texts that one record has keyed hashes of, at most: the last ones."""
_COMPACT_BYTES = 16_384
_PLACES = 8192
"""Choices and tool calls of one answer that are kept at most, however little is in them."""


class Function(Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, omit_defaults=True):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Words(Struct):
    """A message, or a stream's part of one."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(Struct):
    index: int = 0
    text: str | None = None
    delta: Words | None = None
    message: Words | None = None
    finish_reason: str | None = None


class Answer(Struct):
    choices: list[Choice] = []


class KeptCall(Struct, omit_defaults=True):
    id: str = ""
    name: str = ""
    arguments: str = ""


class KeptChoice(Struct, omit_defaults=True):
    """One choice of the answer as it is kept."""

    index: int
    text: str
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[KeptCall] = []
    finish_reason: str = ""


class KeptAnswer(Struct, omit_defaults=True):
    choices: list[KeptChoice]
    unread: list[str] = []


class Kept(Struct, frozen=True):
    """What is to be kept: the bytes, the texts in them, and how many bytes of the text a bound left out."""

    content: bytes
    texts: tuple[str, ...] = ()
    left_out: int = 0


class _Part(Struct):
    type: str = ""
    text: str = ""


class _Message(Struct):
    content: str | list[_Part] | None = None


class _Prompt(Struct):
    messages: list[_Message] = []
    prompt: object = None


T = TypeVar("T")

_answer = msgspec.json.Decoder(Answer).decode
_prompt = msgspec.json.Decoder(_Prompt).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def prompt(body: bytes, limit: int, *, texts: bool = True) -> Kept:
    """A prompt: the body as the engine gets it, at most `limit` bytes; if asked for, the texts in it."""
    kept = body if len(body) <= limit else _whole(body[:limit])
    return Kept(kept, _texts_of(body) if texts else (), len(body) - len(kept))


def _texts_of(body: bytes) -> tuple[str, ...]:
    asked = _prompt(body)
    found = [_text_of(message.content) for message in asked.messages]
    prompts = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
    found += [each for each in prompts if isinstance(each, str)]
    return tuple(text for text in found[-TEXTS:] if text)


def _text_of(content: str | list[_Part] | None) -> str:
    return "".join(part.text for part in content) if isinstance(content, list) else content or ""


def _whole(cut: bytes) -> bytes:
    """UTF-8 that was cut anywhere, without half a character at its end."""
    return cut.decode("utf-8", "ignore").encode()


class _Growing(Struct):
    """A choice while its answer grows: pieces by what they belong to."""

    text: list[str] = []
    reasoning: list[str] = []
    refusal: list[str] = []
    calls: dict[int, _GrowingCall] = {}
    finish_reason: str = ""


class _GrowingCall(Struct):
    id: str = ""
    name: list[str] = []
    arguments: list[str] = []


class Transcript:
    """Gathers an answer. A stream's bytes are put aside as they come, and read 16 KiB at a time, or at the end."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._left_out = 0
        self._places = _PLACES
        self._waiting: list[bytes] = []
        self._size = 0
        self._choices: dict[int, _Growing] = {}
        self._unread: list[str] = []

    def hear(self, events: bytes) -> None:
        """Whole events that the client is sent."""
        self._waiting.append(events)
        self._size += len(events)
        if self._size >= _COMPACT_BYTES:
            self._read()

    def take(self, body: bytes) -> None:
        """An answer in one piece."""
        self._read_one(body)

    @property
    def empty(self) -> bool:
        """Whether nothing was sent at all."""
        return not (self._waiting or self._choices or self._unread)

    def kept(self) -> Kept:
        """The answer so far, and its texts by choice."""
        self._read()
        choices = [_finished(index, grown) for index, grown in sorted(self._choices.items())]
        content = _encode(KeptAnswer(choices, self._unread))
        return Kept(content, tuple(each.text for each in choices if each.text)[-TEXTS:], self._left_out)

    def _read(self) -> None:
        waiting, self._waiting, self._size = b"".join(self._waiting), [], 0
        for event in waiting.split(END):
            payload = event.removeprefix(_DATA)
            if payload not in _IDLE and not event.startswith(b":"):
                self._read_one(payload)

    def _read_one(self, payload: bytes) -> None:
        try:
            answer = _answer(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._note(self._unread, payload.decode("utf-8", "replace"))
            return
        for choice in answer.choices:
            self._grow(choice)

    def _grow(self, choice: Choice) -> None:
        grown = self._choices.get(choice.index) or self._in_place(self._choices, choice.index, _Growing())
        if choice.text:
            self._note(grown.text, choice.text)
        if choice.finish_reason:
            grown.finish_reason = choice.finish_reason[:64]
        words = choice.delta or choice.message
        if words is not None:
            self._say(grown, words)

    def _say(self, grown: _Growing, words: Words) -> None:
        if words.content:
            self._note(grown.text, words.content)
        if thought := words.reasoning or words.reasoning_content:
            self._note(grown.reasoning, thought)
        if words.refusal:
            self._note(grown.refusal, words.refusal)
        if words.tool_calls:
            for place, call in enumerate(words.tool_calls):
                self._call(grown, place if call.index is None else call.index, call)

    def _call(self, grown: _Growing, index: int, call: ToolCall) -> None:
        known = grown.calls.get(index) or self._in_place(grown.calls, index, _GrowingCall())
        known.id = (call.id or known.id)[:512]
        if call.function is not None:
            self._note(known.name, call.function.name or "")
            self._note(known.arguments, call.function.arguments or "")

    def _in_place(self, places: dict[int, T], index: int, new: T) -> T:
        """What is new, put where it belongs, if there is a place left; else there is no room for its texts either."""
        if self._places:
            self._places -= 1
            places[index] = new
        else:
            self._room = 0
        return new

    def _note(self, pieces: list[str], text: str) -> None:
        """Keep a text as far as there is room for it."""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > self._room:
            fits = text.encode("utf-8", "replace")[: self._room].decode("utf-8", "ignore")
            self._left_out += size - len(fits.encode())
            self._room, text = 0, fits
        else:
            self._room -= size
        if text:
            pieces.append(text)


def _finished(index: int, grown: _Growing) -> KeptChoice:
    calls: Sequence[_GrowingCall] = [call for _, call in sorted(grown.calls.items())]
    return KeptChoice(
        index,
        "".join(grown.text),
        "".join(grown.reasoning),
        "".join(grown.refusal),
        [KeptCall(call.id, "".join(call.name), "".join(call.arguments)) for call in calls],
        grown.finish_reason,
    )
