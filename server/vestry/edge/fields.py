"""The fields of the two bodies: an allow-list a route, with the bounds of each.

OpenAI's schema is not mirrored: what is acted on or bounded is typed, the rest is refused by name. A field is
one of four kinds, and each body names its own: passed on; accepted and dropped (it has no meaning here);
refused (ignoring it would mislead); ours to set. Field names and ranges follow OpenAI's API reference and
vLLM's sampling parameters.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=4_000_000)]
Short = Annotated[str, Meta(max_length=512)]
ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Token = Annotated[int, Meta(ge=0, le=10_000_000)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Word = Annotated[str, Meta(min_length=1, max_length=512)]
Stops = Annotated[list[Word], Meta(max_length=4)]

MAX_NESTED = 200
TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")
OTHERS = bytes(set(range(256)) - set(b"[{]}"))


class Closed(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Unknown fields are refused; what is not set is not sent."""


def nested(text: str, most: int) -> bool:
    """Whether JSON, or the beginning of some, is nested deeper than this. The work is C's: a step for each bracket."""
    if text.count("[") + text.count("{") <= most:
        return False
    steps = TEXTS.sub(b"", text.encode()).translate(STEPS, OTHERS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > most


class Unread:
    """What OpenAI's libraries write into a message and nothing here reads: any JSON, which is not passed on."""


UNREAD = Unread()


def unread(_kind: type, _value: object) -> Unread:
    """msgspec's hook: whatever stands there becomes the default, which is not sent."""
    return UNREAD


# Messages -----------------------------------------------------------------------------------------------------


class TextPart(Closed, tag_field="type", tag="text"):
    text: Text
    prompt_cache_breakpoint: Unread = UNREAD


class RefusalPart(Closed, tag_field="type", tag="refusal"):
    refusal: Text


Parts = Annotated[list[TextPart], Meta(min_length=1, max_length=1024)]
AssistantParts = Annotated[list[TextPart | RefusalPart], Meta(min_length=1, max_length=1024)]


class FunctionCall(Closed):
    name: ToolName
    arguments: Text | None = None
    parsed_arguments: Unread = UNREAD

    def __post_init__(self) -> None:
        """What OpenAI's libraries gather of a stream that ended before the arguments has none; engines want text.

        Engines take it apart by recursion, whole or cut off, and fail at a thousand levels: small models can open
        brackets without end. Raises ValueError.
        """
        if self.arguments is None:
            self.arguments = ""
        elif nested(self.arguments, MAX_NESTED):
            raise ValueError(f"`arguments` may be nested at most {MAX_NESTED} levels deep")


class ToolCall(Closed):
    id: Short
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class System(Closed, tag_field="role", tag="system"):
    content: Text | Parts
    name: Short | None = None


class Developer(Closed, tag_field="role", tag="developer"):
    content: Text | Parts
    name: Short | None = None


class User(Closed, tag_field="role", tag="user"):
    content: Text | Parts
    name: Short | None = None


class Assistant(Closed, tag_field="role", tag="assistant"):
    content: Text | AssistantParts | None = None
    name: Short | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=128)] | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    parsed: Unread = UNREAD


class Tool(Closed, tag_field="role", tag="tool"):
    content: Text | Parts
    tool_call_id: Short
    name: Short | None = None


Messages = Annotated[list[System | Developer | User | Assistant | Tool], Meta(min_length=1, max_length=4096)]


# Tools and formats --------------------------------------------------------------------------------------------


class Function(Closed):
    name: ToolName
    description: Annotated[str, Meta(max_length=16_384)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        """A function without parameters has none (OpenAI's API reference); to vLLM it has any, which models make up."""
        if self.parameters is None:
            self.parameters = {"type": "object", "properties": {}}


class ToolSpec(Closed):
    type: Literal["function"]
    function: Function


class NamedFunction(Closed):
    name: ToolName


class NamedTool(Closed):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Closed, rename={"schema_": "schema"}):
    name: ToolName
    schema_: dict[str, Any]
    description: Annotated[str, Meta(max_length=16_384)] | None = None
    strict: bool | None = None


class TextFormat(Closed, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Closed, tag_field="type", tag="json_object"):
    pass


class JsonSchemaFormat(Closed, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


Format = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(Closed):
    """vLLM's structured outputs; exactly one of these is set."""

    json: dict[str, Any] | None = None
    regex: str | None = None
    choice: Annotated[list[Short], Meta(min_length=1, max_length=256)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StreamOptions(Closed):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PromptCacheOptions(Closed):
    mode: Literal["implicit", "explicit"] | None = None
    ttl: Short | None = None


class Prediction(Closed):
    type: Literal["content"]
    content: Text | Parts


Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


# Bodies -------------------------------------------------------------------------------------------------------


class Sampled(Closed, kw_only=True):
    """What both bodies have in common."""

    model: Annotated[str, Meta(min_length=1, max_length=128)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Word | Stops | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=300)] | None = None
    user: Short | None = None
    # vLLM's own, passed by name
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Unit | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    stop_token_ids: Annotated[list[Token], Meta(max_length=64)] | None = None
    bad_words: Annotated[list[Word], Meta(max_length=64)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: Format | None = None
    # no meaning here: dropped
    metadata: Metadata | None = None
    service_tier: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_retention: Short | None = None
    store: bool | None = None


class ChatBody(Sampled, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: Count | None = None
    tools: Annotated[list[ToolSpec], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    # no meaning here: dropped
    prompt_cache_options: PromptCacheOptions | None = None
    prediction: Prediction | None = None
    modalities: list[Short] | None = None
    reasoning_effort: Short | None = None
    verbosity: Short | None = None
    # refused, with a reason, when they hold anything
    audio: Any = None
    moderation: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None


class CompletionBody(Sampled, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Text | Annotated[list[str | int | list[Token]], Meta(min_length=1, max_length=1_000_000)]
    max_tokens: Token | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Annotated[int, Meta(ge=1)] | None = None
    suffix: Text | None = None
