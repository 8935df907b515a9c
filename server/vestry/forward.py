"""Forwarding: routing decides, the relay sends; a failure before the first byte may be tried once elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from msgspec.structs import replace

from vestry.errors import EngineFailed, NoReplica, Refusal
from vestry.relay import Relay
from vestry.route import Router, Trip
from vestry.seams import Client
from vestry.types import Call, Ending, Grant, Head, Outcome

MOST_TRIES = 2


class RetryObserver(Protocol):
    """Counts second tries."""

    def retried(self, model: str) -> None: ...


class Forward:
    """Takes a call to a replica, or to a second one."""

    def __init__(self, router: Router, relay: Relay, observer: RetryObserver) -> None:
        self._router, self._relay, self._observer = router, relay, observer

    async def __call__(self, head: Head, call: Call, grant: Grant, client: Client) -> Outcome:
        """The outcome at the replica that answered.

        Raises NoReplica, EngineFailed, EngineTimeout, or InvalidRequest where the engine found the request wrong.
        """
        model = grant.model.name
        tried: tuple[str, ...] = ()
        failure: EngineFailed | None = None
        while True:
            try:
                trip = self._router.pick(model, time.monotonic(), streamed=call.stream, tried=tried)
            except NoReplica:
                raise failure or NoReplica(retry_after=1.0) from None
            tried = (*tried, trip.seat.replica.name)
            try:
                return replace(await self._try(head, call, model, trip, client), attempts=len(tried))
            except EngineFailed as fault:
                failure = fault
                if len(tried) >= MOST_TRIES or client.gone or not self._router.may_retry(model):
                    raise
                self._observer.retried(model)

    async def _try(self, head: Head, call: Call, model: str, trip: Trip, client: Client) -> Outcome:
        """One try, reported to the router however it ends."""
        cause: str | None = "cancelled"
        try:
            outcome = await self._relay.send(
                head, call, trip.seat.replica, client, lambda: self._router.heard(trip, time.monotonic())
            )
            cause = "stream" if outcome.ending is Ending.TRUNCATED else None
        except EngineFailed as failure:
            cause = failure.cause
            raise
        except Refusal:
            cause = None
            raise
        else:
            return outcome
        finally:
            self._router.ended(model, trip, time.monotonic(), cause=None if cause == "cancelled" else cause)
