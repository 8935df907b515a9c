"""The notary: takes durable records into the tree, and signs checkpoints, in a thread of its own.

Rules:
1. A record comes here after it is durable in the journal, so a crash loses nothing: the next start takes up what the
   last checkpoint does not cover. The caller of a call waits for none of this.
2. What waits is bounded. Where the tree cannot be written, the journal soon refuses too: a record that never comes
   under a checkpoint would be no evidence.
3. A checkpoint is signed only after every tile and bundle below it is durable, and only of a tree that continues the
   last one that was signed; `opening` makes sure of that at the start, and the log's lock from then on.
4. Segments of the journal that a checkpoint covers go, but for the newest two: the bundles hold the same records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from vestry.audit import scan
from vestry.audit.files import Files
from vestry.audit.tlog.notes import Checkpoint, Signer
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.audit.tree import Tree

_LOG = logging.getLogger("vestry.audit")
BACKLOG_BYTES = 32 << 20
_FLUSH_BYTES = 8 << 20
_SLICE_RECORDS = 128
_WAKE_RECORDS = 1024
_BEHIND_RECORDS = 4096
_LOOK_SECONDS = 1.0
_ROOM_LOOK_SECONDS = 0.005
_KEPT_SEGMENTS = 2


class Watcher(Protocol):
    """Hears of checkpoints, in the notary's thread. Returns at once and never raises."""

    def checkpointed(self, note: str, head: Checkpoint) -> None:
        """A checkpoint has been signed and is durable."""

    def checkpoint_failed(self) -> None:
        """One could not be made; it will be tried again."""


class Signing(Struct, frozen=True):
    """With what, and how often, a log is signed. `signer` is the house's."""

    signer: Signer
    records: int = 16_384
    seconds: float = 60.0


class Notary:
    """Keeps the tree of one log. `take` and `full` belong to the journal's writer, the rest to one other thread."""

    def __init__(
        self,
        home: Path,
        origin: str,
        *,
        tree: Tree,
        head: Checkpoint | None,
        signing: Signing,
        files: Files,
        holds: Callable[[], bool],
    ) -> None:
        """`holds` says whether no other process can write to this log; it may raise OSError."""
        self.head = head
        self._holds = holds
        self.watchers: list[Watcher] = []
        self._home = home
        self._signer = signing.signer.of(origin)
        self._tree = tree
        self._files = files
        self._records, self._seconds = signing.records, signing.seconds
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._asked = self._stopping = self._failing = False
        self._signed_at = time.monotonic()
        self._thread: threading.Thread | None = None

    @property
    def full(self) -> bool:
        """Whether so much waits for the tree that nothing more may be written."""
        return self._backlog_bytes > BACKLOG_BYTES

    def has_room(self, seconds: float) -> bool:
        """Whether more may be written. Where the tree is only slower than the journal, waits so long for it."""
        until = time.monotonic() + seconds
        while self.full:
            if self._failing or time.monotonic() >= until:
                return False
            self._wake.set()
            time.sleep(_ROOM_LOOK_SECONDS)
        return True

    def take(self, leaves: Sequence[bytes]) -> None:
        """These records are durable, and follow those taken before. They belong to the notary now."""
        with self._lock:
            self._backlog.extend(leaves)
            self._backlog_bytes += sum(map(len, leaves))
        if len(self._backlog) >= _WAKE_RECORDS:
            self._wake.set()

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._run, name="vestry-notary", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Sign a checkpoint as soon as may be, if there is anything new."""
        self._asked = True
        self._wake.set()

    def close(self, seconds: float) -> None:
        """Take what waits and sign a last checkpoint. Waits so long for the thread, and gives up where it hangs."""
        if self._thread is not None:
            self._stopping = True
            self._wake.set()
            self._thread.join(seconds)
            if self._thread.is_alive():
                _LOG.error("the audit log's tree could not be finished; the next start goes on with it")
                return
        self._asked = True
        self.work()

    def work(self) -> None:
        """Take what waits into the tree, and sign a checkpoint where one is due. A failure is told and tried again."""
        try:
            self.grow()
            if self._due():
                self._sign()
        except OSError as error:
            if not self._failing:
                _LOG.error("no checkpoint of the audit log can be written: %s", error)
            self._failing = True
            for watcher in self.watchers:
                watcher.checkpoint_failed()
        else:
            if self._failing:
                _LOG.warning("checkpoints of the audit log can be written again")
            self._failing = False

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            self.work()
            if self._failing and not self._stopping:
                time.sleep(_LOOK_SECONDS)

    def grow(self) -> None:
        """Take what waits: in slices, so that the event loop's thread is not kept from working; in larger ones where it
        has fallen behind, since to give the interpreter's lock away costs up to 5 ms each time.
        """
        backlog = self._backlog
        while backlog:
            if self._tree.waiting_bytes >= _FLUSH_BYTES:
                self._tree.flush()
            behind = len(backlog) > _BEHIND_RECORDS
            many = min(len(backlog), _WAKE_RECORDS if behind else _SLICE_RECORDS)
            leaves = [backlog.popleft() for _ in range(many)]
            with self._lock:
                self._backlog_bytes -= sum(map(len, leaves))
            self._tree.add(leaves)
            if not behind:
                time.sleep(0)

    def _due(self) -> bool:
        signed = 0 if self.head is None else self.head.size
        new = self._tree.size - signed
        if new <= 0:
            self._asked = False
            return False
        first = self.head is None  # at once: until then nothing here can be verified
        return first or self._asked or new >= self._records or time.monotonic() - self._signed_at >= self._seconds

    def _sign(self) -> None:
        self._require_held()
        self._tree.settle()
        self._require_held()  # that took as long as the disk does: a newer checkpoint of another process may be there
        head = Checkpoint(self._signer.public.name, self._tree.size, self._tree.root())
        note = self._signer.sign(head.text())
        replace_file(self._home / CHECKPOINT, note.encode(), self._files)
        self.head, self._signed_at, self._asked = head, time.monotonic(), False
        for watcher in self.watchers:
            watcher.checkpointed(note, head)
        self._remove_covered(head.size)

    def _require_held(self) -> None:
        if not self._holds():
            raise OSError(f"the lock of the log in {self._home} was removed or replaced")

    def _remove_covered(self, size: int) -> None:
        paths = scan.segments(self._home)
        for path, following in list(pairwise(paths))[: -(_KEPT_SEGMENTS - 1)]:
            if scan.first_index(following) > size:
                break
            self._files.remove(path)


def replace_file(path: Path, data: bytes, files: Files) -> None:
    """Put a whole new file in the place of another, durably. Raises OSError; then one of the two stands."""
    files.put({path: [data]})
    files.sync_directory(path.parent)
