"""The page about the fields of a request's body: what each may hold, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import inspect as shapes

from vestry.audit.fields import LIMITS
from vestry.edge import bodies, patterns
from vestry.edge.fields import MAX_NESTED, ChatBody, CompletionBody, Sampled
from vestry.errors import UnsupportedField
from vestry.settings.tree import Bounds

HEAD = """\
# Fields of a request

<!-- Made by deploy/docs.py from server/vestry/edge/. Change it there. -->

What a client may write into the body of `POST /v1/chat/completions` and `POST /v1/completions`, and what becomes of it.
[Use the API](../use-the-api.md) has examples.

- A field that is not on this page is refused: 400 `unsupported_parameter`, and `param` names it with its place. A
  value outside the range given here is 400 `invalid_request`. Bounds in *italics* are the operator's to set
  (`bounds.*` in the [settings](settings.md)).
- A field with the value `null` counts as left out.
- Types are strict: `"5"` and `true` are no numbers, `5.0` is no whole number, and `NaN` is not JSON. A key that stands
  twice has its last value. Text may not hold the character U+0000.
- What the engine gets is written anew from what was understood, never the client's own bytes.
"""

PASSED = """\
## Passed on to the engine

Names and meanings are OpenAI's; those from `top_k` to `structured_outputs` are vLLM's.
"""

OURS = """\
## Acted on here

`stream_options`, which goes with `stream: true` only. The engine is always asked to count tokens; the event with
`usage` reaches the client if it set `include_usage`. `include_obfuscation` is accepted, and changes nothing.
"""

DROPPED = """\
## Accepted, and not passed on

They mean something at OpenAI and nothing here, so that leaving them out changes no answer. `user` goes into the
[record](../audit.md) as `end_user`, cut after {end_user} characters; the others are not kept.
"""

REFUSED = """\
## Refused, because ignoring them would mislead

400 `unsupported_parameter`, with this message. Accepted are a `best_of` that equals `n`, and an empty `suffix`;
neither is passed on.
"""

OBJECTS = """\
## Objects

Each is closed, like the body itself. A field with ✱ must be there.
"""

SCHEMAS = """\
## Schemas, expressions and grammars

Engines compile these, so their cost is bounded before an engine sees them: in `response_format`, `structured_outputs`
and the `parameters` of tools.

- A JSON schema or a grammar has at most *`bounds.schema_bytes`* bytes, {bytes} unless set; all schemas of a request
  together have at most {times} times as many. A schema is at most {MAX_DEPTH} levels deep.
- References ({references}) point into the schema itself (`#...`). Nothing is fetched.
- Counts are at most {MAX_COUNT}; those of lists in lists, multiplied, at most {MAX_ITEMS}. Counts are
  {counts}.
- A regular expression (`pattern`, `patternProperties`, `regex`) has at most {MAX_PATTERN} characters, all those in
  schemas together {MAX_PATTERNS}. It does not look around or refer back. In an unbounded repeat it has no other
  one, nor one between two counts, but, in a schema, for `*` and `+` beside a character that is always there:
  `([a-z]+-)*` passes there, `(a+)+` does not. Its counted repeats go to {MAX_REPEAT}; with all of them written out it
  has at most {MAX_STATES} positions.
- With *`bounds.expressions`* set to `false`, `structured_outputs` takes no `regex` and no `grammar`.
- The `arguments` of a tool call that is sent back are JSON of at most {nested} levels, or the beginning of some.

What passes here may still be more than the engine can enforce (`uniqueItems`, for instance). That is 400
`invalid_request` as well: *The engine cannot enforce this schema or grammar.*

