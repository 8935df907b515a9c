"""One question to an engine that is not a call: its health, its counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from vestry.seams import Engine, Exchange, Wire


class Answer(Exchange, Protocol):
    """Receives the answer. `over` is done once there is nothing more to wait for; `ended` is set by `on_end`: from then
    on the wire may be another's, and is not touched any more."""

    over: asyncio.Future[Any]
    ended: bool


A = TypeVar("A", bound=Answer)


async def ask(engine: Engine, path: str, make: Callable[[], A]) -> tuple[A, Wire]:
    """GET `path`; what `make` made to receive the answer, and the wire it came on. Raises EngineFailed.

    An idle connection that was closed meanwhile says nothing of the engine: it is asked again, on a fresh one.
    """
    answer, wire = await _once(engine, path, make(), fresh=False)
    return await _once(engine, path, make(), fresh=True) if wire.stale else (answer, wire)


async def _once(engine: Engine, path: str, answer: A, *, fresh: bool) -> tuple[A, Wire]:
    wire = await engine.send("GET", path, (), answer, fresh=fresh)
    try:
        await answer.over
    except asyncio.CancelledError:
        if not answer.ended:
            wire.close()
        raise
    return answer, wire
