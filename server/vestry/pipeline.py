"""The corridor: what happens to a call, and in what order.

    edge → authenticate → authorize → admit → record (intent) → route → relay → meter → record (outcome)

A call walks one way. Whatever stops it is a Refusal; it is recorded like an answer, and the edge gives it its
shape. Nothing is sent to an engine before the intent is durable, and the last byte of an answer leaves only when the
outcome is. Where a tenant's content is kept, the prompt is durable before the intent, the answer before the outcome.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping

from msgspec import Struct
from msgspec.structs import replace

from vestry.admit import Admission
from vestry.audit.calls import Content
from vestry.authenticate import authenticate
from vestry.authorize import authorize, bounded, limits_of, permitted
from vestry.errors import AuditUnavailable, ClientLeft, InternalError, Refusal, Stopping
from vestry.forward import Forward
from vestry.house import House
from vestry.keeping import Keep, Keeping
from vestry.meter.calls import NOBODY, Meter
from vestry.record import Recorder
from vestry.roles import Permission
from vestry.seams import Credentials, Visitor
from vestry.types import Call, Ending, Grant, Head, Outcome, Principal, ServedModel

log = logging.getLogger("vestry")


class Trail(Struct):
    """What is known of a call so far: every record and every count is made from it."""

    head: Head
    principal: Principal | None = None
    call: Call | None = None
    grant: Grant | None = None
    keeping: Keeping | None = None
    intended: bool = False
    metered: bool = False
    concluding: bool = False
    concluded: bool = False


class Corridor:
    """The steps, in their order. Built once, in `app`."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        house: House,
        models: Mapping[str, ServedModel],
        admission: Admission,
        recorder: Recorder,
        forward: Forward,
        meter: Meter,
        keep: Keep | None = None,
    ) -> None:
        self.credentials, self.house, self.models = credentials, house, models
        self.admission, self.recorder, self.forward, self.meter = admission, recorder, forward, meter
        self.keep = keep

    def walk(self, visitor: Visitor) -> Coroutine[None, None, None]:
        """One call that an engine answers, from its arrival to its last byte."""
        return self._guard(visitor, Trail(visitor.head), self._serve)

    def look(self, visitor: Visitor, answer: Callable[[Principal, House], bytes]) -> Coroutine[None, None, None]:
        """One call that the server answers by itself."""

        async def serve(visitor: Visitor, trail: Trail) -> None:
            principal = await authenticate(trail.head, self.credentials, self)
            house = self.house
            principal = trail.principal = house.lifted(principal, trail.head.began_wall)
            permitted(principal, Permission.MODELS_READ, trail.head.route)
            tenant = house.tenants[principal.tenant]
            with self.admission.place(bounded(principal, house), limits_of(tenant), time.monotonic()):
                found = answer(principal, house)
                await self._conclude(visitor, trail, Outcome(Ending.COMPLETE, 200))
            await visitor.finish(found, streamed=False)

        return self._guard(visitor, Trail(visitor.head), serve)

    def turn_away(self, visitor: Visitor, refusal: Refusal) -> Coroutine[None, None, None]:
        """One request that no route takes."""
        return self._refuse(visitor, Trail(visitor.head), refusal)

    async def _serve(self, visitor: Visitor, trail: Trail) -> None:
        head = trail.head
        principal = await authenticate(head, self.credentials, self)
        house = self.house
        trail.principal = house.lifted(principal, head.began_wall)
        trail.call = call = await visitor.call()
        trail.grant = grant = authorize(trail.principal, head, call, self.models, house)
        with self.admission.place(grant.principal, grant.tenant_limits, time.monotonic()):
            self.meter.began(grant)
            try:
                keeping = trail.keeping = self._kept(head, trail.principal, grant)
                prompt = None if keeping is None else await keeping.prompt(call)
                await self.recorder.intent(head, trail.principal, call, grant, prompt)
                trail.intended = True
                client = visitor if keeping is None or not call.stream else keeping.listen(visitor)
                outcome = await self.forward(head, call, grant, client)
                await self._conclude(visitor, trail, outcome)
            finally:
                self.meter.left(grant)
                self.admission.lasted(time.monotonic() - head.began)
            await visitor.finish(outcome.last, streamed=call.stream)

    def _kept(self, head: Head, principal: Principal, grant: Grant) -> Keeping | None:
        return None if self.keep is None else self.keep.of(head, principal, grant.content)

    async def _conclude(self, visitor: Visitor, trail: Trail, outcome: Outcome) -> None:
        """Keep the answer, then record and meter the outcome; durable when this returns. Raises AuditUnavailable."""
        answer: Content | None = None
        failure: Refusal | None = None
        if trail.keeping is not None:
            answer, outcome, failure = await self._keep_answer(trail.keeping, trail.call, outcome)
        seconds = time.monotonic() - trail.head.began
        trail.intended = False
        written = self.recorder.outcome(trail.head, _known(trail), trail.call, trail.grant, outcome, answer)
        trail.concluding = True  # from here on the log has it, or closes the intent, whatever becomes of this task
        try:
            await written
        except AuditUnavailable as unrecorded:
            outcome = _undelivered(trail, outcome, unrecorded, begun=visitor.begun)
            raise
        finally:
            self._count(trail, outcome, seconds)
        trail.concluded = True
        if failure is not None:
            raise failure

    @staticmethod
    async def _keep_answer(
        keeping: Keeping, call: Call | None, outcome: Outcome
    ) -> tuple[Content | None, Outcome, Refusal | None]:
        """The answer as it is kept. Where it cannot be, its end is withheld, and the outcome says so."""
        try:
            return await keeping.answer(outcome, streamed=call is not None and call.stream), outcome, None
        except AuditUnavailable as unkept:
            failure: Refusal = unkept
        except asyncio.CancelledError:  # the server stops, and does not wait for the disk
            failure = Stopping()
        if outcome.ending != Ending.COMPLETE:
            return Content(lost=True), outcome, failure
        ending, status = (Ending.TRUNCATED, 200) if keeping.began else (Ending.FAILED, failure.status)
        ended = replace(outcome, ending=ending, status=status, code=failure.code, last=b"")
        return Content(lost=True), ended, failure

    def _count(self, trail: Trail, outcome: Outcome, seconds: float) -> None:
        """Meter a call once, however many things go wrong with it: by what its caller is answered."""
        if not trail.metered:
            trail.metered = True
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
        seconds = time.monotonic() - trail.head.began
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
            if trail.concluding:
                pass  # the call has its outcome, and no second record
            elif trail.intended:
                await self._conclude(visitor, trail, outcome)
            else:
                await self.recorder.refusal(trail.head, trail.principal, trail.call, refusal)
        except Refusal as unrecorded:
            refusal = unrecorded
        except asyncio.CancelledError:  # the server stops while the record is on its way to the disk
            refusal = Stopping()
        self._count(trail, replace(outcome, status=refusal.status, code=refusal.code), seconds)
        self.meter.refused(trail.head, _tenant(trail), refusal.code)
        if not isinstance(refusal, ClientLeft):
            await visitor.refuse(refusal)


def _tenant(trail: Trail) -> str:
    return trail.principal.tenant if trail.principal is not None else NOBODY


def _known(trail: Trail) -> Principal:
    if trail.principal is None:
        raise TypeError("a call has no outcome before its caller is known")
    return trail.principal


def _undelivered(trail: Trail, outcome: Outcome, unrecorded: AuditUnavailable, *, begun: bool) -> Outcome:
    """How a call has ended whose outcome could not be recorded: as its caller is told, who gets nothing else."""
    if outcome.ending is Ending.CANCELLED:
        return outcome
    if begun:
        return replace(outcome, ending=Ending.TRUNCATED, code=unrecorded.code)
    ending = Ending.REFUSED if trail.grant is None else Ending.FAILED
    return replace(outcome, ending=ending, status=unrecorded.status, code=unrecorded.code)