Some of a schema vLLM 0.32 passes over without a word: `not`, `if`, `dependentRequired`, an `allOf` of several, what
stands beside `$ref` or `anyOf`, that one alone of `oneOf` may hold, and bounds such as `maximum` where there is no
`type`. A program that relies on one of these has to check the answer.
"""

NOTES: Mapping[str, str] = {
    "n": "*at most `bounds.choices`, {bounds.choices} unless set*; above 1 with a `temperature` above 0",
    "max_tokens": "not more than the model's context; with `max_completion_tokens`, the same value",
    "max_tokens in completions": "not more than the model's context; 0 with `echo`",
    "max_completion_tokens": "not more than the model's context",
    "logit_bias": "keys are token ids of the model's vocabulary",
    "stop_token_ids": "token ids of the model's vocabulary",
    "seed": "`-1` is none",
    "top_logprobs": "with `logprobs: true`",
    "tools": "not empty, no name twice",
    "tool_choice": 'other than `"none"`, it needs `tools`, and a name among them',
    "prompt": "text, token ids, or a list of either; *at most `bounds.prompts` of them, {bounds.prompts} unless set*",
    "continue_final_message": "with `add_generation_prompt: false`",
    "chat_template_kwargs": "an empty object: no argument of a template is open to clients",
    "structured_outputs": "not together with `response_format`, nor with a `tool_choice` that names a tool",
}

ONLY: Mapping[str, str] = {
    "store": "`false`",
    "modalities": '`["text"]`',
    "reasoning_effort": '`"none"`',
    "verbosity": '`"medium"`',
}

REFUSALS: tuple[tuple[type[Sampled], str, Any], ...] = (
    (ChatBody, "store", True),
    (ChatBody, "web_search_options", {}),
    (ChatBody, "moderation", {"model": "omni-moderation-latest"}),
    (ChatBody, "audio", {"voice": "alloy", "format": "wav"}),
    (ChatBody, "modalities", ["text", "audio"]),
    (ChatBody, "functions", []),
    (ChatBody, "function_call", "auto"),
    (ChatBody, "reasoning_effort", "high"),
    (ChatBody, "verbosity", "low"),
    (ChatBody, "chat_template_kwargs", {"enable_thinking": False}),
    (CompletionBody, "suffix", " the end"),
    (CompletionBody, "best_of", 2),
)

LEAST: Mapping[type[Sampled], dict[str, Any]] = {
    ChatBody: {"model": "m", "messages": [{"role": "user", "content": "a"}]},
    CompletionBody: {"model": "m", "prompt": "a"},
}
PARSERS = {ChatBody: bodies.parse_chat, CompletionBody: bodies.parse_completion}
OURS_ALONE = {"stream_options"}
EQUAL_OR_NOTHING = {"best_of", "suffix"}


def page() -> str:
    """`docs/reference/fields.md`."""
    own = {kind: _fields(kind) for kind in LEAST}
    names = list(dict.fromkeys(name for fields in own.values() for name in fields))
    dropped = [name for name in names if name in {*bodies.DROPPED, *bodies.DROPPED_CHAT}]
    aside = {*dropped, *bodies.MISLEADING, *OURS_ALONE, *EQUAL_OR_NOTHING}
    passed = [name for name in names if name not in aside]
    passed_on, kept_back = _table(passed, own), _table(dropped, own)
    about = DROPPED.format(end_user=LIMITS["end_user"])
    parts = [HEAD, PASSED, passed_on, OURS, about, kept_back, REFUSED, _refused()]
    return "\n".join([*parts, OBJECTS, _objects(own), _schemas()])


def _fields(kind: type[msgspec.Struct]) -> dict[str, shapes.Field]:
    shape = shapes.type_info(kind)
    assert isinstance(shape, shapes.StructType)  # noqa: S101 - it is given structs only
    return {field.encode_name: field for field in shape.fields}


def _table(names: list[str], own: Mapping[type[Sampled], dict[str, shapes.Field]]) -> str:
    rows = ["| field | in | value |", "|---|---|---|"]
    for name in names:
        chat, completion = own[ChatBody].get(name), own[CompletionBody].get(name)
        if chat is not None and completion is not None and chat.type != completion.type:
            rows += [_row(name, "chat", chat), _row(name, "completions", completion)]
        elif chat is not None:
            rows.append(_row(name, "both" if completion is not None else "chat", chat))
        elif completion is not None:
            rows.append(_row(name, "completions", completion))
    return "\n".join([*rows, ""])


def _row(name: str, where: str, field: shapes.Field) -> str:
    note = (NOTES.get(f"{name} in {where}") or NOTES.get(name, "")).format(bounds=Bounds())
    value = ONLY.get(name) or _value(field.type)
    if name in {"prompt", "chat_template_kwargs"}:  # what the type allows is said better in words
        value, note = note, ""
    star = " ✱" if field.required else ""
    return f"| `{name}`{star} | {where} | {value}{f'; {note}' if note else ''} |"


def _refused() -> str:
    """Each is tried, so that the page has the server's own words."""
    rows = ["| field | for instance | answer |", "|---|---|---|"]
    for kind, name, value in REFUSALS:
        try:
            PARSERS[kind](json.dumps({**LEAST[kind], name: value}).encode(), Bounds())
        except UnsupportedField as refusal:
            rows.append(f"| `{name}` | `{json.dumps(value)}` | {refusal.reason} |")
        else:
            raise ValueError(f"{name} is not refused any more")
    return "\n".join([*rows, ""])


