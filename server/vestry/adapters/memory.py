"""Principals by what they showed, in memory: bounded, and good only as long as the directory has not changed.

A credential is known by a hash, salted at random for this process: a dump of the memory holds no secret.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable

from msgspec import Struct

from vestry.seams import Freshness
from vestry.types import Principal

MOST = 16_384


def wall() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class _Held(Struct, frozen=True):
    principal: Principal
    expires: int | None
    until: float


class Memory:
    """What has been found out before. One thread's."""

    def __init__(self, freshness: Freshness, *, most: int = MOST, clock: Callable[[], int] = wall) -> None:
        self._freshness, self._most, self._clock = freshness, most, clock
        self._salt = os.urandom(16)
        self._held: dict[bytes, _Held] = {}
        self._epoch = -1

    def get(self, shown: bytes, arrived: float) -> Principal | None:
        """Whose credential this is, if that holds for a request that arrived then. Raises KeysUnavailable."""
        if self._freshness.epoch(arrived) != self._epoch:
            self._held.clear()
            return None
        held = self._held.get(self._name(shown))
        if held is None or held.until <= arrived or (held.expires is not None and held.expires <= self._clock()):
            return None
        return held.principal

    def put(
        self, shown: bytes, principal: Principal, expires: int | None, epoch: int, *, until: float = math.inf
    ) -> None:
        """Remember it, unless the directory has changed since `epoch`, which was asked for before it was looked up.

        `expires` is in microseconds since the epoch of the wall clock; None never. `until` is of the monotonic clock,
        as `arrived` is: what holds for so long holds no longer because the wall clock is set back.
        """
        if epoch != self._epoch:
            self._held.clear()
            self._epoch = epoch
        if len(self._held) >= self._most:
            del self._held[next(iter(self._held))]
        self._held[self._name(shown)] = _Held(principal, expires, until)

    def _name(self, shown: bytes) -> bytes:
        return hashlib.sha256(self._salt + shown).digest()  # a token is long, and processors do this one themselves
