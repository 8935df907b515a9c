"""`vestry serve` with the record off, which no setting can do: what the record costs is the difference to the real one.

Records are neither built, nor written, nor held against the engines' counters. All else is as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from vestry.audit.log import AuditLog
from vestry.cli import main
from vestry.composition import recording
from vestry.record import Recorder
from vestry.seams import Record


def done() -> Awaitable[None]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


class Nothing(AuditLog):
    """A journal that acknowledges at once, and keeps nothing."""

    healthy = True
    size = 0
    origins = ["server"]  # noqa: RUF012 - as the log's own

    def __init__(self) -> None: ...

    @classmethod
    def open(cls, *_: Any, **__: Any) -> Nothing:
        return cls()

    def append(self, record: Record) -> Any:
        return done()

    def checkpoint(self) -> None: ...

    async def close(self) -> None: ...


class Silent(Recorder):
    """Builds no record of a call."""

    def intent(self, *_: Any) -> Awaitable[None]:
        return done()

    def outcome(self, *_: Any) -> Awaitable[None]:
        return done()


if __name__ == "__main__":
    vars(recording).update(AuditLog=Nothing, Recorder=Silent)
    main()
