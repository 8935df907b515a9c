"""The seams: what a step asks of the outside, and what the outside does when it fails.

At most three methods each. Failure modes are part of the interface: every seam says whether it fails
open or closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from vestry.types import Call, Head, Principal, Usage


class KeyStore(Protocol):
    """Finds who holds an API key. Fails closed."""

    def find(self, presented: str) -> Principal | None:
        """The key's holder; None for a key that is unknown, revoked or expired, at this very moment.

        Raises KeysUnavailable where the store cannot be read.
        """


class Journal(Protocol):
    """The record. Fails closed: what is not durable is not served."""

    def append(self, record: Mapping[str, Any]) -> Awaitable[None]:
        """Write one record. It is fully persisted (fdatasync) when the awaitable returns.

        Raises AuditUnavailable if it could not be made durable within the deadline; it may then be in the
        log all the same ("failed but persisted"), never the other way round.
        """

    @property
    def healthy(self) -> bool:
        """False from a failed or overdue write until a write has succeeded again."""


class Arrival(Protocol):
    """One request at the edge."""

    head: Head

    async def call(self) -> Call:
        """Read and parse the body. Raises a Refusal."""


class Client(Protocol):
    """The caller's end of a streamed answer. All three methods are synchronous: no task per chunk."""

    def start(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        """Watch the caller: `on_leave` is called once if it goes, `on_pause(True)` when it reads too slowly."""

    def write(self, chunk: bytes) -> None:
        """Send the next bytes of the stream at once; the first call sends the response's head."""

    @property
    def gone(self) -> bool:
        """True once the caller has closed the connection."""


class Exchange(Protocol):
    """Receives one engine answer as it arrives; called by the upstream connection, synchronously."""

    def on_head(self, status: int, content_type: bytes) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self, error: str | None) -> None:
        """Called once. `error` is None for an answer that ended as HTTP says, else why it did not."""


class TokenCounter(Protocol):
    """Estimates tokens where the engine had no chance to count them."""

    def estimate(self, call: Call, events: int) -> Usage: ...
