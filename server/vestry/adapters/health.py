"""Health checks of the replicas: `GET /health`, one task for all, no more than one check a replica at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from vestry.adapters.asking import ask
from vestry.errors import EngineFailed
from vestry.seams import Engine

LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 5.0  # an engine that computes on all cores is late, not dead; a dead one refuses at once


class Verdicts(Protocol):
    """Hears how the replicas are."""

    def probed(self, model: str, replica: str, *, healthy: bool) -> None: ...

    def look(self, now: float) -> None: ...


class _Check:
    """Implements seams.Exchange for one health check."""

    ended = False

    def __init__(self) -> None:
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._status = 0

    def on_head(self, status: int, content_type: bytes) -> None:  # noqa: ARG002 - the seam's shape
        self._status = status

    def on_data(self, data: bytes) -> None:
        """What a health check says beyond its status is not read."""

    def on_end(self, error: str | None) -> None:
        self.ended = True
        if not self.over.done():
            self.over.set_result(error is None and self._status == 200)


async def check(engine: Engine, seconds: float) -> bool:
    """True if the engine says within `seconds` that it is well."""
    try:
        async with asyncio.timeout(seconds):
            answer, _ = await ask(engine, "/health", _Check)
            return answer.over.result()
    except (EngineFailed, TimeoutError):
        return False


class HealthChecks:
    """Asks every replica again and again, and lets the router look for slow ones in between."""

    def __init__(
        self,
        replicas: Mapping[tuple[str, str], Engine],
        verdicts: Verdicts,
        *,
        seconds: float,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._replicas = replicas
        self._verdicts = verdicts
        self._seconds = seconds
        self._patience = patience

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for (model, replica), engine in self._replicas.items():
                group.create_task(self._ask(model, replica, engine))
            group.create_task(self._look())

    async def _ask(self, model: str, replica: str, engine: Engine) -> None:
        while True:
            healthy = await check(engine, max(self._patience, self._seconds))
            self._verdicts.probed(model, replica, healthy=healthy)
            await asyncio.sleep(self._seconds)

    async def _look(self) -> None:
        while True:
            self._verdicts.look(time.monotonic())
            await asyncio.sleep(LOOK_SECONDS)
