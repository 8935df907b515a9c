"""A timer that does not count what this process stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

STOOD_STILL_SECONDS = 0.05


class Timer:
    """Calls `over` after `seconds`, unless it is cancelled. Where this process stood still when they were over (its
    machine was paused) they are given once more: what a client sent meanwhile is still on its way, and it is not to
    blame.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, over: Callable[[], None]) -> None:
        self._loop, self._seconds, self._over = loop, seconds, over
        self._timer = loop.call_later(seconds, self._end, time.monotonic() + seconds)

    def cancel(self) -> None:
        self._timer.cancel()

    def _end(self, due: float) -> None:
        if abs(time.monotonic() - due) > STOOD_STILL_SECONDS:  # a busy loop is before its time, too
            self._timer = self._loop.call_later(self._seconds, self._over)
        else:
            self._over()
