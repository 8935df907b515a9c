"""What a sink is: a place outside of the log that keeps its checkpoints.

Rules:
1. `deliver` returns once the sink has the item, durably as far as the sink promises that. Doing it again does no harm.
2. Every call ends within the sink's own deadline, whatever the other side does, and takes bounded memory. Only a file
   system that hangs (a dead NFS server) cannot be given one; so nobody but a sink's own thread waits for it.
3. What the other side says is never shown as it came: sentences hold our own words, sizes, status codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey, split

NOTE_LIMIT = 65_536
"""The largest note that is taken from a sink, in bytes; ours have about 300."""


LOOKED_AT = 16
"""So many notes are looked at where the newest checkpoint stands, and more while none of them is one of the log's."""


class Item(Struct, frozen=True):
    """A signed note on its way: a checkpoint, or the registry of origins."""

    kind: Literal["checkpoint", "registry"]
    note: str
    anew: bool = False
    """To be delivered though it was the last of its kind that was: the place may be a new one."""

    def head(self) -> Checkpoint:
        """What a checkpoint says. Raises NoteRefused."""
        return Checkpoint.parse(split(self.note)[0])


class Held(Struct, frozen=True):
    """What a sink says that it holds of this log.

    `notes` are checkpoints, those of the greatest size first: more than one only because some may be forged.
    `size` is a size that it states without a signed checkpoint to show for it. `doubts` are sentences. `unread` says
    why something above these notes could not be read: what agrees with them may not agree with that.
    """

    notes: tuple[str, ...] = ()
    size: int | None = None
    doubts: tuple[str, ...] = ()
    unread: str = ""


class Reading:
    """Gathers what stands where the newest checkpoint should, the greatest size first.

    It is `enough` when one was the log's own: that one stands in its right `place(size, note)`, and is signed by
    `public` (None looks at no signature). So nobody can hide it behind others, however many.
    """

    def __init__(self, public: PublicKey | None, place: Callable[[int, str], object]) -> None:
        self.notes: list[str] = []
        self.doubts: list[str] = []
        self._public, self._place = public, place
        self._looked, self._found = 0, False

    @property
    def enough(self) -> bool:
        return self._found and self._looked >= LOOKED_AT

    def take(self, place: object, note: str | None, doubt: str) -> None:
        """What was read in a place; None is what is no text, which is a doubt. Far down only what counts is kept."""
        size = None if note is None else size_of(note, self._public)
        near = self._looked < LOOKED_AT
        self._looked += 1
        if note is None:
            self.doubts += [doubt] if near else []
            return
        if size is not None or near:
            self.notes.append(note)
        self._found = self._found or (size is not None and place == self._place(size, note))


class Sink(Protocol):
    """One place outside."""

    name: str
    """From the settings; a metric's label."""
    keeps_registry: bool
    """Whether the registry of origins is delivered, too."""
    required: bool
    """Whether a start without its answer is refused."""
    where: str
    """For people: what and where it is."""

    def deliver(self, item: Item) -> None:
        """Give it one item. Raises Undelivered."""

    def newest(self) -> Held | None:
        """What it holds of this log; None for a kind that cannot be asked. Raises Undelivered."""


class Observer(Protocol):
    """Counts what becomes of copies. Called from the sinks' threads."""

    def copy_declared(self, sink: str) -> None:
        """There is such a sink."""

    def copy_known(self, sink: str, size: int, when: float) -> None:
        """An earlier process delivered a checkpoint of this size, at `when`."""

    def copy_delivered(self, sink: str, size: int, when: float) -> None:
        """A checkpoint of this size in records is there, since `when` (seconds since the epoch)."""

    def copy_failed(self, sink: str) -> None:
        """One try to deliver failed."""

    def copies_waiting(self, sink: str, waiting: int, since: float | None) -> None:
        """So many items wait in the spool, the oldest `since` (seconds since the epoch)."""

    def copies_dropped(self, sink: str, dropped: int) -> None:
        """So many were given up, because the spool was full or could not be read."""

    def copy_compared(self, sink: str, agrees: bool) -> None:
        """At the start the log was compared with what the sink holds: it agrees; or the sink could not be asked."""


class Unobserved:
    """Counts nothing."""

    def copy_declared(self, sink: str) -> None: ...

    def copy_known(self, sink: str, size: int, when: float) -> None: ...

    def copy_delivered(self, sink: str, size: int, when: float) -> None: ...

    def copy_failed(self, sink: str) -> None: ...

    def copies_waiting(self, sink: str, waiting: int, since: float | None) -> None: ...

    def copies_dropped(self, sink: str, dropped: int) -> None: ...

    def copy_compared(self, sink: str, agrees: bool) -> None: ...


def size_of(note: str, public: PublicKey | None = None) -> int | None:
    """The size in records that a note's text says; None for what is no checkpoint, or not one signed by `public`."""
    try:
        return (Checkpoint.parse(split(note)[0]) if public is None else Checkpoint.open(note, public)).size
    except NoteRefused:
        return None
