"""A body becomes a Call: parsed once, strictly, and re-serialised for the engine.

The engine never sees the client's bytes. Duplicate keys therefore have one meaning everywhere (the last), and
what is bounded here is what the engine gets. No reason says what the client sent: only why, and beside it which field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn, TypeVar

import msgspec

from vestry.edge import patterns
from vestry.edge.fields import (
    ChatBody,
    CompletionBody,
    Format,
    JsonSchemaFormat,
    NamedTool,
    Sampled,
    StreamOptions,
    StructuredOutputs,
    unread,
)
from vestry.errors import InvalidRequest, UnsupportedField
from vestry.settings.tree import Bounds
from vestry.types import Call

DROPPED = (
    "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store", "user",
)  # fmt: skip
DROPPED_CHAT = ("prompt_cache_options", "prediction", "modalities", "reasoning_effort", "verbosity")
SAMPLING = (
    "frequency_penalty", "min_p", "min_tokens", "n", "presence_penalty", "repetition_penalty", "seed", "temperature",
    "top_k", "top_p",
)  # fmt: skip
MISLEADING = {
    "audio": "Audio is not produced here.",
    "moderation": "This server moderates nothing.",
    "web_search_options": "This server does not search the web.",
    "functions": "`functions` is deprecated: use `tools`.",
    "function_call": "`function_call` is deprecated: use `tool_choice`.",
}
ASKS_FOR_USAGE = StreamOptions(include_usage=True)
FIELD = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")
PLACE = re.compile(r"^[A-Za-z0-9_.\[\]-]{1,128}$")
NUL = b"u0000"  # five bytes: CPython searches for six and more in a slower way
SCHEMAS = 4  # all schemas of a body together may have this many times the bytes of one
MISSING = re.compile(r"^Object missing required field `([a-z_]+)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
UNKNOWN = re.compile(r"^Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
PLACED = re.compile(r"^(.*?)(?: - at (?:`key` in )?`\$\.?(.*)`)?$", re.DOTALL)

_chat: msgspec.json.Decoder[ChatBody] = msgspec.json.Decoder(ChatBody, dec_hook=unread)
_completion: msgspec.json.Decoder[CompletionBody] = msgspec.json.Decoder(CompletionBody, dec_hook=unread)

# One call for many fields: most bodies set none of them.
_dropped, _dropped_chat, _sampling = attrgetter(*DROPPED), attrgetter(*DROPPED_CHAT), attrgetter(*SAMPLING)
_misleading = attrgetter(*MISLEADING)
_NO_DROPPED, _NO_DROPPED_CHAT = (None,) * len(DROPPED), (None,) * len(DROPPED_CHAT)
_NOT_MISLEADING = (None,) * len(MISLEADING)
_encode = msgspec.json.Encoder().encode

Parser = Callable[[bytes, Bounds], Call]
Body = TypeVar("Body", bound=Sampled)


def parse_chat(raw: bytes, bounds: Bounds) -> Call:
    """Parse the body of `POST /v1/chat/completions`. Raises InvalidRequest."""
    body = _decode(_chat, raw)
    _check_sampled(body, bounds)
    _check_chat(body)
    if _dropped_chat(body) != _NO_DROPPED_CHAT:
        for name in DROPPED_CHAT:
            setattr(body, name, None)
    if body.max_completion_tokens is None:
        return _call(body, raw, prompts=1, asked=body.max_tokens, highest=-1)
    return _call(body, raw, prompts=1, asked=body.max_completion_tokens, asked_in="max_completion_tokens", highest=-1)


def parse_completion(raw: bytes, bounds: Bounds) -> Call:
    """Parse the body of `POST /v1/completions`. Raises InvalidRequest."""
    body = _decode(_completion, raw)
    _check_sampled(body, bounds)
    prompts, highest = _check_prompt(body.prompt, bounds)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("`max_tokens` of 0 needs `echo`: there would be no answer.", param="max_tokens")
    if body.suffix:
        raise UnsupportedField("Insertion (`suffix`) is not supported here.", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedField("`best_of` other than `n` is not supported here.", param="best_of")
    body.best_of = body.suffix = None
    return _call(body, raw, prompts=prompts, asked=body.max_tokens, highest=highest)


def _decode(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    try:
        body = decoder.decode(raw)
    except msgspec.ValidationError as fault:
        _refuse(str(fault))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("The body is not valid JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    if b"\\" in raw and NUL in raw and _escapes_nul(raw):
        raise InvalidRequest("Text may not hold NUL characters.")
    return body


def _escapes_nul(raw: bytes) -> bool:
    """Whether text holds a NUL character; a backslash that is escaped itself escapes nothing."""
    return b"\\" + NUL in raw.replace(rb"\\", b"")


def _refuse(fault: str) -> NoReturn:
    """Say what msgspec found wrong, without the client's own words."""
    if unknown := UNKNOWN.match(fault):
        name, path = unknown[1], _place(unknown[2])
        place = f"{path}.{name}" if path else name
        raise UnsupportedField(
            "The request has a field that this server does not know.", param=place if FIELD.match(name) else path
        )
    if missing := MISSING.match(fault):
        name, path = missing[1], _place(missing[2])
        raise InvalidRequest(f"The field `{name}` is missing.", param=f"{path}.{name}" if path else name)
    placed = PLACED.match(fault)
    what, path = (placed[1], placed[2]) if placed else (fault, None)
    if what.startswith("Invalid "):
        what = "The value is not one of those allowed"
    raise InvalidRequest(f"{what}.", param=_place(path))


