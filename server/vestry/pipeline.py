"""The corridor: what happens to a call, and in what order.

    edge → authenticate → authorize → admit → record (intent) → route → relay → meter → record (outcome)

A call walks one way. Whatever stops it is a Refusal; it is recorded like an answer, and the edge gives it its
shape. Nothing is sent to an engine before the intent is durable, and the last byte of an answer leaves only when the
outcome is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping

from msgspec import Struct

from vestry.admit import Admission
from vestry.authenticate import authenticate
from vestry.authorize import authorize, bounded, limits_of
from vestry.errors import ClientLeft, InternalError, Refusal, Stopping
from vestry.forward import Forward
from vestry.meter import Meter
from vestry.record import Recorder
from vestry.seams import KeyStore, Visitor
from vestry.settings import Tenant
from vestry.types import Call, Ending, Grant, Head, Outcome, Principal, ServedModel

log = logging.getLogger("vestry")


class Trail(Struct):
    """What is known of a call so far: every record and every count is made from it."""

    head: Head
    principal: Principal | None = None
    call: Call | None = None
    grant: Grant | None = None
    intended: bool = False
    metered: bool = False
    concluded: bool = False


class Corridor:
    """The steps, in their order. Built once, in `app`."""

    def __init__(
        self,
        *,
        keys: KeyStore,
        tenants: Mapping[str, Tenant],
        models: Mapping[str, ServedModel],
        admission: Admission,
        recorder: Recorder,
        forward: Forward,
        meter: Meter,
    ) -> None:
        self.keys, self.tenants, self.models = keys, tenants, models
        self.admission, self.recorder, self.forward, self.meter = admission, recorder, forward, meter

    def walk(self, visitor: Visitor) -> Coroutine[None, None, None]:
        """One call that an engine answers, from its arrival to its last byte."""
        return self._guard(visitor, Trail(visitor.head), self._serve)

    def look(self, visitor: Visitor, answer: Callable[[Principal, Tenant], bytes]) -> Coroutine[None, None, None]:
        """One call that the server answers by itself."""

        async def serve(visitor: Visitor, trail: Trail) -> None:
            principal = trail.principal = authenticate(trail.head.credential, self.keys, self.tenants)
            tenant = self.tenants[principal.tenant]
            with self.admission.place(bounded(principal, tenant), limits_of(tenant), time.monotonic()):
                found = answer(principal, tenant)
                await self._conclude(trail, Outcome(Ending.COMPLETE, 200))
            await visitor.finish(found, streamed=False)

        return self._guard(visitor, Trail(visitor.head), serve)

    def turn_away(self, visitor: Visitor, refusal: Refusal) -> Coroutine[None, None, None]:
        """One request that no route takes."""
        return self._refuse(visitor, Trail(visitor.head), refusal)

    async def _serve(self, visitor: Visitor, trail: Trail) -> None:
        head = trail.head
        trail.principal = authenticate(head.credential, self.keys, self.tenants)
        trail.call = call = await visitor.call()
        trail.grant = grant = authorize(trail.principal, call, self.models, self.tenants)
        with self.admission.place(grant.principal, grant.tenant_limits, time.monotonic()):
            self.meter.began(grant)
            try:
                await self.recorder.intent(head, trail.principal, call, grant)
                trail.intended = True
                outcome = await self.forward(head, call, grant, visitor)
                await self._conclude(trail, outcome)
            finally:
                self.meter.left(grant)
                self.admission.lasted(time.monotonic() - head.began)
            await visitor.finish(outcome.last, streamed=call.stream)

    async def _conclude(self, trail: Trail, outcome: Outcome) -> None:
        """Meter the outcome, then record it; durable when this returns. Raises AuditUnavailable."""
        self._count(trail, outcome)
        trail.intended = False
        await self.recorder.outcome(trail.head, _known(trail), trail.call, trail.grant, outcome)
        trail.concluded = True

    def _count(self, trail: Trail, outcome: Outcome) -> None:
        """Meter a call once, however many things go wrong with it."""
        if not trail.metered:
            trail.metered = True
            seconds = time.monotonic() - trail.head.began
            self.meter.ended(trail.head, trail.grant, _tenant(trail), outcome, seconds)

    async def _guard(
        self, visitor: Visitor, trail: Trail, serve: Callable[[Visitor, Trail], Coroutine[None, None, None]]
    ) -> None:
        """Turn whatever stops a call into a recorded refusal."""
        try:
            await serve(visitor, trail)
        except Refusal as refusal:
            await self._refuse(visitor, trail, refusal)
        except asyncio.CancelledError:  # the server stops; this is the task's outermost frame, so it ends here
            if not trail.concluded:
                await self._refuse(visitor, trail, Stopping())
        except Exception:  # the border: no fault of ours may leave a call unanswered or unrecorded
            log.exception("call %s failed", trail.head.request_id)
            await self._refuse(visitor, trail, InternalError())

    async def _refuse(self, visitor: Visitor, trail: Trail, refusal: Refusal) -> None:
        """Record a refusal, then answer with it. If even that cannot be recorded, the answer says so."""
        self.meter.refused(trail.head, _tenant(trail), refusal.code)
        ending = Ending.FAILED if trail.intended and refusal.status >= 500 else Ending.REFUSED
        outcome = Outcome(
            ending,
            refusal.status,
            refusal.code,
            replica=refusal.replica,
            attempts=refusal.attempts,
            tried=refusal.tried,
        )
        try:
            if trail.intended:
                await self._conclude(trail, outcome)
            else:
                self._count(trail, outcome)
                await self.recorder.refusal(trail.head, trail.principal, trail.call, refusal)
        except Refusal as unrecorded:
            refusal = unrecorded
        if not isinstance(refusal, ClientLeft):
            await visitor.refuse(refusal)


def _tenant(trail: Trail) -> str:
    return trail.principal.tenant if trail.principal is not None else "none"


def _known(trail: Trail) -> Principal:
    if trail.principal is None:
        raise TypeError("a call has no outcome before its caller is known")
    return trail.principal
