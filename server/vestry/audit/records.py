"""Builds records out of the corridor's nouns.

Rules: a builder returns a structure of `calls.py`, or a plain dict for what is not a call; either holds the fields of
the table in `fields.py` and nothing else, and a field without a value is left out. Whatever a stranger sent is made
printable and bounded here, so a long or strange header never makes a record fail. `index` and `origin` are the log's
to give. Builders do no I/O.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from vestry.audit import fields
from vestry.audit.calls import Content, IntentRecord, OutcomeRecord, RefusalRecord
from vestry.audit.canonical import SAFE_INTEGER, clean
from vestry.audit.completeness import engine_work
from vestry.audit.fields import LIMITS, SCHEMA, RecordType
from vestry.errors import Refusal
from vestry.types import Call, ContentMode, Ending, Grant, Head, Outcome, Principal

Event = dict[str, Any]

_SHORT = 64
_FINISH_REASONS = 128
_PEOPLE = frozenset({"subject", "actor", "name"})
_ESCAPED = 10 * LIMITS["subject"]
"""Characters of a subject whose every one is an escape."""
_STENCILS = 16_384
_KEY = re.compile(r"vst_[0-9A-Za-z]{49}")
"""An API key, which people write where they look for what was done with it, or say why they end it."""
_WEIGHTS = ("chat_template_digest", "engine_version", "quantization", "revision", "weights_digest")


def _wall() -> int:
    return time.time_ns() // 1000


class Clock(Struct, frozen=True):
    """Both clocks: `wall` in microseconds since the epoch (UTC), `monotonic` in seconds."""

    wall: Callable[[], int] = _wall
    monotonic: Callable[[], float] = time.monotonic


def rfc3339(microseconds: int) -> str:
    """`2026-01-31T23:59:59.000001Z` of microseconds since the epoch (RFC 3339, always UTC, always 27 characters)."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{str(1_000_000 + fraction)[1:]}Z"


def rfc3339_or_none(microseconds: int | None) -> str | None:
    """As `rfc3339`; None for no time."""
    return None if microseconds is None else rfc3339(microseconds)


def microseconds_of(time_of_record: str) -> int:
    """The inverse of `rfc3339`. Raises ValueError."""
    moment = datetime.fromisoformat(time_of_record)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


