"""The side of a connection that is answered: a client that does not read is dropped, one that leaves is told of, and a
last answer arrives before the connection ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from vestry.timer import Timer

LINGER_SECONDS = 1.0
LEAST_READ = 262_144
"""Bytes that a client with a full buffer must take in within `reader_seconds`, where it does not take them all."""


class Answered(HttpToolsProtocol):
    """uvicorn's protocol, with a clock for readers."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
        *,
        reader_seconds: float,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._reader_seconds = reader_seconds
        self._slow: Timer | None = None
        self._unread = 0
        self._on_leave: Callable[[], None] | None = None
        self._on_pause: Callable[[bool], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._slow is not None:
            self._slow.cancel()
        super().connection_lost(exc)
        if self._on_leave is not None:
            leave, self._on_leave = self._on_leave, None
            leave()

    def _reader_late(self) -> None:
        """A buffer was full for so long: whoever reads steadily may go on, for a large answer takes its time."""
        self._slow = None
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        if before - self._unread >= LEAST_READ:
            self._slow = Timer(self.loop, self._reader_seconds, self._reader_late)
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._slow = Timer(self.loop, self._reader_seconds, self._reader_late)
        if self._on_pause is not None:
            self._on_pause(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        self.flow.resume_reading()
        if self._on_pause is not None:
            self._on_pause(False)

    def linger(self) -> None:
        """Close so that the answer arrives: stop sending, drop what still comes, and hang up within a second.

        Closing at once with unread bytes would reset the connection, and the client would lose the answer.
        """
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self._hang_up, math.inf)
        else:
            self.transport.close()

    def _hang_up(self, before: float) -> None:
        """Hang up, unless an answer is still being read: there were more unread bytes a second `before`."""
        unread = self.transport.get_write_buffer_size()
        if unread and (self._slow is not None or unread < before):  # the first has a clock of its own
            self.loop.call_later(LINGER_SECONDS, self._hang_up, unread)
        else:
            self.transport.abort()

    def watch(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        """Call `on_leave` once when the client goes, `on_pause` when it stops (True) and goes on (False) reading."""
        self._on_leave, self._on_pause = on_leave, on_pause
        self.flow.resume_reading()
        if self.flow.write_paused:
            on_pause(True)

    def unwatch(self) -> None:
        self._on_leave = self._on_pause = None
