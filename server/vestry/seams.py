"""The seams: what a step asks of the outside, and what the outside does when it fails.

A few methods each. Failure modes are part of the interface: every seam says whether it fails
open or closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from vestry.errors import KeysUnavailable, Refusal
from vestry.types import Call, Document, Head, Key, Kind, Principal


class Credentials(Protocol):
    """Finds who shows a credential: a key, a token, a client certificate, or all of them. Fails closed.

    Both raise KeysUnavailable (or a subclass) where it cannot be told who holds it.
    """

    def known(self, head: Head) -> Principal | None:
        """The holder, if memory has an answer that holds for a request that arrived at `head.began`; never waits.

        None is no answer: ask `find`. What was revoked before the request arrived is not in memory any more, within
        the bounds that the store states.
        """

    async def find(self, head: Head) -> Principal | None:
        """The holder; None for a credential that was unknown, revoked, frozen or expired when the request arrived,
        or is used from where it may not be."""


class Freshness(Protocol):
    """Tells whether what is remembered of the directory still holds. Fails closed."""

    def epoch(self, arrived: float) -> int:
        """A number that is another one as soon as anything was changed before `arrived` (monotonic seconds).

        Never waits. What another process has changed shows within two seconds. Raises KeysUnavailable where changes
        could have been missed for longer than the settings allow.
        """


class Registry(Protocol):
    """What credentials ask of the directory, and tell it. Fails as it does."""

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        """One document."""

    async def identify_all(self, presented: Collection[str]) -> Mapping[str, Key | KeysUnavailable]:
        """The keys with these texts, by text, whatever their state. What is no key is not among them; for one that is
        kept as no program has written it there is the reason.
        """

    async def note_used(self, key_ids: Collection[str], moment: int) -> None:
        """Note when keys were last used (microseconds since the epoch). No change: no memory is emptied by it."""


class Directory(Registry, Protocol):
    """Tenants, projects, users, keys and policy. Fails closed: every method raises KeysUnavailable (`DirectoryFault`)
    where it cannot be read or written within its deadline.
    """

    async def standing(self) -> list[Document]:
        """All documents but users: what the whole server must know at any time."""

    async def page(self, kind: Kind, tenant: str | None, after: str, limit: int) -> list[Document]:
        """Documents of a tenant (None: of every one), by `tenant/name`, which comes after `after` in byte order."""

    async def key(self, key_id: str) -> Key | None:
        """One key, by its public id."""

    async def keys(self, tenant: str | None, after: str, limit: int) -> list[Key]:
        """Keys of a tenant (None: of every one), by id, in byte order."""

    def changing(self) -> AbstractAsyncContextManager[Change]:
        """One transaction. Durable when its block ends, and then known to every replica within two seconds; undone by
        whatever is raised in it, which passes on. Transactions do not overlap.
        """


class Change(Protocol):
    """What one transaction on the directory may do. Reads see what was written before in the same one."""

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None: ...

    async def names(self, kind: Kind, tenant: str, limit: int) -> list[str]:
        """Names of a tenant's documents, at most `limit`."""

    async def put(self, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> Document:
        """Write a document, new or changed; its version is one more than before, of a new one a number that no document
        of this name has had.
        """

    async def remove(self, kind: Kind, tenant: str, name: str) -> None: ...

    async def key(self, key_id: str) -> Key | None: ...

    async def keys(self, tenant: str, limit: int) -> list[Key]:
        """Keys of a tenant that are not revoked, at most `limit`."""

    async def members(self, tenant: str, project: str, limit: int) -> tuple[list[str], list[str]]:
        """Ids of keys that are not revoked, and names of users, that belong to a project; at most `limit` of each."""

    async def reaches_house(self, tenant: str, project: str) -> bool:
        """Whether a key of a project that is not revoked has a role of the house, or roles that nobody can read."""

    async def add_key(self, key: Key, secret: str) -> Key:
        """Keep a new key; of `secret` only a keyed hash is kept."""

    async def put_key(self, key: Key) -> Key:
        """Write a changed key, found by its id; its version is one more than before."""


class Structure(Struct, omit_defaults=True, kw_only=True):
    """A record of the audit log. A field that has its default is left out; the log sets `index` and `origin`.

    Whoever makes one answers for its values: integers within 2**53 - 1, and ASCII keys in what is a dict. A class of
    them has the fields that are named here, and all of its fields in the order of their names.
    """

    if TYPE_CHECKING:
        index: int = -1
        origin: str = ""
        request_id: str
        schema: int
        type: str


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

    @property
    def begun(self) -> bool:
        """Whether a stream has begun: its head, with the status, has been sent."""

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
        """True if an idle connection turned out to be closed, at once: most likely nothing was begun, nor lost."""


Pieces = tuple[bytes | memoryview, ...]
"""A body in pieces, so that a long one is put together once."""


class Engine(Protocol):
    """One replica of a model. Fails closed."""

    async def send(
        self,
        method: str,
        path: str,
        body: Pieces,
        exchange: Exchange,
        *,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Wire:
        """Send one request; its answer goes to `exchange`. `fresh` asks for a connection never used before.

        Raises EngineFailed with cause `connect`.
        """