def _place(path: str | None) -> str | None:
    """A path as msgspec writes it; None for anything else, which a field's name may have led to."""
    return path if path and PLACE.match(path) else None


def _check_sampled(body: Sampled, bounds: Bounds) -> None:
    if body.n is not None and body.n > bounds.choices:
        raise InvalidRequest(f"`n` may be at most {bounds.choices}.", param="n")
    if body.temperature == 0 and body.n is not None and body.n > 1:  # no engine takes it: they would all be the same
        raise InvalidRequest("`n` above 1 needs a `temperature` above 0.", param="n")
    if body.store:
        raise UnsupportedField("Answers are not stored for later retrieval here; leave `store` out.", param="store")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("`stream_options` goes with `stream: true` only.", param="stream_options")
    if body.response_format is not None and body.structured_outputs is not None:
        raise InvalidRequest("Use `response_format` or `structured_outputs`, not both.", param="structured_outputs")
    check: patterns.SchemaCheck | None = None
    if body.response_format is not None or body.structured_outputs is not None:
        check = patterns.SchemaCheck(bounds.schema_bytes, SCHEMAS * bounds.schema_bytes)
        _check_format(body.response_format, check)
        _check_structured(body.structured_outputs, check, bounds)
    if isinstance(body, ChatBody) and (body.tools is not None or body.tool_choice is not None):
        _check_tools(body, check or patterns.SchemaCheck(bounds.schema_bytes, SCHEMAS * bounds.schema_bytes))


def _check_format(form: Format | None, check: patterns.SchemaCheck) -> None:
    if isinstance(form, JsonSchemaFormat):
        check(form.json_schema.schema_, "response_format.json_schema.schema")


def _check_structured(wish: StructuredOutputs | None, check: patterns.SchemaCheck, bounds: Bounds) -> None:
    if wish is None:
        return
    wish.json_object = wish.json_object or None  # vLLM counts `false` as one of the kinds
    kinds = (wish.json, wish.regex, wish.choice, wish.grammar, wish.json_object)
    if sum(each is not None for each in kinds) != 1:
        raise InvalidRequest(
            "Set exactly one of `json`, `regex`, `choice`, `grammar`, `json_object`.", param="structured_outputs"
        )
    if not bounds.expressions and (wish.regex is not None or wish.grammar is not None):
        name = "regex" if wish.regex is not None else "grammar"
        raise UnsupportedField(
            "No expressions and grammars are taken here: use a JSON schema.", param=f"structured_outputs.{name}"
        )
    if wish.json is not None:
        check(wish.json, "structured_outputs.json")
    if wish.regex is not None:
        patterns.check_pattern(wish.regex, "structured_outputs.regex", alone=True)
    if wish.grammar is not None and len(wish.grammar.encode()) > bounds.schema_bytes:
        raise InvalidRequest("The grammar is too large.", param="structured_outputs.grammar")


