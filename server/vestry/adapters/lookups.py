"""Look-ups in the directory: only so many at once, and whoever asks for the same at one time gets the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from vestry.errors import KeysUnavailable

AT_ONCE = 8
WAIT_SECONDS = 2.0
Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")


class Lookups(Generic[Asked, Found]):
    """One event loop's. Who waits `wait_seconds` for a place is told that there is none."""

    def __init__(self, *, at_once: int = AT_ONCE, wait_seconds: float = WAIT_SECONDS) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._wait_seconds = wait_seconds
        self._asking: dict[Asked, asyncio.Task[Found]] = {}

    async def answer(self, asked: Asked, read: Callable[[], Awaitable[Found]]) -> Found:
        """What `read` finds; it is called once for all who ask for the same before it has ended.

        Raises KeysUnavailable, and what `read` raises.
        """
        task = self._asking.get(asked)
        if task is None:
            task = self._asking[asked] = asyncio.create_task(self._in_turn(read))

            def ended(task: asyncio.Task[Found]) -> None:
                del self._asking[asked]
                if not task.cancelled():
                    task.exception()  # whoever waited has it, or has gone

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _in_turn(self, read: Callable[[], Awaitable[Found]]) -> Found:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise KeysUnavailable from None
        try:
            return await read()
        finally:
            self._places.release()