@lru_cache(maxsize=4096)
def as_recorded(subject: str) -> str:
    """How records name a person or program: what is not printable, and every backslash, stands as an escape, and what
    is not ASCII beside it. Where that is too long, its end is a hash of the whole, so that two people stay two.
    """
    named = clean(subject, _ESCAPED) or "?"
    if len(named) <= LIMITS["subject"]:
        return named
    whole = hashlib.sha256(subject.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{named[: LIMITS['subject'] - 33]}~{whole[:32]}"


_began = lru_cache(maxsize=1024)(rfc3339)
"""The beginning of a call stands in two records."""


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()  # strftime writes the year 27 as 27


class _Stencil(Struct):
    """What is the same in all records of one key's calls to one model on one route; copied, and then filled in."""

    principal: Principal
    grant: Grant | None
    intent: IntentRecord
    outcome: OutcomeRecord

    def serves(self, principal: Principal, grant: Grant | None) -> bool:
        """Whether the records of a call by this principal, under this grant, are made of it."""
        mine = self.grant
        return self.principal is principal and (
            mine is grant
            or (
                mine is not None
                and grant is not None
                and mine.model is grant.model
                and (mine.rule, mine.content) == (grant.rule, grant.content)
            )
        )


class Records:
    """The builders, with what is the same in every record of one process."""

    def __init__(
        self,
        *,
        configuration_digest: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._configuration = clean(configuration_digest, LIMITS["configuration_digest"])
        self._stencils: dict[tuple[str, str, str], _Stencil] = {}

    def intent(
        self, head: Head, principal: Principal, call: Call, grant: Grant, content: Content | None = None
    ) -> IntentRecord:
        """What is about to be done, and why it may be. Durable before an engine is called."""
        record = replace(
            self._stencil(head, principal, grant).intent,
            began=_began(head.began_wall),
            duration_us=self._since(head.began),
            request_id=head.request_id,
            sampling=sampling(call.sampling),
            stream=call.stream,
            time=rfc3339(self._clock.wall()),
        )
        if grant.max_tokens is not None:
            record.sampling["max_tokens"] = grant.max_tokens
        if head.client_request_id:
            record.client_request_id = clean(head.client_request_id, LIMITS["client_request_id"])
        if call.end_user:
            record.end_user = clean(call.end_user, LIMITS["end_user"])
        if head.source:
            record.source = clean(head.source, LIMITS["source"])
        if head.traceparent:
            record.traceparent = clean(head.traceparent, LIMITS["traceparent"])
        if head.user_agent:
            record.user_agent = clean(head.user_agent, LIMITS["user_agent"])
        if content is not None:
            record.content = content
        return record

    def outcome(  # noqa: PLR0917 - as for the intent: called for every call
        self,
        head: Head,
        principal: Principal,
        call: Call | None,
        grant: Grant | None,
        outcome: Outcome,
        content: Content | None = None,
    ) -> OutcomeRecord:
        """How it went; what the intent says of the model is not said again.

        `call` and `grant` are None on routes that call no engine and so have no intent.
        """
        usage = outcome.usage
        record = replace(
            self._stencil(head, principal, grant).outcome,
            attempts=outcome.attempts,
            began=_began(head.began_wall),
            cached_tokens=usage.cached,
            completion_tokens=usage.completion,
            duration_us=self._since(head.began),
            ending=outcome.ending,
            engine_us=_microseconds(outcome.engine_seconds),
            estimated=usage.estimated,
            finish_reasons=_cleaned(outcome.finish_reasons),
            prompt_tokens=usage.prompt,
            request_id=head.request_id,
            status=outcome.status,
            time=rfc3339(self._clock.wall()),
        )
        if outcome.code:
            record.code = clean(outcome.code, _SHORT)
        if outcome.first_byte is not None:
            record.first_byte_us = _microseconds(outcome.first_byte - head.began)
        if outcome.replica:
            record.replica = clean(outcome.replica, LIMITS["replica"])
        if call is not None and grant is not None:
            record.engine_work = engine_work(call, grant, outcome)
        elif call is not None:
            record.model = clean(call.model, LIMITS["model"])
        if grant is None:  # there is no intent that says it
            record.issuer, record.source = principal.issuer, clean(head.source, LIMITS["source"])
        if content is not None:
            record.content = content
        return record

    def _stencil(self, head: Head, principal: Principal, grant: Grant | None) -> _Stencil:
        """The stencil of a call; made anew where the key or the model is another object than it was."""
        place = (principal.key_id, grant.model.name if grant is not None else "", head.route)
        known = self._stencils.get(place)
        if known is not None and known.serves(principal, grant):
            return known
        if len(self._stencils) >= _STENCILS:
            self._stencils.clear()
        made = self._stencils[place] = self._cut_stencil(head, principal, grant)
        return made

    def _cut_stencil(self, head: Head, principal: Principal, grant: Grant | None) -> _Stencil:
        model = grant.model if grant is not None else None
        rule = grant.rule if grant is not None else ""
        content = grant.content if grant is not None else ContentMode.METADATA
        same: dict[str, Any] = {
            "schema": SCHEMA,
            "request_id": "",
            "time": "",
            "began": "",
            "duration_us": 0,
            "tenant": principal.tenant,
            "subject": as_recorded(principal.subject),
            "key_id": principal.key_id,
            "role": principal.role,
            "break_glass": principal.broken_glass,
            "route": clean(head.route, LIMITS["route"]) or "?",
            "operation": head.operation,
            "method": clean(head.method, LIMITS["method"]) or "?",
            "model": clean(model.name, LIMITS["model"]) if model is not None else "",
            "content_mode": content,
        }
        weights: dict[str, Any] = (
            {name: clean(getattr(model, name), LIMITS[name]) for name in _WEIGHTS} if model is not None else {}
        )
        intent = IntentRecord(
            type="intent",
            stream=False,
            sampling={},
            decision="allow",
            issuer=principal.issuer,
            rule=clean(rule, LIMITS["rule"]),
            configuration_digest=self._configuration,
            **weights,
            **same,
        )
        outcome = OutcomeRecord(
            type="outcome",
            status=0,
            ending="",
            attempts=0,
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            estimated=False,
            finish_reasons=(),
            engine_us=0,
            **same,
        )
        return _Stencil(principal, grant, intent, outcome)

    def refusal(self, head: Head, principal: Principal | None, call: Call | None, refusal: Refusal) -> RefusalRecord:
        """A call that was answered with a refusal: the one record of it, intent and outcome in one."""
        record = RefusalRecord(
            type="refusal",
            schema=SCHEMA,
            request_id=head.request_id,
            client_request_id=clean(head.client_request_id, LIMITS["client_request_id"]),
            traceparent=clean(head.traceparent, LIMITS["traceparent"]),
            time=rfc3339(self._clock.wall()),
            began=rfc3339(head.began_wall),
            duration_us=self._since(head.began),
            source=clean(head.source, LIMITS["source"]),
            user_agent=clean(head.user_agent, LIMITS["user_agent"]),
            route=clean(head.route, LIMITS["route"]) or "?",
            operation=head.operation,
            method=clean(head.method, LIMITS["method"]) or "?",
            decision="deny",
            configuration_digest=self._configuration,
            status=refusal.status,
            code=clean(refusal.code, _SHORT),
            reason=clean(refusal.reason, LIMITS["reason"]) or refusal.code,
            ending=Ending.REFUSED,
            rule=clean(refusal.rule, LIMITS["rule"]),
        )
        if call is not None:
            record.model = clean(call.model, LIMITS["model"])
        if principal is not None:
            record.tenant, record.key_id, record.role = principal.tenant, principal.key_id, principal.role
            record.subject = as_recorded(principal.subject)
            record.issuer = principal.issuer
            record.break_glass = principal.broken_glass
        return record

    def event(self, kind: RecordType, **details: Any) -> Event:
        """A record of anything that is not a call. None and empty texts are left out; texts are bounded.

        Raises ValueError for a detail that this type does not have, or one that it lacks.
        """
        record: Event = {"schema": SCHEMA, "type": kind.value, "time": rfc3339(self._clock.wall())}
        if kind in fields.SERVER:
            record |= _present(configuration_digest=self._configuration)
        record |= {name: _bounded(name, value) for name, value in details.items() if value is not None and value != ""}
        given = record.keys() | {"index", "origin"}
        if strange := given - fields.allowed(kind):
            raise ValueError(f"a record of type {kind} has no field {', '.join(sorted(strange))}")
        if missing := fields.required(kind) - given:
            raise ValueError(f"a record of type {kind} needs {', '.join(sorted(missing))}")
        return record

    def wall(self) -> int:
        """Microseconds since the epoch, by the clock of these records."""
        return self._clock.wall()

    def _since(self, began: float) -> int:
        passed = self._clock.monotonic() - began
        return round(passed * 1_000_000) if passed > 0.0 else 0


@lru_cache(maxsize=256)
def _cleaned(reasons: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(clean(each, _SHORT) for each in reasons[:_FINISH_REASONS] if each)


def sampling(parameters: Mapping[str, Any]) -> dict[str, Any]:
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
    if isinstance(value, str) and 0 < len(value) <= _SHORT:
        return clean(value, _SHORT)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= 128:
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return {"count": len(value)} if hasattr(value, "__len__") else {"count": 1}


def _present(**texts: str) -> Event:
    return {name: clean(value, LIMITS[name]) for name, value in texts.items() if value}


def _bounded(name: str, value: Any) -> Any:
    if name in _PEOPLE:
        return as_recorded(value)
    return clean(_KEY.sub("vst_...", value), LIMITS[name]) if isinstance(value, str) and name in LIMITS else value


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000) if seconds > 0.0 else 0
