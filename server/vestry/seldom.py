"""Saying a thing now and then in the log, however often there is cause."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable

AGAIN_SECONDS = 60.0


class Seldom:
    """Remembers what was said, and when."""

    def __init__(self) -> None:
        self._said: dict[Hashable, float] = {}

    def due(self, what: Hashable, again: float = AGAIN_SECONDS) -> bool:
        """Whether this is to be said now: for the first time, or `again` seconds after it was said last."""
        now = time.monotonic()
        if now - self._said.get(what, -math.inf) < again:
            return False
        self._said[what] = now
        return True
