"""Builds records out of the corridor's nouns.

Rules: a builder returns a plain dict that holds the fields of the table in `fields.py` and nothing else; a
field without a value is left out. Whatever a stranger sent is made printable and bounded here, so a long or
strange header never makes a record fail. `index` and `origin` are the log's to give. Builders do no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from msgspec import Struct

from vestry.audit import fields
from vestry.audit.canonical import SAFE_INTEGER, clean
from vestry.audit.fields import LIMITS, SCHEMA, RecordType
from vestry.errors import Refusal
from vestry.types import Call, Ending, Grant, Head, Outcome, Principal, ServedModel

Record = dict[str, Any]

_SHORT = 64
_FINISH_REASONS = 128


def _wall() -> int:
    return time.time_ns() // 1000


class Clock(Struct, frozen=True):
    """Both clocks: `wall` in microseconds since the epoch (UTC), `monotonic` in seconds."""

    wall: Callable[[], int] = _wall
    monotonic: Callable[[], float] = time.monotonic


def rfc3339(microseconds: int) -> str:
    """`2026-01-31T23:59:59.000001Z` of microseconds since the epoch (RFC 3339, always UTC, always 27 characters)."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z"


def microseconds_of(time_of_record: str) -> int:
    """The inverse of `rfc3339`. Raises ValueError."""
    moment = datetime.fromisoformat(time_of_record)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Records:
    """The builders, with what is the same in every record of one process."""

    def __init__(self, *, configuration_digest: str = "", clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._configuration = _present(configuration_digest=configuration_digest)
        self._models: dict[str, tuple[ServedModel, Record]] = {}

    def intent(self, head: Head, principal: Principal, call: Call, grant: Grant) -> Record:
        """What is about to be done, and why it may be. Durable before an engine is called."""
        record = self._frame("intent", head)
        record |= _who(principal)
        record |= _stranger(head)
        record |= self._model(grant.model)
        record |= self._configuration
        record["decision"] = "allow"
        record["rule"] = clean(grant.rule, LIMITS["rule"])
        record["stream"] = call.stream
        record["sampling"] = sampling(call.sampling)
        record["content_mode"] = "metadata"
        if call.end_user:
            record["end_user"] = clean(call.end_user, LIMITS["end_user"])
        return record

    def outcome(
        self, head: Head, principal: Principal, call: Call | None, grant: Grant | None, outcome: Outcome
    ) -> Record:
        """How it went; what the intent says of the model is not said again.

        `call` and `grant` are None on routes that call no engine and so have no intent.
        """
        record = self._frame("outcome", head)
        record |= _who(principal)
        if grant is not None:
            record["model"] = grant.model.name
        elif call is not None and call.model:
            record["model"] = clean(call.model, LIMITS["model"])
        usage = outcome.usage
        record |= {
            "status": outcome.status,
            "ending": outcome.ending.value,
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "cached_tokens": usage.cached,
            "estimated": usage.estimated,
            "finish_reasons": [clean(each, _SHORT) for each in outcome.finish_reasons[:_FINISH_REASONS] if each],
            "attempts": outcome.attempts,
            "engine_us": _microseconds(outcome.engine_seconds),
            "content_mode": "metadata",
        }
        if outcome.code:
            record["code"] = clean(outcome.code, _SHORT)
        if outcome.replica:
            record["replica"] = clean(outcome.replica, LIMITS["replica"])
        if outcome.first_byte is not None:
            record["first_byte_us"] = _microseconds(outcome.first_byte - head.began)
        return record

    def refusal(self, head: Head, principal: Principal | None, call: Call | None, refusal: Refusal) -> Record:
        """A call that was answered with a refusal: the one record of it, intent and outcome in one."""
        record = self._frame("refusal", head)
        if principal is not None:
            record |= _who(principal)
        record |= _stranger(head)
        record |= self._configuration
        if call is not None and call.model:
            record["model"] = clean(call.model, LIMITS["model"])
        record["decision"] = "deny"
        record["ending"] = Ending.REFUSED.value
        record["status"] = refusal.status
        record["code"] = clean(refusal.code, _SHORT)
        record["reason"] = clean(refusal.reason, LIMITS["reason"]) or refusal.code
        return record

    def event(self, kind: RecordType, **details: Any) -> Record:
        """A record of anything that is not a call. None and empty texts are left out; texts are bounded.

        Raises ValueError for a detail that this type does not have, or one that it lacks.
        """
        record: Record = {"schema": SCHEMA, "type": kind.value, "time": rfc3339(self._clock.wall())}
        if kind in fields.SERVER:
            record |= self._configuration
        record |= {name: _bounded(name, value) for name, value in details.items() if value is not None and value != ""}
        given = record.keys() | {"index", "origin"}
        if strange := given - fields.allowed(kind):
            raise ValueError(f"a record of type {kind} has no field {', '.join(sorted(strange))}")
        if missing := fields.required(kind) - given:
            raise ValueError(f"a record of type {kind} needs {', '.join(sorted(missing))}")
        return record

    def _frame(self, kind: str, head: Head) -> Record:
        elapsed = self._clock.monotonic() - head.began
        return {
            "schema": SCHEMA,
            "type": kind,
            "time": rfc3339(self._clock.wall()),
            "began": rfc3339(head.began_wall),
            "duration_us": _microseconds(elapsed),
            "request_id": head.request_id,
            "route": clean(head.route, LIMITS["route"]) or "?",
            "operation": head.operation.value,
            "method": clean(head.method, LIMITS["method"]) or "?",
        }

    def _model(self, model: ServedModel) -> Record:
        """The model's fields; built once a model, as long as the catalog hands down the same object."""
        known = self._models.get(model.name)
        if known is not None and known[0] is model:
            return known[1]
        section = _present(
            model=model.name,
            revision=model.revision,
            weights_digest=model.weights_digest,
            quantization=model.quantization,
            chat_template_digest=model.chat_template_digest,
            engine_version=model.engine_version,
        )
        self._models[model.name] = (model, section)
        return section


def sampling(parameters: Mapping[str, Any]) -> Record:
    """Sampling parameters as a record may hold them.

    Integers and truth values stay; a fraction, and an integer that JSON readers could round, becomes decimal
    text; a text of up to 64 characters stays; anything that could hold content becomes `{"count": length}`.
    """
    return {
        name: value if value.__class__ is int and -SAFE_INTEGER <= value <= SAFE_INTEGER else _parameter(value)
        for name, value in parameters.items()
        if value is not None
    }


def _parameter(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= 128:
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and 0 < len(value) <= _SHORT:
        return clean(value, _SHORT)
    return {"count": len(value)} if hasattr(value, "__len__") else {"count": 1}


def _who(principal: Principal) -> Record:
    return {
        "tenant": principal.tenant,
        "subject": clean(principal.subject, LIMITS["subject"]) or "?",
        "key_id": principal.key_id,
        "role": principal.role,
    }


def _stranger(head: Head) -> Record:
    """What the client says of itself: none of it is proven."""
    found: Record = {}
    if head.source:
        found["source"] = clean(head.source, LIMITS["source"])
    if head.user_agent:
        found["user_agent"] = clean(head.user_agent, LIMITS["user_agent"])
    if head.client_request_id:
        found["client_request_id"] = clean(head.client_request_id, LIMITS["client_request_id"])
    if head.traceparent:
        found["traceparent"] = clean(head.traceparent, LIMITS["traceparent"])
    return found


def _present(**texts: str) -> Record:
    return {name: clean(value, LIMITS[name]) for name, value in texts.items() if value}


def _bounded(name: str, value: Any) -> Any:
    return clean(value, LIMITS[name]) if isinstance(value, str) and name in LIMITS else value


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
