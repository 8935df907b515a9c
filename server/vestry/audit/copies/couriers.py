"""Brings copies out: one thread a sink, and a clerk before them that writes their spools.

Whoever signs checkpoints calls `checkpointed`, which puts the note into a short queue and returns. The clerk makes it
durable in every sink's spool; each courier takes its spool's first item and delivers it, tries again with growing
pauses when that fails, and goes on to the next when it is there. So a sink that is down, slow or hangs holds up
neither the log nor another sink.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vestry.audit.copies.durable import read_bounded
from vestry.audit.copies.sink import NOTE_LIMIT, Item, Observer, Sink, Unobserved, size_of
from vestry.audit.copies.spool import LIMIT, Spool
from vestry.audit.tlog.notes import Checkpoint
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.wires import Undelivered

_LOG = logging.getLogger("vestry.audit")
_INBOX = 256
SPOOL = "spool"


class Couriers:
    """All sinks of one log. Make it, `start` it, `close` it."""

    def __init__(
        self,
        home: Path,
        sinks: Sequence[Sink],
        *,
        observer: Observer | None = None,
        limit: int = LIMIT,
        first_pause: float = 1.0,
        longest_pause: float = 60.0,
    ) -> None:
        """`home` is the log's directory; pauses in seconds; `limit` bounds the checkpoints in each spool."""
        self._home = home
        self._observer: Observer = observer or Unobserved()
        self._pauses = (first_pause, longest_pause)
        self._inbox: queue.Queue[Item | None] = queue.Queue(_INBOX)
        self._couriers = [
            _Courier(each, Spool(home / SPOOL / each.name, limit=limit), self._observer, self._pauses) for each in sinks
        ]
        self._clerk = threading.Thread(target=self._file, name="vestry-copies", daemon=True)

    def start(self) -> None:
        """Begin, with what earlier processes left, the log's present checkpoint included if a sink lacks it."""
        for courier in self._couriers:
            courier.thread.start()
        if self._couriers:
            self._clerk.start()
        with suppress(OSError, ValueError):
            self._put(Item("checkpoint", read_bounded(self._home / CHECKPOINT, NOTE_LIMIT)))

    def close(self, seconds: float = 5.0) -> None:
        """Let what waits be delivered for so long at most, then end. What is left stays in the spool."""
        if not self._clerk.is_alive():
            return
        until = time.monotonic() + seconds
        with suppress(queue.Full):
            self._inbox.put(None, timeout=seconds)
        self._clerk.join(max(0.0, until - time.monotonic()))
        for courier in self._couriers:
            courier.finish(until)
        for courier in self._couriers:
            courier.thread.join(max(0.05, until - time.monotonic()))
            if waiting := courier.spool.waiting[0]:
                _LOG.warning("%d copies for `%s` wait for the next start", waiting, courier.sink.name)

    # What the log's writer calls: both return at once, and raise nothing.

    def checkpointed(self, note: str, head: Checkpoint) -> None:  # noqa: ARG002 - the notary tells every observer both
        """A checkpoint was signed, and is durable."""
        self._put(Item("checkpoint", note))

    def checkpoint_failed(self) -> None:
        """None was signed, so there is nothing to bring out."""

    def registered(self, note: str, *, anew: bool = False) -> None:
        """This is the registry of origins; with `anew` it goes out though it has not changed."""
        self._put(Item("registry", note, anew))

    def _put(self, item: Item) -> None:
        if not self._couriers:
            return
        try:
            self._inbox.put_nowait(item)
        except queue.Full:  # the disk of the spools hangs: the oldest makes room
            with suppress(queue.Empty):
                self._inbox.get_nowait()
            with suppress(queue.Full):
                self._inbox.put_nowait(item)
            for courier in self._couriers:
                self._observer.copies_dropped(courier.sink.name, 1)

    def _file(self) -> None:
        """The clerk's life."""
        while (item := self._inbox.get()) is not None:
            for courier in self._couriers:
                courier.take(item)


class _Courier:
    """One sink, its spool, its thread."""

    def __init__(self, sink: Sink, spool: Spool, observer: Observer, pauses: tuple[float, float]) -> None:
        self.sink, self.spool = sink, spool
        self._observer = observer
        self._first_pause, self._longest_pause = pauses
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._until = float("inf")
        self._said = ""
        self._failures = self._told_dropped = 0
        self.thread = threading.Thread(target=self._run, name=f"vestry-copy-{sink.name}", daemon=True)
        observer.copy_declared(sink.name)
        if delivered := spool.delivered():
            observer.copy_known(sink.name, size_of(delivered[0]) or 0, delivered[1])
        self._tell()

    def take(self, item: Item) -> None:
        """The clerk's part: into the spool, unless it is there or has been delivered already, and is not to be anew."""
        if item.kind == "registry" and not self.sink.keeps_registry:
            return
        try:
            if item.anew or not self.spool.holds(item):
                self.spool.put(item)
        except Exception:  # noqa: BLE001 - the clerk serves the other sinks, too
            _LOG.exception("a copy for `%s` could not be put into its spool", self.sink.name)
        self._tell()
        self._news.set()

    def finish(self, until: float) -> None:
        """End once the spool is empty, a try has failed, or it is later than `until` (monotonic)."""
        self._until = until
        self._stopping.set()
        self._news.set()

    def _run(self) -> None:
        pause = self._first_pause
        while True:
            self._news.clear()
            found = self.spool.first()
            if found is None:
                if self._stopping.is_set():
                    return
                self._news.wait()
                continue
            entry, item = found
            if self._try(item):
                pause = self._first_pause
                self.spool.done(entry, item)
                self._tell()
            elif self._stopping.wait(pause):
                return
            else:
                pause = min(pause * 2, self._longest_pause)
            if time.monotonic() >= self._until:
                return

    def _try(self, item: Item) -> bool:
        """One delivery. Says a failure once, until it changes or ends."""
        name = self.sink.name
        try:
            self.sink.deliver(item)
        except Exception as error:  # noqa: BLE001 - whatever another program answers, this thread goes on
            sentence = str(error) if isinstance(error, Undelivered) else f"{type(error).__name__} in {self.sink.where}"
            self._failures += 1
            self._observer.copy_failed(name)
            self._tell()
            if sentence != self._said:
                exact = None if isinstance(error, Undelivered) else error
                _LOG.warning("the outside copy `%s` is behind: %s", name, sentence, exc_info=exact)
            self._said = sentence
            return False
        if self._failures:
            _LOG.warning("the outside copy `%s` is taken again, after %d failed tries", name, self._failures)
        self._said, self._failures = "", 0
        if item.kind == "checkpoint":
            self._observer.copy_delivered(name, size_of(item.note) or 0, time.time())
        return True

    def _tell(self) -> None:
        waiting, since = self.spool.waiting
        self._observer.copies_waiting(self.sink.name, waiting, since)
        dropped, self._told_dropped = self.spool.dropped - self._told_dropped, self.spool.dropped
        if dropped:
            self._observer.copies_dropped(self.sink.name, dropped)
