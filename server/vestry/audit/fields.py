"""The table of a record: which types there are, which fields, on which types, and what each means.

Everything that describes a record is derived from here: the builders check against it, `document` makes the
JSON Schema in `docs/reference/audit-records.json` of it. A new field is one row.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from vestry.audit.forms import (
    CONTENT,
    ENGINES_TRIED,
    FLAG,
    HASH,
    INTEGER,
    OPEN_INTENTS_EACH,
    ORIGINS,
    RECONCILED_EACH,
    RECONCILIATION,
    SAMPLING,
    SIGNED,
    SUMMARY_COUNTS,
    TIME,
    WORK,
    choice,
    closed,
    listed,
    text,
)
from vestry.types import ContentMode, Ending

SCHEMA = 1
"""Number of this table. It grows when a field changes its meaning or goes away, not when one is added."""


class RecordType(StrEnum):
    """Every kind of record there is."""

    INTENT = "intent"
    OUTCOME = "outcome"
    REFUSAL = "refusal"
    REFUSALS_SUMMARY = "refusals.summary"
    INTENT_CLOSED = "intent.closed"
    SERVER_START = "server.start"
    SERVER_STOP = "server.stop"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    KEY_CHANGE = "key.change"
    TENANT_CHANGE = "tenant.change"
    PROJECT_CHANGE = "project.change"
    USER_CHANGE = "user.change"
    POLICY_CHANGE = "policy.change"
    BREAK_GLASS_ASK = "break-glass.ask"
    BREAK_GLASS_APPROVE = "break-glass.approve"
    BREAK_GLASS_END = "break-glass.end"
    SEGMENT_BEGIN = "segment.begin"
    LOG_TRIM = "log.trim"
    LOG_RECOVERED = "log.recovered"
    CLOCK_JUMP = "clock.jump"
    LOG_READ = "log.read"
    CONTENT_ERASE = "content.erase"
    LOG_RECONCILED = "log.reconciled"
    LOG_PRUNE = "log.prune"


I, O, R = RecordType.INTENT, RecordType.OUTCOME, RecordType.REFUSAL  # noqa: E741 - columns of the table
CALL = frozenset({I, O, R})
KEY = frozenset({RecordType.KEY_CREATE, RecordType.KEY_REVOKE, RecordType.KEY_CHANGE})
DIRECTORY = frozenset(
    {
        RecordType.TENANT_CHANGE,
        RecordType.PROJECT_CHANGE,
        RecordType.USER_CHANGE,
        RecordType.POLICY_CHANGE,
    }
)
LENT = frozenset({RecordType.BREAK_GLASS_ASK, RecordType.BREAK_GLASS_APPROVE})
GLASS = LENT | {RecordType.BREAK_GLASS_END}
"""Of a grant that somebody has damaged, and that is ended, nobody knows any more whose it was."""
ADMINISTRATION = KEY | DIRECTORY | GLASS
SERVER = frozenset({RecordType.SERVER_START, RecordType.SERVER_STOP})
ALL = frozenset(RecordType)
SUMMARY, CLOSED = RecordType.REFUSALS_SUMMARY, RecordType.INTENT_CLOSED
BEGIN, TRIM, RECOVERED = RecordType.SEGMENT_BEGIN, RecordType.LOG_TRIM, RecordType.LOG_RECOVERED
JUMP = RecordType.CLOCK_JUMP
READ, ERASE = RecordType.LOG_READ, RecordType.CONTENT_ERASE
RECONCILED, PRUNE = RecordType.LOG_RECONCILED, RecordType.LOG_PRUNE


class Field(Struct, frozen=True):
    """One row. `always` names the types that never lack the field, `maybe` those that may hold it."""

    name: str
    form: dict[str, Any]
    meaning: str
    always: frozenset[RecordType] = frozenset()
    maybe: frozenset[RecordType] = frozenset()


def _row(name: str, form: dict[str, Any], meaning: str, *, always: Any = (), maybe: Any = ()) -> Field:
    return Field(name, form, meaning, frozenset(always), frozenset(maybe))


FIELDS: tuple[Field, ...] = (
    # Order and identity
    _row("schema", {"const": SCHEMA}, "Number of the table that this record follows.", always=ALL),
    _row("index", INTEGER, "Place in the log: 0, 1, 2 and on, without a gap.", always=ALL),
    _row("origin", text(63), "Name of the log that the record stands in.", always=ALL),
    _row("type", choice(*RecordType), "Kind of the record.", always=ALL),
    _row("time", TIME, "When the record was made (UTC, RFC 3339, microseconds).", always=ALL),
    _row("cut", FLAG, "True: the record was too large, and texts and lists in it were cut.", maybe=ALL),
    _row("began", TIME, "When the call's request began, or a summary's second.", always={*CALL, SUMMARY}),
    _row("duration_us", INTEGER, "Monotonic microseconds from `began` to this record.", always={*CALL, SUMMARY}),
    # Correlation
    _row(
        "request_id",
        text(64),
        "This server's id of the call; also in the answer's `x-request-id`.",
        always={*CALL, CLOSED},
        maybe={*ADMINISTRATION, RecordType.LOG_READ},
    ),
    _row(
        "client_request_id",
        text(128),
        "The client's own `x-client-request-id`, or else its `x-request-id`, escaped.",
        maybe={I, R},
    ),
    _row("traceparent", text(64), "The client's W3C trace context.", maybe={I, R}),
    # Who
    _row(
        "tenant",
        text(63),
        "Tenant of the caller, or of what is changed.",
        always={I, *KEY, *LENT},
        maybe={O, R, ERASE, *DIRECTORY, RecordType.BREAK_GLASS_END},
    ),
    _row(
        "subject",
        text(128),
        "Person or program that the key belongs to; whose content is erased; who is given a role.",
        always={I, *KEY, *LENT, ERASE},
        maybe={O, R, RecordType.BREAK_GLASS_END},
    ),
    _row("key_id", text(64), "Public id of the key. Never the key.", always={I, *KEY}, maybe={O, R}),
    _row(
        "role",
        text(64),
        "Roles of the caller or key; the role that is given.",
        always={I, *LENT},
        maybe={O, R, *KEY, RecordType.BREAK_GLASS_END},
    ),
    _row("issuer", text(63), "Issuer in the settings whose token it was. In an outcome as `source`.", maybe=CALL),
    _row("end_user", text(128), "The client's `user` field, escaped: whom it says it acts for.", maybe={I}),
    _row(
        "actor",
        text(128),
        "Who made the change, read the log, or erased content.",
        always={*ADMINISTRATION, READ, ERASE},
    ),
    _row("actor_tenant", text(63), "Tenant of the actor. Left out: the command line.", maybe={*ADMINISTRATION, READ}),
    _row("actor_role", text(64), "Roles of the actor.", maybe={*ADMINISTRATION, READ}),
    _row("actor_key_id", text(64), "Public id of the actor's credential.", maybe={*ADMINISTRATION, READ}),
    _row(
        "break_glass",
        text(64),
        "Id of the break-glass grant that gave the caller, or the actor, a role then.",
        maybe={*CALL, *ADMINISTRATION, READ},
    ),
    _row(
        "source",
        text(64),
        "Address of the caller; through trusted proxies only, the one they name. In an outcome if there is no intent.",
        maybe={*CALL, *ADMINISTRATION, READ},
    ),
    _row("user_agent", text(256), "The client's `User-Agent`, escaped.", maybe={I, R}),
    # What
    _row("route", text(128), "Route of the API.", always=CALL),
    _row("operation", text(32), "What the route does, in OpenTelemetry's GenAI words.", always=CALL),
    _row("method", text(32), "HTTP method, escaped.", always=CALL),
    _row("stream", FLAG, "Whether a stream was asked for.", always={I}),
    _row(
        "sampling",
        SAMPLING,
        "Effective sampling parameters. Fractions are decimal text; long texts, lists and "
        "objects are only counted, since they can hold content.",
        always={I},
    ),
    _row("status", INTEGER, "HTTP status of the answer.", always={O, R}),
    _row("code", text(64), "Error code of the answer.", always={R}, maybe={O}),
    _row(
        "reason",
        text(256),
        "The sentence that the client or the operator was given.",
        always={R, ERASE, RecordType.BREAK_GLASS_ASK},
        maybe={*KEY, RecordType.BREAK_GLASS_APPROVE, RecordType.BREAK_GLASS_END, READ},
    ),
    # Which model
    _row(
        "model",
        text(128),
        "Model as clients name it; in a refusal, as this client did, escaped.",
        always={I},
        maybe={O, R},
    ),
    _row("revision", text(128), "Revision of the model.", maybe={I}),
    _row("weights_digest", text(128), "Digest of the weights.", maybe={I}),
    _row("quantization", text(64), "Quantization of the weights.", maybe={I}),
    _row("chat_template_digest", text(128), "Digest of the chat template.", maybe={I}),
    _row("engine_version", text(64), "Version of the engine.", maybe={I}),
    _row("replica", text(128), "Engine process that answered.", maybe={O}),
    _row("attempts", INTEGER, "Engines that were tried.", always={O}),
    # Why it was allowed
    _row("decision", choice("allow", "deny"), "What was decided.", always={I, R}),
    _row("rule", text(128), "Rule that allowed it, or denied it.", always={I}, maybe={R}),
    _row("configuration_digest", text(128), "Digest of the settings in force.", maybe={I, R, *SERVER, ERASE, PRUNE}),
    # How it went
    _row("ending", choice(*Ending), "How the call ended.", always={O, R, CLOSED}),
    _row("prompt_tokens", INTEGER, "Tokens of the prompt.", always={O}),
    _row("completion_tokens", INTEGER, "Tokens of the answer.", always={O}),
    _row("cached_tokens", INTEGER, "Tokens of the prompt that the engine had cached.", always={O}),
    _row("estimated", FLAG, "True: the engine had no chance to count; the tokens are an estimate.", always={O}),
    _row("finish_reasons", listed(text(64), 128), "Why each choice ended.", always={O}),
    _row("first_byte_us", INTEGER, "Monotonic microseconds from `began` to the engine's first byte.", maybe={O}),
    _row("engine_us", INTEGER, "Microseconds spent waiting for the engine.", always={O}),
    _row(
        "content_mode",
        choice(*ContentMode),
        "What of prompt and answer is kept beside the log. `metadata`: nothing, and no hash.",
        always={I, O},
    ),
    _row(
        "content",
        CONTENT,
        "The prompt (in an intent) or the answer (in an outcome) as it is kept: [Content](../audit-content.md).",
        maybe={I, O},
    ),
    # Refusals that were counted
    _row("total", INTEGER, "Refusals that this record counts.", always={SUMMARY}),
    _row(
        "counts",
        listed(
            {**closed(who=text(128), code=text(64), count=INTEGER), "required": ["who", "code", "count"]},
            SUMMARY_COUNTS,
        ),
        "Refusals by key id, or by address where there was no key, and by error code.",
        always={SUMMARY},
    ),
    _row("others", INTEGER, "Refusals counted here that stand in no row of `counts`.", always={SUMMARY}),
    # Keys
    _row(
        "models",
        listed(text(128), 256),
        "Models that the key may use. Left out: all that the tenant may.",
        maybe={RecordType.KEY_CREATE},
    ),
    _row("expires", TIME, "When the key expires. Left out: never.", maybe={RecordType.KEY_CREATE}),
    # Changes that an administrator makes
    _row(
        "change",
        choice("create", "update", "remove", "freeze", "thaw", "replace"),
        "What was done.",
        always={*DIRECTORY, RecordType.KEY_CHANGE},
    ),
    _row("name", text(128), "Name of what is changed; id of a break-glass grant.", always={*DIRECTORY, *GLASS}),
    _row(
        "old",
        {"type": "object"},
        "What it was; as `new` without what has its default, where both together are large. Left out: it is new.",
        always={RecordType.KEY_CHANGE},
        maybe={*DIRECTORY},
    ),
    _row(
        "new",
        {"type": "object"},
        "What it is from now on. Left out: it is removed.",
        always={RecordType.KEY_CHANGE},
        maybe={*DIRECTORY, RecordType.KEY_CREATE},
    ),
    _row(
        "minutes",
        INTEGER,
        "For how long a role is asked for, from its approval.",
        always={RecordType.BREAK_GLASS_ASK},
    ),
    _row(
        "until",
        TIME,
        "When the role that is given ends by itself.",
        always={RecordType.BREAK_GLASS_APPROVE},
    ),
    # The server and the log itself
    _row("version", text(64), "Version of this program.", always=SERVER),
    _row(
        "origins",
        listed(text(63), ORIGINS),
        "Names of all logs of this house, this one included, so that one that is missing shows.",
        always={RecordType.SERVER_START},
    ),
    _row("part", INTEGER, "Number of this record among those that begin a segment, from 1.", always={BEGIN}),
    _row("parts", INTEGER, "How many records begin the segment.", always={BEGIN}),
    _row(
        "open_intents",
        listed({**closed(index=INTEGER, request_id=text(64)), "required": ["index", "request_id"]}, OPEN_INTENTS_EACH),
        "Intents in earlier segments that had no outcome when this segment began.",
        always={BEGIN},
    ),
    _row("intent_index", INTEGER, "Place of the intent that is closed.", always={CLOSED}),
    _row(
        "cause",
        text(256),
        "Why: a system error's name, `restart`, `outcome_lost`, `audit_unavailable`, …; of a pruning, the policy.",
        always={CLOSED, RECOVERED, RECONCILED, PRUNE},
    ),
    _row("segment", text(64), "File of the log that was trimmed.", always={TRIM}),
    _row("offset", INTEGER, "Size of that file, in bytes, after the trim.", always={TRIM}),
    _row("bytes", INTEGER, "Bytes that were cut off; none of them was acknowledged.", always={TRIM}),
    _row(
        "sha256",
        HASH,
        "SHA-256 of what was cut off; it is kept in `<segment>-<offset>-<number>.torn`.",
        always={TRIM},
    ),
    _row("failures", INTEGER, "Writes that failed before this one worked.", always={RECOVERED}),
    _row("lost", INTEGER, "Records that could not be written meanwhile.", always={RECOVERED}),
    _row("outage_us", INTEGER, "Monotonic microseconds since the first failure.", always={RECOVERED}),
    _row("discarded_bytes", INTEGER, "Bytes of failed writes that were taken back from the log.", always={RECOVERED}),
    _row("previous", TIME, "Time of the wall clock before the jump.", always={JUMP}),
    _row(
        "jump_us", SIGNED, "Microseconds that the wall clock moved beyond what passed; negative: back.", always={JUMP}
    ),
    # Reading the log, and erasing content
    _row("command", text(64), "Command that read the log.", always={READ}),
    _row("filter", text(1024), "What it was asked for; `all` where nothing was left out.", always={READ}),
    _row(
        "records",
        INTEGER,
        "Records that a reading was about to show, or that were pruned.",
        always={PRUNE},
        maybe={READ},
    ),
    _row("count", INTEGER, "How many contents are erased.", always={ERASE}),
    _row("before", TIME, "Only what was kept before this time is erased. Left out: all.", maybe={ERASE}),
    _row(
        "newest",
        TIME,
        "When the newest of what is erased was kept: after the record's own time where the clock went back.",
        maybe={ERASE},
    ),
    # Completeness. Amounts are three numbers: prompt tokens, completion tokens, requests
    _row(
        "engine_work",
        listed(
            {**closed(replica=text(128), least=WORK, most=WORK), "required": ["replica", "least", "most"]},
            ENGINES_TRIED,
        ),
        "What engines may have counted of the call, at least and at most. Left out: its tokens and one request.",
        maybe={O},
    ),
    _row("since", TIME, "When the reconciliation before this one was made, or the first reading.", always={RECONCILED}),
    _row("in_progress", INTEGER, "Calls in progress then: what they come to is in no amount.", always={RECONCILED}),
    _row(
        "replicas",
        listed(RECONCILIATION, RECONCILED_EACH),
        "By replica, since then: what its counters rose by (`engine`), what outcomes here say, at `least` and at "
        "`most`; `unexplained` is engine work beyond that, `uncounted` what an engine that was idle had not counted. "
        "`counters` stood so at `read`, of the engine that began at `started`.",
        always={RECONCILED},
    ),
    # Pruning
    _row("minimum_index", INTEGER, "Records below this one may be missing from here on.", always={PRUNE}),
)

LIMITS: dict[str, int] = {field.name: field.form["maxLength"] for field in FIELDS if "maxLength" in field.form}
"""Greatest length of each text, in characters."""


def allowed(kind: RecordType) -> frozenset[str]:
    """Names of the fields that a record of this type may hold."""
    return frozenset(field.name for field in FIELDS if kind in field.always | field.maybe)


def required(kind: RecordType) -> frozenset[str]:
    """Names of the fields that a record of this type always holds."""
    return frozenset(field.name for field in FIELDS if kind in field.always)
