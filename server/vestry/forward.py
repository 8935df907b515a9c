"""Forwarding: routing decides, the relay sends; a failure before the first byte may be tried once elsewhere."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from vestry.errors import BUSY, EngineFailed, InvalidRequest, NoReplica, Refusal, Stopping
from vestry.relay import Relay
from vestry.route import CANCELLED, Router, Trip
from vestry.seams import Client
from vestry.types import Call, Ending, Grant, Head, Outcome

CAUSES = {Ending.TRUNCATED: "stream", Ending.CANCELLED: CANCELLED}


class RetryObserver(Protocol):
    """Counts second tries."""

    def retried(self, model: str) -> None: ...


class Forward:
    """Takes a call to a replica, or to a second one."""

    def __init__(self, router: Router, relay: Relay, observer: RetryObserver) -> None:
        self._router, self._relay, self._observer = router, relay, observer

    async def __call__(self, head: Head, call: Call, grant: Grant, client: Client) -> Outcome:
        """The outcome at the replica that answered.

        Raises NoReplica, EngineFailed, EngineTimeout, InvalidRequest where the engine found the request wrong, or
        Stopping where the server stops and an engine has it.
        """
        model = grant.model.name
        first = self._router.pick(model, time.monotonic(), streamed=call.stream, size=call.prompt_bytes)
        try:
            return await self._try(head, call, grant, first, client, number=1)
        except EngineFailed as failure:
            second = self._another(model, first, call, client)
            if second is None:
                raise
            cause = failure
        self._observer.retried(model)
        worked = cause.cause not in {"connect", BUSY}
        tried = (*cause.tried, first.seat.replica.name) if worked else cause.tried
        try:
            outcome = await self._try(head, call, grant, second, client, number=2)
            return replace(outcome, attempts=2, tried=(*tried, *outcome.tried))
        except Refusal as refusal:
            refusal.tried = (*tried, *refusal.tried)
            if isinstance(refusal, EngineFailed):
                raise refusal from cause
            raise
        except asyncio.CancelledError:  # the server stops during the second connect: only the first one had the call
            stopping = Stopping()
            stopping.attempts, stopping.tried = 1, tried
            raise stopping from cause
        finally:
            del cause  # its traceback holds this frame: together they would keep the call's bodies until the collector

    def _another(self, model: str, first: Trip, call: Call, client: Client) -> Trip | None:
        """A second replica to try, if there is one, the retry budget allows it, and somebody still waits."""
        if client.gone:
            return None
        tried, size = first.seat.replica.name, call.prompt_bytes
        try:
            return self._router.pick(model, time.monotonic(), streamed=call.stream, size=size, tried=tried)
        except NoReplica:
            return None

    async def _try(self, head: Head, call: Call, grant: Grant, trip: Trip, client: Client, *, number: int) -> Outcome:
        """One try, reported to the router however it ends. A refusal says where that was, and which try."""
        cause: str | None = CANCELLED
        try:
            outcome = await self._relay.send(
                head, call, trip.seat.replica, client, partial(self._router.heard, trip), grant.extra
            )
            cause = CAUSES.get(outcome.ending) if outcome.code != InvalidRequest.code else None
        except Refusal as refusal:
            if not isinstance(refusal, Stopping):
                cause = refusal.cause if isinstance(refusal, EngineFailed) else None
            refusal.replica, refusal.attempts = trip.seat.replica.name, number
            raise
        else:
            return outcome
        finally:
            self._router.ended(call.model, trip, time.monotonic(), cause=cause)
