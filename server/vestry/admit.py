"""Admission: places and rates, for the server, a tenant and a key; all or nothing.

A rate is the generic cell rate algorithm (ITU-T I.371, virtual scheduling): an even flow of N a minute, of which a
whole minute's worth may come at once. A refused call uses nothing up. Times are monotonic seconds.
"""

from __future__ import annotations

from msgspec import Struct

from vestry.errors import ConcurrencyLimited, Overloaded, RateLimited
from vestry.types import Limits, Principal

WINDOW = 60.0
SMOOTHING = 0.1
LONGEST_WAIT = 60.0
"""Seconds that a refused caller is told to wait at most. Of several long calls one ends sooner; and OpenAI's clients
do not come back at all where they are told to wait for more than two minutes."""
PRUNE_AT = 10_000
TOLERANCE = 1e-6


class _Holder(Struct):
    """What one key or tenant uses: calls in progress, and the time at which its rate is used up to."""

    busy: int = 0
    used_until: float = 0.0


class Place(Struct, eq=False):
    """A place that is held, and given back at the end of its `with` block."""

    admission: Admission
    tenant: _Holder
    key: _Holder

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        self.admission.leave(self)


class Admission:
    """Counts calls in progress and begun, in this process."""

    def __init__(self, *, server_concurrency: int) -> None:
        self._most = server_concurrency
        self._busy = 0
        self._tenants: dict[str, _Holder] = {}
        self._keys: dict[str, _Holder] = {}
        self._usual_seconds = 1.0
        self._prune_at = PRUNE_AT

    @property
    def busy(self) -> int:
        """Calls in progress."""
        return self._busy

    def place(self, principal: Principal, tenant_limits: Limits, now: float) -> Place:
        """Take a place, to be held by `with`. Raises RateLimited, ConcurrencyLimited or Overloaded."""
        if self._busy >= self._most:
            raise Overloaded(retry_after=min(self._usual_seconds, LONGEST_WAIT))
        if len(self._keys) >= self._prune_at:
            self._prune(now)
        tenant = self._tenants.get(principal.tenant) or self._tenants.setdefault(principal.tenant, _Holder())
        key = self._keys.get(principal.key_id) or self._keys.setdefault(principal.key_id, _Holder())
        limits = principal.limits
        if _full(tenant, tenant_limits) or _full(key, limits):
            raise ConcurrencyLimited(retry_after=min(self._usual_seconds, LONGEST_WAIT))
        tenant_use, key_use = _used_until(tenant, tenant_limits, now), _used_until(key, limits, now)
        wait = max(tenant_use, key_use) - now - WINDOW
        if wait > TOLERANCE:
            raise RateLimited(retry_after=wait - TOLERANCE)
        tenant.used_until, key.used_until = tenant_use, key_use
        self._busy += 1
        tenant.busy += 1
        key.busy += 1
        return Place(self, tenant, key)

    def leave(self, place: Place) -> None:
        """Give a place back."""
        self._busy -= 1
        place.tenant.busy -= 1
        place.key.busy -= 1

    def lasted(self, seconds: float) -> None:
        """Learn how long calls take: what a refused caller is told to wait for."""
        self._usual_seconds += SMOOTHING * (seconds - self._usual_seconds)

    def _prune(self, now: float) -> None:
        """Forget holders that use nothing; look again when there are twice as many as are left."""
        self._tenants = _in_use(self._tenants, now)
        self._keys = _in_use(self._keys, now)
        self._prune_at = max(PRUNE_AT, 2 * len(self._keys))


def _in_use(holders: dict[str, _Holder], now: float) -> dict[str, _Holder]:
    return {name: held for name, held in holders.items() if held.busy or held.used_until > now}


def _full(holder: _Holder, limits: Limits) -> bool:
    return limits.concurrency is not None and holder.busy >= limits.concurrency


def _used_until(holder: _Holder, limits: Limits, now: float) -> float:
    """The time at which its rate would be used up to with one call more; the past where it has no rate."""
    if limits.requests_per_minute is None:
        return 0.0
    return max(holder.used_until, now) + WINDOW / limits.requests_per_minute