def _check_chat(body: ChatBody) -> None:
    if _misleading(body) != _NOT_MISLEADING:
        name = next(name for name in MISLEADING if getattr(body, name) is not None)
        raise UnsupportedField(MISLEADING[name], param=name)
    if body.modalities not in (None, ["text"]):
        raise UnsupportedField("Models here produce text only.", param="modalities")
    if body.reasoning_effort not in (None, "none"):
        raise UnsupportedField("Models here have no reasoning effort to set.", param="reasoning_effort")
    if body.verbosity not in (None, "medium"):
        raise UnsupportedField("Models here have no verbosity to set.", param="verbosity")
    if body.chat_template_kwargs:
        raise UnsupportedField("No chat template argument is open to clients here.", param="chat_template_kwargs")
    if body.continue_final_message and body.add_generation_prompt is not False:
        raise InvalidRequest(
            "`continue_final_message` needs `add_generation_prompt: false`.", param="continue_final_message"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise InvalidRequest("`max_tokens` and `max_completion_tokens` differ: set one.", param="max_tokens")


def _check_tools(body: ChatBody, check: patterns.SchemaCheck) -> None:
    if body.tools == []:
        raise InvalidRequest("`tools` may not be empty: leave it out.", param="tools")
    names = {tool.function.name for tool in body.tools or ()}
    if len(names) != len(body.tools or ()):
        raise InvalidRequest("Two tools have the same name.", param="tools")
    for place, tool in enumerate(body.tools or ()):
        if tool.function.parameters is not None:
            check(tool.function.parameters, f"tools[{place}].function.parameters")
    if not names and body.tool_choice not in (None, "none"):
        raise InvalidRequest("`tool_choice` needs `tools`.", param="tool_choice")
    if isinstance(body.tool_choice, NamedTool):
        if body.tool_choice.function.name not in names:
            raise InvalidRequest("`tool_choice` names a tool that is not among `tools`.", param="tool_choice")
        if body.structured_outputs is not None:  # vLLM refuses it too, in words that are taken for a schema's fault
            raise InvalidRequest(
                "`structured_outputs` does not go with a `tool_choice` that names a tool.", param="structured_outputs"
            )


def _check_prompt(prompt: str | list[Any], bounds: Bounds) -> tuple[int, int]:
    """How many prompts there are, and the greatest token id in them."""
    if isinstance(prompt, str):
        return 1, -1
    kinds = {type(each) for each in prompt}
    if len(kinds) != 1:
        raise InvalidRequest("A prompt is text, tokens, or a list of one of these.", param="prompt")
    if kinds == {int}:
        if min(prompt) < 0:
            raise InvalidRequest("A token id may not be negative.", param="prompt")
        return 1, max(prompt)
    if len(prompt) > bounds.prompts:
        raise InvalidRequest(f"At most {bounds.prompts} prompts go in one request.", param="prompt")
    if kinds == {list}:
        if not all(prompt):
            raise InvalidRequest("A prompt may not be empty.", param="prompt")
        return len(prompt), int(max(max(each) for each in prompt))
    return len(prompt), -1


def _check_tokens(body: Sampled, highest: int) -> tuple[int, str]:
    """The greatest token id that the client named anywhere, and the field that has it."""
    found = highest, "prompt"
    if body.stop_token_ids:
        found = max(found, (max(body.stop_token_ids), "stop_token_ids"))
    for key in body.logit_bias or ():
        if not (key.isascii() and key.isdigit() and len(key) <= 8):
            raise InvalidRequest("Keys of `logit_bias` are token ids.", param="logit_bias")
        found = max(found, (int(key), "logit_bias"))
    return found


def _call(
    body: Sampled, raw: bytes, *, prompts: int, asked: int | None, asked_in: str = "max_tokens", highest: int
) -> Call:
    end_user = body.user or ""
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    sampling: dict[str, Any] = {}
    for name, value in zip(SAMPLING, _sampling(body), strict=True):
        if value is not None:
            sampling[name] = value if isinstance(value, int) else repr(value)
    if asked is not None:
        sampling["max_tokens"] = asked
    if _dropped(body) != _NO_DROPPED:
        for name in DROPPED:
            setattr(body, name, None)
    token, field = _check_tokens(body, highest)
    body.stream_options = ASKS_FOR_USAGE if body.stream else None
    return Call(
        model=body.model,
        stream=bool(body.stream),
        include_usage=include_usage,
        choices=(body.n or 1) * prompts,
        body=_encode(body),
        prompt_bytes=len(raw),
        sampling=sampling,
        completion_tokens=asked,
        asked_in=asked_in,
        highest_token=token,
        highest_in=field,
        end_user=end_user,
        tools=isinstance(body, ChatBody) and body.tools is not None,
    )
