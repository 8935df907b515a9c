"""The seams: what a step asks of the outside, and what the outside does when it fails.

A few methods each. Failure modes are part of the interface: every seam says whether it fails
open or closed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from msgspec import Struct

from vestry.errors import Refusal
from vestry.types import Call, Head, Principal


class KeyStore(Protocol):
    """Finds who holds an API key. Fails closed."""

    def find(self, presented: str, arrived: float = math.inf) -> Principal | None:
        """The key's holder; None for a key that was unknown or revoked when the call arrived, or is expired.

        `arrived` is by the monotonic clock; where it is not given, whatever has been changed until now counts.

        Raises KeysUnavailable where the store cannot be read.
        """


class Structure(Struct, omit_defaults=True, kw_only=True):
    """A record of the audit log. A field that has its default is left out; the log sets `index` and `origin`.

    Whoever makes one answers for its values: integers within 2**53 - 1, and ASCII keys in what is a dict.
    """

    type: str
    schema: int
    index: int = -1
    origin: str = ""
    request_id: str

    if TYPE_CHECKING:  # every Struct has it

        def __copy__(self) -> Self: ...


Record = Mapping[str, Any] | Structure


class Journal(Protocol):
    """The record. Fails closed: what is not durable is not served."""

    def append(self, record: Record) -> Awaitable[None]:
        """Write one record. It is fully persisted (fdatasync) when the awaitable returns, and belongs to the journal.

        Raises AuditUnavailable if it could not be made durable within the deadline; it may then be in the
        log all the same ("failed but persisted"), never the other way round.
        """

    @property
    def healthy(self) -> bool:
        """False from a failed or overdue write until a write has succeeded again."""


class Client(Protocol):
    """The caller's end of an answer in progress. Synchronous: no task per chunk."""

    def start(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        """Watch the caller: `on_leave` is called once if it goes, `on_pause(True)` when it reads too slowly."""

    def write(self, chunk: bytes) -> None:
        """Send the next bytes of a stream at once; the first call sends the response's head."""

    @property
    def gone(self) -> bool:
        """True once the caller has closed the connection."""


class Visitor(Client, Protocol):
    """One request at the edge: what it asks, and how it is answered."""

    head: Head

    async def call(self) -> Call:
        """Read and parse the body. Raises a Refusal."""

    async def finish(self, last: bytes, *, streamed: bool) -> None:
        """Send the end of a stream, or the whole of an answer in one piece."""

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: a response of its own, or the last event of a stream that has begun."""


class Exchange(Protocol):
    """Receives one engine answer as it arrives; called by the upstream connection, synchronously."""

    def on_head(self, status: int, content_type: bytes) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self, error: str | None) -> None:
        """Called once. `error` is None for an answer that ended as HTTP says, else why it did not."""


class Wire(Protocol):
    """One exchange in progress with an engine."""

    def pause(self, paused: bool) -> None:
        """Stop (True) or go on (False) reading: how a slow client slows the engine's stream."""

    def close(self) -> None:
        """Give the exchange up at once. The Exchange hears nothing more; the engine stops working on it."""

    @property
    def stale(self) -> bool:
        """True if an idle connection turned out to be closed: nothing was answered, and nothing was lost."""


class Engine(Protocol):
    """One replica of a model. Fails closed."""

    async def send(
        self,
        method: str,
        path: str,
        body: bytes,
        exchange: Exchange,
        *,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Wire:
        """Send one request; its answer goes to `exchange`. `fresh` asks for a connection never used before.

        Raises EngineFailed with cause `connect`.
        """
