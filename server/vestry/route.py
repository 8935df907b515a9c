"""Routing: which replica of a model gets the next call. Decides only; it opens nothing and waits for nothing.

Rules:
- Least calls in progress first; among equals the one that was chosen longest ago.
- A replica is *down* when it cannot be connected to or its health check fails; it is up again when a check succeeds.
  All of them may be down; then the answer is 503 at once.
- A replica is *ejected*, for a while, by its outcomes: failures in a row, or first bytes far later than its peers'.
  A long prompt takes an engine its time, and what comes behind it waits: that is allowed for.
  The last one in service is never ejected. After its time it gets one call; the first byte of a stream, or a success,
  brings it back. If there is no other, it gets every call at once, before its time too: a slow or failing replica is
  better than none. Calls from before an ejection have no part in this.
- A call that its client gave up says nothing of the replica. One that it did not take because it is busy says that the
  others are to be asked first, for a moment.
- Second tries are limited to a share of recent calls, so that a failing model is not sent double the load. Calls that a
  busy replica did not take are no load, and are tried elsewhere beyond that.

All times are `time.monotonic()` seconds, given by the caller.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from msgspec import Struct

from vestry.errors import BUSY, NoReplica
from vestry.types import Replica, ServedModel

FAILURES_IN_A_ROW = 2
EJECT_SECONDS = 2.0
EJECT_LONGEST = 30.0
SLOW_FACTOR = 5.0
SLOW_FLOOR = 0.5
SLOW_EVIDENCE = 2
LIGHT = 4096
"""Bytes of a prompt, about 1,000 tokens, that no other call waits for to speak of. A longer one is given the time of as
many of these as it has."""
HEAVIEST = 16.0
"""Times that of a light prompt, however many long ones there are: else what waits behind them at an engine that hangs
would be no evidence for minutes."""
MISSED_CHECKS = 2
SMOOTHING = 0.3
BUDGET_CAP = 10.0
BUSY_SECONDS = 1.0
CANCELLED = "cancelled"


class RouteObserver(Protocol):
    """Counts what routing decides."""

    def ejected(self, model: str, replica: str, cause: str) -> None: ...


class Trip(Struct, eq=False):
    """One call's stay at one replica."""

    seat: Seat
    began: float
    weight: float = 1.0
    """How many times later than else its first byte may come: by the long prompts that the replica has before it."""
    heavy: int = 0
    """Bytes beyond a light prompt's, until its first byte has come."""


