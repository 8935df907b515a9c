"""Look-ups in the directory: only so many at once, and whoever asks for the same at one time gets the same answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

from vestry.errors import KeysUnavailable
from vestry.timer import Timer

AT_ONCE = 8
TOGETHER = 256
WAIT_SECONDS = 2.0
Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")


class Lookups(Generic[Asked, Found]):
    """One event loop's. `read` tells of many at a time: what is asked while it is busy, `at_once` times, waits and is
    read together, so that a flood of questions costs few reads. `read` begins after each of its questions was asked. It
    leaves out of its answers what there is not, and may answer one question with what the others need not suffer.

    Who waits `wait_seconds` for a turn is told that there is none.
    """

    def __init__(
        self,
        read: Callable[[Collection[Asked]], Awaitable[Mapping[Asked, Found | KeysUnavailable]]],
        *,
        at_once: int = AT_ONCE,
        together: int = TOGETHER,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._read, self._at_once, self._together, self._wait_seconds = read, at_once, together, wait_seconds
        self._asking: dict[Asked, asyncio.Future[Found | None]] = {}
        self._waiting: deque[tuple[Asked, asyncio.Future[Found | None], Timer]] = deque()
        self._turns: set[asyncio.Task[None]] = set()

    async def answer(self, asked: Asked) -> Found | None:
        """What there is; read once for all who ask for the same before it was told.

        Raises KeysUnavailable, and what `read` raises.
        """
        answer = self._asking.get(asked)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._asking[asked] = loop.create_future()
            timer = Timer(loop, self._wait_seconds, lambda: self._tell(asked, KeysUnavailable()))
            self._waiting.append((asked, answer, timer))
            if len(self._turns) < self._at_once:
                turn = loop.create_task(self._take_turns())
                self._turns.add(turn)
                turn.add_done_callback(self._turns.discard)
        return await asyncio.shield(answer)

    async def _take_turns(self) -> None:
        """Read what waits, as long as something does."""
        while batch := self._next():
            found: Mapping[Asked, Found | Exception]
            try:
                found = await self._read(batch)
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked
                found = dict.fromkeys(batch, error)
            for asked in batch:
                self._tell(asked, found.get(asked))

    def _next(self) -> list[Asked]:
        batch: list[Asked] = []
        while self._waiting and len(batch) < self._together:
            asked, answer, timer = self._waiting.popleft()
            timer.cancel()
            if self._asking.get(asked) is answer:  # else it came too late, and may have been asked again since
                batch.append(asked)
        return batch

    def _tell(self, asked: Asked, found: Found | Exception | None) -> None:
        answer = self._asking.pop(asked)
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()  # whoever waited has it, or has gone
        else:
            answer.set_result(found)
