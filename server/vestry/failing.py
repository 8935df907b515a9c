"""What an operator is told of calls that fail at engines: nobody else learns more than that an engine failed."""

from __future__ import annotations

import logging
import time

from vestry.errors import EngineFailed, EngineTimeout
from vestry.faults import cause_of

log = logging.getLogger("vestry")
CODES = frozenset({EngineFailed.code, EngineTimeout.code})
AGAIN_SECONDS = 60.0


class Failing:
    """Says why calls fail at a replica: each reason once in AGAIN_SECONDS, however many calls fail."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def say(self, replica: str, why: str, refusal: EngineFailed | None = None) -> None:
        """`why` in words of ours: an engine's own may repeat the prompt. Of a connection `refusal` knows more."""
        if refusal is not None and refusal.cause == "connect" and refusal.__cause__ is not None:
            why = f"it cannot be connected to ({cause_of(refusal.__cause__)})"
        now = time.monotonic()
        if now - self._said.get((replica, why), -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._said[replica, why] = now
            log.warning("a call to the engine %s failed: %s", replica, why)
