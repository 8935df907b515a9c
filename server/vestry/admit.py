"""Admission: places and rates, for the server, a tenant and a key; all or nothing.

A rate is the generic cell rate algorithm (ITU-T I.371, virtual scheduling): an even flow of N a minute, of which a
whole minute's worth may come at once. A refused call uses nothing up. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from vestry.errors import ConcurrencyLimited, Overloaded, RateLimited
from vestry.types import Limits, Principal

WINDOW = 60.0
SMOOTHING = 0.1
PRUNE_AT = 10_000


class _Holder(Struct):
    """What one key or tenant uses: calls in progress, and the time at which its rate is used up to."""

    busy: int = 0
    used_until: float = 0.0


class Admission:
    """Counts calls in progress and begun, in this process."""

    def __init__(self, *, server_concurrency: int) -> None:
        self._most = server_concurrency
        self._busy = 0
        self._holders: dict[tuple[str, str], _Holder] = {}
        self._usual_seconds = 1.0

    @property
    def busy(self) -> int:
        """Calls in progress."""
        return self._busy

    @contextmanager
    def place(self, principal: Principal, tenant_limits: Limits, now: float) -> Iterator[None]:
        """Hold a place while the call lasts. Raises RateLimited, ConcurrencyLimited or Overloaded."""
        if self._busy >= self._most:
            raise Overloaded(retry_after=self._usual_seconds)
        tenant = self._holder(("tenant", principal.tenant), now)
        key = self._holder(("key", principal.key_id), now)
        self._check(tenant, tenant_limits, now)
        self._check(key, principal.limits, now)
        _use(tenant, tenant_limits, now)
        _use(key, principal.limits, now)
        self._busy += 1
        tenant.busy += 1
        key.busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            tenant.busy -= 1
            key.busy -= 1

    def lasted(self, seconds: float) -> None:
        """Learn how long calls take: what a refused caller is told to wait for."""
        self._usual_seconds += SMOOTHING * (seconds - self._usual_seconds)

    def _holder(self, name: tuple[str, str], now: float) -> _Holder:
        holder = self._holders.get(name)
        if holder is None:
            if len(self._holders) >= PRUNE_AT:
                self._holders = {
                    each: held for each, held in self._holders.items() if held.busy or held.used_until > now
                }
            holder = self._holders[name] = _Holder()
        return holder

    def _check(self, holder: _Holder, limits: Limits, now: float) -> None:
        if limits.concurrency is not None and holder.busy >= limits.concurrency:
            raise ConcurrencyLimited(retry_after=self._usual_seconds)
        if limits.requests_per_minute is not None:
            interval = WINDOW / limits.requests_per_minute
            wait = max(holder.used_until, now) + interval - now - WINDOW
            if wait > 1e-6:
                raise RateLimited(retry_after=wait)


def _use(holder: _Holder, limits: Limits, now: float) -> None:
    if limits.requests_per_minute is not None:
        holder.used_until = max(holder.used_until, now) + WINDOW / limits.requests_per_minute