def _objects(own: Mapping[type[Sampled], dict[str, shapes.Field]]) -> str:
    """Every object that can stand in a body, in the order in which they are met."""
    found: dict[str, shapes.StructType] = {}
    for fields in own.values():
        for field in fields.values():
            _collect(field.type, found)
    rows = ["| object | fields |", "|---|---|"]
    for name, shape in found.items():
        tag = [f"`{shape.tag_field}` ✱: `{json.dumps(shape.tag)}`"] if shape.tag_field else []
        inner = [
            f"`{field.encode_name}`{' ✱' if field.required else ''}: {_value(field.type)}" for field in shape.fields
        ]
        rows.append(f"| {name} | {'; '.join([*tag, *inner])} |")
    return "\n".join([*rows, ""])


def _collect(shape: shapes.Type, found: dict[str, shapes.StructType]) -> None:
    if isinstance(shape, shapes.StructType):
        if shape.cls.__name__ not in found:
            found[shape.cls.__name__] = shape
            for field in shape.fields:
                _collect(field.type, found)
    elif isinstance(shape, shapes.UnionType):
        for each in shape.types:
            _collect(each, found)
    elif isinstance(shape, shapes.ListType):
        _collect(shape.item_type, found)


def _schemas() -> str:
    return SCHEMAS.format(
        bytes=f"{Bounds().schema_bytes:,}",
        times=bodies.SCHEMAS,
        references=_listed(patterns.REFERENCES),
        counts=_listed(patterns.COUNTS),
        nested=MAX_NESTED,
        **{name: f"{getattr(patterns, name):,}" for name in vars(patterns) if name.startswith("MAX_")},
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


# Types in words -----------------------------------------------------------------------------------------------------


def _value(shape: shapes.Type) -> str:
    """What a value may be, in words. Raises KeyError for a kind of type that no field has had so far."""
    return WORDS[type(shape)](shape)


def _union(shape: shapes.UnionType) -> str:
    return " or ".join(_value(each) for each in shape.types if not isinstance(each, shapes.NoneType)) or NULL


def _text(shape: shapes.StrType) -> str:
    if shape.pattern is not None:
        return f"text like `{shape.pattern}`"
    least = f"{shape.min_length:,} to " if shape.min_length else "up to "
    return "text" if shape.max_length is None else f"text, {least}{shape.max_length:,} characters"


def _list(shape: shapes.ListType) -> str:
    if shape.max_length == 0:
        return "empty list"
    most = "" if shape.max_length is None else f" of {shape.min_length or 0:,} to {shape.max_length:,}"
    return f"list{most}: {_value(shape.item_type)}"


def _mapping(shape: shapes.DictType) -> str:
    if isinstance(shape.value_type, shapes.AnyType):
        return "object"
    most = "" if shape.max_length is None else f" of up to {shape.max_length:,} fields"
    key = shape.key_type
    names = f"; names up to {key.max_length} characters" if isinstance(key, shapes.StrType) and key.max_length else ""
    return f"object{most}: {_value(shape.value_type)}{names}"


def _range(shape: shapes.IntType | shapes.FloatType) -> str:
    if shape.gt is not None:
        return f" above {_number(shape.gt)}, to {_number(shape.le)}"
    if shape.ge is not None and shape.le is not None:
        return f" {_number(shape.ge)} to {_number(shape.le)}"
    return "" if shape.ge is None else f" from {_number(shape.ge)}"


def _number(value: float | None) -> str:
    if value == -(2**63):
        return "-2^63"
    if value == 2**63 - 1:
        return "2^63 - 1"
    return f"{value:,}".replace(".0", "") if value is not None else "any"


NULL = "`null` only"
WORDS: Mapping[type[shapes.Type], Callable[[Any], str]] = {
    shapes.AnyType: lambda _: "anything",
    shapes.CustomType: lambda _: "anything, which is not passed on",
    shapes.BoolType: lambda _: "`true` or `false`",
    shapes.DictType: _mapping,
    shapes.FloatType: lambda shape: f"number{_range(shape)}",
    shapes.IntType: lambda shape: f"whole number{_range(shape)}",
    shapes.ListType: _list,
    shapes.LiteralType: lambda shape: " or ".join(f"`{json.dumps(each)}`" for each in shape.values),
    shapes.NoneType: lambda _: NULL,
    shapes.StrType: _text,
    shapes.StructType: lambda shape: str(shape.cls.__name__),
    shapes.UnionType: _union,
}
