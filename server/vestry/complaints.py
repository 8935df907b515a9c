"""What an engine says of a call that it does not answer, and what the client is told of that.

The engine's own words may repeat the prompt, so they are never passed on.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vestry.errors import BUSY, ContextLengthExceeded, EngineBusy, EngineFailed, InvalidRequest, Refusal
from vestry.types import Call

GAVE_UP = b'"Internal server error"'
"""What vLLM 0.32 says of a call that its core gave up: of a model of texts, one whose grammar it could not compile or
follow. It looks at a schema before it begins, but not at all of it. Starlette's own 500 is spelt otherwise."""

FULL = (b"currently busy and cannot accept new requests", b"reached its prefill token backlog limit")
"""What vLLM 0.32 says where a call is one more than it is to keep waiting: with 503, before it begins on it."""

ENFORCED = ("response_format", "structured_outputs", "tools")


def _enforced(call: Call) -> list[str]:
    """The fields with what the engine is to enforce: schemas, expressions, grammars."""
    asked = msgspec.json.decode(call.body)
    return [name for name in ENFORCED if asked.get(name) not in (None, {"type": "text"})]


def _unenforceable(call: Call) -> Refusal:
    fields = _enforced(call)
    return InvalidRequest(
        "The engine cannot enforce this schema or grammar.", param=fields[0] if len(fields) == 1 else None
    )


COMPLAINTS: tuple[tuple[tuple[str, ...], Callable[[Call, bool], Refusal]], ...] = (
    (
        (
            "maximum context length",
            "maximum model length",
            "max_model_len",
            "longer than the maximum",
            "context length",
            "max_tokens must be at least 1",  # what is left beside a prompt that fills the context
        ),
        lambda _, chat: ContextLengthExceeded(param="messages" if chat else "prompt"),
    ),
    (
        ("prompt cannot be empty", "must be provided and non-empty"),
        lambda *_: InvalidRequest("A prompt may not be empty.", param="prompt"),
    ),
    (
        ("min_tokens",),
        lambda *_: InvalidRequest("`min_tokens` is more than the completion may have.", param="min_tokens"),
    ),
    (
        ("bad_words", "bad words"),
        lambda *_: InvalidRequest("`bad_words` has too many entries, or one without a token.", param="bad_words"),
    ),
    (
        ("greater than max allowed",),
        lambda _, chat: InvalidRequest(
            "The engine does not give so many log probabilities.", param="top_logprobs" if chat else "logprobs"
        ),
    ),
    (("chat template", "jinja"), lambda *_: InvalidRequest("The model's chat template refused these messages.")),
    (
        ("grammar", "json schema", "json_schema", "structured", "regex", "xgrammar", "guidance"),
        lambda call, _: _unenforceable(call),
    ),
    (("tool",), lambda *_: InvalidRequest("This model cannot use tools in this way.", param="tools")),
    (
        ("token id", "token_id", "vocab"),
        lambda *_: InvalidRequest("A token id is outside the model's vocabulary."),
    ),
)


def complaint(status: int, said: bytes, call: Call, route: str) -> Refusal:
    """What an answer with this status, other than 200, and these words means for the client."""
    if status == 500 and GAVE_UP in said and _enforced(call):
        return _unenforceable(call)
    if status == 503 and any(mark in said for mark in FULL):
        return EngineBusy(BUSY, retry_after=1.0)
    if status not in (400, 413, 422):
        return EngineFailed("status")
    text = said.decode("utf-8", "replace").lower()
    for marks, build in COMPLAINTS:
        if any(mark in text for mark in marks):
            return build(call, route == "chat.completions")
    return InvalidRequest("The engine refused the request as invalid.")
