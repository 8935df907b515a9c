"""The nouns of the corridor: what a call is, who makes it, where it goes, how it ended.

Rules: everything here is frozen and has no behaviour beyond reading itself; nothing here imports
another room. Times are seconds unless a name says otherwise; `monotonic` times come from
`time.monotonic()`, wall times are integer microseconds since the epoch (UTC).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct


class Operation(StrEnum):
    """What a route does, in OpenTelemetry's GenAI words (`gen_ai.operation.name`)."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    MODELS = "models"
    NONE = "none"


class Ending(StrEnum):
    """How a call ended, as the record says it."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Limits(Struct, frozen=True):
    """What a tenant or a key may use. `None` means that this holder sets no bound of its own."""

    concurrency: int | None = None
    requests_per_minute: int | None = None


class Principal(Struct, frozen=True):
    """Who calls. `models` is None for "every model that the tenant may use"."""

    key_id: str
    tenant: str
    subject: str
    role: str = "user"
    models: frozenset[str] | None = None
    limits: Limits = Limits()


class Replica(Struct, frozen=True):
    """One engine process. `url` is `http(s)://host:port`, without a path."""

    name: str
    url: str


class ServedModel(Struct, frozen=True):
    """A model as clients see it, with what the record needs to say which weights answered."""

    name: str
    created: int
    context_length: int
    vocabulary: int
    replicas: tuple[Replica, ...]
    revision: str = ""
    weights_digest: str = ""
    quantization: str = ""
    chat_template_digest: str = ""
    engine_version: str = ""


class Head(Struct, frozen=True):
    """What is known of a request before its body is read. It began when its last header had arrived."""

    request_id: str
    route: str
    operation: Operation
    method: str
    source: str
    user_agent: str
    client_request_id: str
    traceparent: str
    credential: str | None
    began: float
    began_wall: int


class Call(Struct, frozen=True):
    """A strictly parsed request. `body` is what the engine gets: re-serialised, never the client's bytes.

    `choices` counts answers over all prompts; `completion_tokens` is the most that one may have, where the
    client set it; `highest_token` is the greatest token id that the client named, -1 for none, and `highest_in` the
    field that it stands in.
    """

    model: str
    stream: bool
    include_usage: bool
    choices: int
    body: bytes
    prompt_bytes: int
    sampling: dict[str, Any]
    completion_tokens: int | None = None
    highest_token: int = -1
    highest_in: str = "prompt"
    end_user: str = ""


class Grant(Struct, frozen=True):
    """A yes: this principal may make this call to this model, under this rule."""

    principal: Principal
    model: ServedModel
    rule: str
    tenant_limits: Limits


class Usage(Struct, frozen=True):
    """Tokens. `estimated` is true where the engine had no chance to count (the client left, the engine died)."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    estimated: bool = False


class Outcome(Struct, frozen=True):
    """How the call went.

    `tried` names a replica that had the call before the one that answered, and may have worked on it.

    `first_byte` is the monotonic time at which the engine's first bytes came, `engine_seconds` how long the engine
    was waited for. `last` holds the bytes that leave only when the outcome is durable: the whole body of an answer in
    one piece, the final events of a stream.
    """

    ending: Ending
    status: int
    code: str = ""
    usage: Usage = Usage()
    finish_reasons: tuple[str, ...] = ()
    replica: str = ""
    first_byte: float | None = None
    attempts: int = 0
    tried: str = ""
    engine_seconds: float = 0.0
    last: bytes = b""


class ContentMode(StrEnum):
    """What of a call's prompt and answer is kept beside its records."""

    METADATA = "metadata"
    HASHED = "hashed"
    SEALED = "sealed"
    FULL = "full"
