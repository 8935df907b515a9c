"""The nouns of the corridor: what a call is, who makes it, where it goes, how it ended.

Rules: everything here is frozen and has no behaviour beyond reading itself; nothing here imports
another room but `roles`. Times are seconds unless a name says otherwise; `monotonic` times come from
`time.monotonic()`, wall times are integer microseconds since the epoch (UTC).
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from msgspec import Struct

from vestry.roles import Permission, Role, named, permissions, reaches

Network = IPv4Network | IPv6Network
USER = frozenset({Role.USER})
EJECTIONS = ("closed", "down", "garbage", "slow", "status", "stream", "timeout")
"""Why a replica may be taken out of service."""


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


class ContentMode(StrEnum):
    """What of a call's prompt and answer is kept beside its records."""

    METADATA = "metadata"
    HASHED = "hashed"
    SEALED = "sealed"
    FULL = "full"


class Limits(Struct, frozen=True):
    """What a tenant or a key may use. `None` means that this holder sets no bound of its own."""

    concurrency: int | None = None
    requests_per_minute: int | None = None


class Via(StrEnum):
    """How a caller has shown who they are."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a word
    CERTIFICATE = "certificate"


class Certificate(Struct, frozen=True):
    """A client certificate whose chain has been verified, by the door or by a trusted proxy; in a head, a valid one.

    `names` are its subject alternative names as `DNS:host`, `URI:spiffe://...`, `email:a@b` or `IP:10.0.0.1`;
    `thumbprint` is the unpadded base64url SHA-256 of its DER form (RFC 8705, section 3.1). Times are microseconds since
    the epoch.
    """

    thumbprint: str
    names: tuple[str, ...]
    not_before: int
    not_after: int


class Term(Struct, frozen=True, order=True):
    """When a certificate or a list of revoked ones ends, in seconds since the epoch, and how long it is good in all."""

    ends: float
    lifetime: float


class Principal(Struct, frozen=True):
    """Who calls, and what their credential is good for. `None` means that the credential sets no bound of its own.

    `key_id` is the public id of the credential: of a key (`key_...`), of what an identity provider calls them
    (`usr_...`, the same for all tokens of one user), or of a certificate (`crt_...`); limits count by it. `sources` are
    the networks that it may be used from, empty for any. `issuer` names the issuer in the settings, for a token.
    """

    key_id: str
    tenant: str
    subject: str
    roles: frozenset[Role] = USER
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    project: str = ""
    routes: frozenset[str] | None = None
    sources: tuple[Network, ...] = ()
    via: Via = Via.KEY
    issuer: str = ""
    broken_glass: str = ""
    """Id of the break-glass grant that gives a role at the moment; empty as a rule."""
    lent: frozenset[Role] = frozenset()
    """Those of the roles that it gives: they may be used, but nothing may be given away by them."""

    @property
    def role(self) -> str:
        """The roles, as records name them."""
        return named(self.roles)

    @property
    def own_roles(self) -> frozenset[Role]:
        """The roles without those that are lent."""
        return self.roles - self.lent

    @property
    def permissions(self) -> frozenset[Permission]:
        """All that they may do somewhere."""
        return permissions(self.roles)

    def may(self, permission: Permission, tenant: str) -> bool:
        """Whether they may do this in a tenant. A call is always the caller's own tenant's."""
        return reaches(self.roles, permission, own=tenant == self.tenant)


class Key(Struct, frozen=True):
    """An API key as those see it who may look after it: all but the key itself.

    Times are integer microseconds since the epoch. `version` grows with every change. `replaces` is the id of the key
    that this one takes over from; `made_by` says who made it.

    `damaged` says why it cannot be used, where somebody has changed it by hand. It has no rights then, and of the rest
    only what could be read.
    """

    id: str
    tenant: str
    owner: str
    created: int
    roles: frozenset[Role] = USER
    project: str = ""
    models: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    sources: tuple[Network, ...] = ()
    limits: Limits = Limits()
    expires: int | None = None
    revoked: int | None = None
    frozen: int | None = None
    last_used: int | None = None
    replaces: str = ""
    made_by: str = ""
    version: int = 1
    damaged: str = ""

    def state(self, now: int) -> str:
        """`revoked`, `damaged`, `expired`, `frozen` or `active`, at this time (microseconds since the epoch)."""
        if self.revoked is not None:
            return "revoked"
        if self.damaged:
            return "damaged"
        if self.expires is not None and self.expires <= now:
            return "expired"
        return "active" if self.frozen is None else "frozen"

    def holder(self) -> Principal:
        """Who calls with it."""
        return Principal(
            self.id,
            self.tenant,
            self.owner,
            self.roles,
            self.models,
            self.limits,
            self.project,
            self.routes,
            self.sources,
        )


class Kind(StrEnum):
    """Kinds of documents in the directory."""

    TENANT = "tenant"
    PROJECT = "project"
    USER = "user"
    POLICY = "policy"
    BREAK_GLASS = "break-glass"


class Document(Struct, frozen=True):
    """One thing that the directory keeps: a tenant, a project, a user, the policy, a break-glass grant.

    `tenant` is empty for what belongs to the house (a tenant itself among them). `body` is JSON, and what it holds is
    judged before it gets here. `version` grows with every change, and is none that one of this name has had which was
    removed. Times are microseconds since the epoch.
    """

    kind: Kind
    tenant: str
    name: str
    body: dict[str, Any]
    version: int = 0
    created: int = 0
    updated: int = 0


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
    certificate: Certificate | None = None
    ambiguous: bool = False
    """Two headers compete, or one has no form that is known: nothing was shown that counts."""


class Call(Struct, frozen=True):
    """A strictly parsed request. `body` is what the engine gets: re-serialised, never the client's bytes.

    `choices` counts answers over all prompts; `completion_tokens` is the most that one may have, where the
    client set it, in the field `asked_in`; `highest_token` is the greatest token id that the client named, -1 for none,
    and `highest_in` the field that it stands in.
    """

    model: str
    stream: bool
    include_usage: bool
    choices: int
    body: bytes
    prompt_bytes: int
    sampling: dict[str, Any]
    completion_tokens: int | None = None
    asked_in: str = "max_tokens"
    highest_token: int = -1
    highest_in: str = "prompt"
    end_user: str = ""
    tools: bool = False


class Grant(Struct, frozen=True):
    """A yes: this principal may make this call to this model, under this rule.

    `extra` is what the engine is told beside the call's own body: JSON members, each with a comma before it;
    `max_tokens` is the bound among it, where the client has set none. `content` is what is kept of prompt and answer.
    """

    principal: Principal
    model: ServedModel
    rule: str
    tenant_limits: Limits
    extra: bytes = b""
    content: ContentMode = ContentMode.METADATA
    max_tokens: int | None = None


class Usage(Struct, frozen=True):
    """Tokens. `estimated` is true where the engine had no chance to count (the client left, the engine died)."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    estimated: bool = False


class Outcome(Struct, frozen=True):
    """How the call went.

    `tried` names replicas that had the call before the one that answered, and may have worked on it, as often as they
    had it; one may be the same, on a connection that was stale.

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
    tried: tuple[str, ...] = ()
    engine_seconds: float = 0.0
    last: bytes = b""