class Seat:
    """What is known of one replica of one model."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.outstanding = 0
        self.chosen = 0.0
        self.busy_until = 0.0
        self.down = False
        self.known = False
        self.missed = 0
        self.failures = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.on_trial = False
        self.trial: Trip | None = None
        self.first_byte: float | None = None
        self.light_byte: float | None = None  # the same with long prompts allowed for
        self.heavy = 0
        self.waiting: dict[Trip, None] = {}

    @property
    def busy_on_trial(self) -> bool:
        """True while its one call after an ejection has shown nothing yet."""
        return self.on_trial and self.trial is not None

    def in_service(self, now: float) -> bool:
        """True if it may get a call now."""
        return not self.down and now >= self.ejected_until


class Router:
    """The replicas of all models."""

    def __init__(self, models: Iterable[ServedModel], *, retry_budget: float, observer: RouteObserver) -> None:
        self._seats = {model.name: [Seat(replica) for replica in model.replicas] for model in models}
        self._share = retry_budget
        self._budget = dict.fromkeys(self._seats, BUDGET_CAP if retry_budget else 0.0)
        self._observer = observer

    @property
    def seats(self) -> dict[str, list[Seat]]:
        """For metrics and readiness; not to be changed."""
        return self._seats

    def available(self, model: str, now: float) -> bool:
        """True if a call to this model could be sent on now, to a replica that has been heard from."""
        return any(seat.known for seat in self.serving(model, now))

    def serving(self, model: str, now: float) -> list[Seat]:
        """Those that get calls now: in service; where none is, those that are ejected and not down."""
        seats = self._seats[model]
        return [seat for seat in seats if not seat.down and now >= seat.ejected_until] or [
            seat for seat in seats if not seat.down
        ]

    def pick(self, model: str, now: float, *, streamed: bool, size: int = 0, tried: str | None = None) -> Trip:
        """Choose a replica for a prompt of `size` bytes; after a failure at `tried` another, if the budget allows it.
        Raises NoReplica.
        """
        if tried is not None and self._budget[model] < 1.0:
            raise NoReplica(retry_after=1.0)
        there = self.serving(model, now)
        if tried is not None:
            there = [seat for seat in there if seat.replica.name != tried]
        if not there:
            raise NoReplica(retry_after=1.0)
        seat = there[0]
        if len(there) > 1:
            seat = min([seat for seat in there if not seat.busy_on_trial] or there, key=partial(_load, now))
        seat.outstanding += 1
        seat.chosen = now
        budget = self._budget[model] + (self._share if tried is None else -1.0)
        self._budget[model] = min(BUDGET_CAP, budget)
        heavy = max(0, size - LIGHT)
        seat.heavy += heavy
        trip = Trip(seat, now, min(HEAVIEST, 1.0 + seat.heavy / LIGHT), heavy)
        if seat.on_trial and seat.trial is None and now >= seat.ejected_until:
            seat.trial = trip
        if streamed:
            seat.waiting[trip] = None
        return trip

    def heard(self, trip: Trip, now: float) -> None:
        """The first byte of a call has come."""
        seat = trip.seat
        self._lighten(trip)
        if seat.waiting.pop(trip, trip) is trip:
            return
        seat.on_trial = False
        seconds = now - trip.began
        seat.first_byte = _smoothed(seat.first_byte, seconds)
        seat.light_byte = _smoothed(seat.light_byte, seconds / trip.weight)

    def ended(self, model: str, trip: Trip, now: float, *, cause: str | None) -> None:
        """A call is over; `cause`: why the replica failed, None if it did not, CANCELLED or BUSY if nobody knows."""
        seat = trip.seat
        seat.outstanding -= 1
        self._lighten(trip)
        seat.waiting.pop(trip, None)
        on_trial = seat.on_trial and trip.began >= seat.ejected_until
        if trip is seat.trial:
            seat.trial = None
        if cause == BUSY:
            seat.busy_until = now + BUSY_SECONDS
            self._budget[model] += bool(self._share)
        if cause in {CANCELLED, BUSY}:
            return
        if cause is None:
            seat.failures = 0
            if on_trial:
                seat.on_trial = False
            elif seat.ejections and now - seat.ejected_until > EJECT_LONGEST:
                seat.ejections = 0
            return
        seat.failures += 1
        if cause == "connect":
            self._set_down(model, seat)
        elif seat.failures >= FAILURES_IN_A_ROW or on_trial:
            self._eject(model, seat, now, cause)

    @staticmethod
    def _lighten(trip: Trip) -> None:
        """Nobody waits for this prompt any more."""
        trip.seat.heavy -= trip.heavy
        trip.heavy = 0

    def probed(self, model: str, replica: str, *, healthy: bool) -> None:
        """A health check has ended."""
        for seat in self._seats[model]:
            if seat.replica.name != replica:
                continue
            seat.known = seat.known or healthy
            if healthy:
                seat.missed = 0
                seat.down = False
            else:
                seat.missed += 1
                if seat.missed >= MISSED_CHECKS:
                    self._set_down(model, seat)

    def look(self, now: float) -> None:
        """Eject replicas whose first bytes come far later than their peers'. Called a few times a second."""
        for model, seats in self._seats.items():
            if len(seats) < 2:
                continue
            for seat in seats:
                if seat.in_service(now) and self._is_slow(seat, seats, now):
                    self._eject(model, seat, now, "slow")

    @staticmethod
    def _is_slow(seat: Seat, seats: list[Seat], now: float) -> bool:
        """Slow as measured, and with long prompts allowed for: peers that had those seem faster then than they are."""
        peers = [each for each in seats if each is not seat]
        bound, light = _bound(each.first_byte for each in peers), _bound(each.light_byte for each in peers)
        overdue = sum(now - trip.began > max(bound, light * trip.weight) for trip in seat.waiting)
        return overdue >= SLOW_EVIDENCE or ((seat.first_byte or 0) > bound and (seat.light_byte or 0) > light)

    def _set_down(self, model: str, seat: Seat) -> None:
        if not seat.down:
            seat.down = True
            self._observer.ejected(model, seat.replica.name, "down")

    def _eject(self, model: str, seat: Seat, now: float, cause: str) -> None:
        others = [each for each in self._seats[model] if each is not seat and each.in_service(now)]
        if not others or now < seat.ejected_until:
            return
        seat.ejected_until = now + min(EJECT_LONGEST, EJECT_SECONDS * 2**seat.ejections)
        seat.ejections += 1
        seat.failures = 0
        seat.first_byte = seat.light_byte = None
        seat.waiting.clear()
        seat.on_trial, seat.trial = True, None
        self._observer.ejected(model, seat.replica.name, cause)


def _load(now: float, seat: Seat) -> tuple[bool, int, float]:
    return now < seat.busy_until, seat.outstanding, seat.chosen


def _smoothed(known: float | None, seconds: float) -> float:
    return seconds if known is None else known + SMOOTHING * (seconds - known)


def _bound(peers: Iterable[float | None]) -> float:
    """What is slow beside these: nothing, where nothing is known of any."""
    known = [each for each in peers if each is not None]
    return max(SLOW_FLOOR, SLOW_FACTOR * statistics.median(known)) if known else math.inf
