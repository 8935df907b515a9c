"""Opens a log: locks it, trims what a crash left unacknowledged, closes the intents it left open.

Rules: only bytes behind the last whole record, and no more of them than one batch, are ever cut off; they are
copied aside first, and the trim is a record. A crash in the middle of this leaves a `.torn.pending` file, from
which the next start goes on. Anything else that is wrong is damage: the log is not opened, and not touched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from vestry.audit.canonical import NotCanonical
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.notary import Signing
from vestry.audit.reading import ORIGIN
from vestry.audit.records import Clock, Event, Records, microseconds_of, rfc3339
from vestry.audit.registry import register
from vestry.audit.resume import resume, signed_head
from vestry.audit.scan import (
    MEND,
    TAIL_BYTES,
    LogDamaged,
    LogLocked,
    LogUnusable,
    Scan,
    Trim,
    begins_whole,
    end_before,
    first_index,
    segments,
)
from vestry.audit.store import LOCK, Store, WriteFailed, outwait
from vestry.audit.tlog.notes import Checkpoint
from vestry.seams import Record
from vestry.types import Ending

_LOG = logging.getLogger("vestry.audit")
_PENDING = ".torn.pending"
Confirm = Callable[[Path, Checkpoint | None], None]
"""Looks at a log's directory and last checkpoint before anything is changed. Raises LogUnusable against opening it."""


def open_store(
    directory: Path,
    origin: str,
    *,
    signing: Signing,
    segment_bytes: int,
    confirm: Confirm | None = None,
    files: Files | None = None,
    clock: Clock | None = None,
) -> Store:
    """Open or begin the log of `origin` under `directory`, ready for its next record.

    Raises LogLocked, LogDamaged, or LogUnusable where the disk, the name or the signing key refuses.
    """
    if not ORIGIN.fullmatch(origin) or len(origin) > 63:
        raise LogUnusable(
            f"`{origin}` cannot name a log: use up to 63 lower-case letters, digits, dots and hyphens, in parts "
            "divided by single slashes, each beginning with a letter or digit."
        )
    home = directory / origin
    files = files or Files()
    try:
        _make(home, files)
        if home.resolve() != directory.resolve() / origin:
            raise LogUnusable(
                f"{home} is a link, or lies behind one: whatever reads, verifies or erases passes over links below an "
                "audit directory, as if there were no log. Mount the volume there (`mount --bind`), or name the "
                "directory that has it as `audit.directory`."
            )
        lock = files.lock(home / LOCK)
        if lock is None:
            raise LogLocked(_taken(home, origin))
        outwait(lock, home, files)
        (home / LOCK).write_text(f"{os.getpid()}\n", encoding="ascii")
        store = Store(home, origin, lock, segment_bytes=segment_bytes, files=files, records=Records(clock=clock))
        try:
            if confirm is not None:
                confirm(home, signed_head(home, signing.signer.public.of(origin)))
            store.origins = register(directory, origin, signing.signer, files=files, clock=clock or Clock())
            _Opening(store, files, clock or Clock(), signing).run()
        except BaseException:
            store.abandon()
            raise
    except (OSError, WriteFailed) as error:
        raise LogUnusable(
            f"The audit log in {home} cannot be opened: {error}. Nothing is served unrecorded: give the server a "
            "writable directory with free space, as `audit.directory`."
        ) from error
    return store


def append_all(
    directory: Path,
    records: Sequence[Record],
    *,
    signing: Signing,
    origin: str,
    wait_seconds: float = 5.0,
    confirm: Confirm | None = None,
    files: Files | None = None,
) -> None:
    """Write records from a command, in a log of its own; they are durable when this returns.

    Waits up to `wait_seconds` for another command that is writing to the same log. Raises LogUnusable, with a
    sentence for the user; then the records may or may not be in the log, and what they announce must not be done.
    """
    until = time.monotonic() + wait_seconds
    while True:
        try:
            store = open_store(
                directory,
                origin,
                signing=signing,
                segment_bytes=1 << 26,
                confirm=confirm,
                files=files,
            )
            break
        except LogLocked:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)
    try:
        unfit = _committed(store, records)
    except WriteFailed as error:
        raise LogUnusable(f"The audit log in {directory / origin} could not be written: {error}.") from error
    finally:
        store.close()
    if unfit is not None:
        raise unfit


def _committed(store: Store, records: Sequence[Record]) -> NotCanonical | None:
    """Commit batch after batch; what is wrong with the first record that has no leaf, if one has none."""
    at = 0
    while at < len(records):
        done = store.commit(records[at:])
        if done.unfit:
            return done.unfit[min(done.unfit)]
        at += done.taken
    return None


class _Opening:
    """The steps of opening, in the order of `run`."""

    def __init__(self, store: Store, files: Files, clock: Clock, signing: Signing) -> None:
        self._store = store
        self._signing = signing
        self._files = files
        self._home = store.directory
        self._clock = clock
        self._records = Records(clock=clock)

    def run(self) -> None:
        origin = self._store.origin
        head = signed_head(self._home, self._signing.signer.public.of(origin))
        paths = self._without_empty(segments(self._home))
        self._check_joints(paths, head)
        scan = Scan(origin)
        if paths:
            self._continue(paths, scan)
        if head is not None and scan.next_index < head.size:
            raise LogDamaged(
                f"{self._home} is damaged: its last checkpoint signs {head.size} records, but the journal ends before "
                f"record {scan.next_index}. {MEND}"
            )
        self._store.notary = resume(
            self._home, origin, head, self._signing, self._files, reach=scan.next_index, holds=self._store.holds
        )
        self._record_jump(scan)  # before all that is written by the clock as it is now
        self._record_trims(scan)
        self._close_intents()
        if not self._store.next_index:
            self._store.commit([])  # begins the first segment: it stands in the registry, and must be there from now on

    def _without_empty(self, paths: list[Path]) -> list[Path]:
        """Drop a last segment that has nothing in it: a crash came between its creation and its first record."""
        if paths and paths[-1].stat().st_size == 0:
            self._files.remove(paths.pop())
            self._files.sync_directory(self._home)
        return paths

    def _check_joints(self, paths: list[Path], head: Checkpoint | None) -> None:
        """Every segment ends where the next begins, and the first begins with what no checkpoint covers, or before."""
        covered = 0 if head is None else head.size
        if paths and first_index(paths[0]) > covered:
            raise LogDamaged(
                f"{self._home} is damaged: its first segment should begin with record {covered} or before, but it is "
                f"{paths[0].name}. {MEND}"
            )
        for path, following in pairwise(paths):
            end = end_before(path, first_index(following))
            if end < path.stat().st_size:
                self._trim(path, end)

    def _continue(self, paths: list[Path], scan: Scan) -> None:
        """Read from the last segment that lists its open intents, and go on behind the last good record."""
        start = next((at for at in reversed(range(len(paths))) if begins_whole(paths[at])), 0)
        for path in paths[start:-1]:
            good = scan.read(path)
            if good != path.stat().st_size:
                raise LogDamaged(_unreadable(path, good))
        last = paths[-1]
        good, size = scan.read(last), last.stat().st_size
        if size - good > TAIL_BYTES:
            raise LogDamaged(_unreadable(last, good))
        if good < size:
            self._trim(last, good)
        if good == 0:
            self._files.remove(last)
            self._files.sync_directory(self._home)
            if len(paths) == 1:
                return
            last = paths[-2]
            good = last.stat().st_size
        self._store.go_on(last, good, scan.next_index, scan.open_intents)

    def _trim(self, path: Path, offset: int) -> None:
        """Copy what stands behind `offset` aside, durably, then cut it off."""
        with path.open("rb") as file:
            file.seek(offset)
            tail = file.read()
        number = 1
        while True:
            kept = self._home / f"{path.stem}-{offset}-{number}.torn"
            pending = kept.with_name(kept.name + ".pending")
            taken = kept.exists() or (pending.exists() and pending.read_bytes() != tail)
            if not taken:
                break
            number += 1
        if not pending.exists():
            self._write_aside(pending, tail)
        descriptor = self._files.append_to(path)
        try:
            self._files.truncate(descriptor, offset)
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)
        _LOG.warning(
            "the audit log had %d unacknowledged bytes behind byte %d of %s; they stand in %s now",
            len(tail),
            offset,
            path,
            kept,
        )

    def _write_aside(self, pending: Path, tail: bytes) -> None:
        draft = pending.with_name(pending.name + ".draft")
        draft.unlink(missing_ok=True)
        descriptor = self._files.create(draft)
        try:
            self._files.write_all(descriptor, tail)
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)
        self._files.rename(draft, pending)
        self._files.sync_directory(self._home)

    def _record_trims(self, scan: Scan) -> None:
        """Record every trim that has no record yet, those of an earlier start that crashed included."""
        for pending in sorted(self._home.glob(f"*{_PENDING}")):
            stem, offset, _ = pending.name.removesuffix(_PENDING).split("-")
            tail = pending.read_bytes()
            trim = Trim(f"{stem}.jsonl", int(offset), hashlib.sha256(tail).hexdigest())
            if trim not in scan.trims:
                self._commit(
                    self._records.event(
                        RecordType.LOG_TRIM,
                        segment=trim.segment,
                        offset=trim.offset,
                        bytes=len(tail),
                        sha256=trim.sha256,
                    )
                )
            self._files.rename(pending, pending.with_suffix(""))
            self._files.sync_directory(self._home)

    def _close_intents(self) -> None:
        """Nobody knows how the calls ended that were in progress when the last process died."""
        left = list(self._store.open_intents.items())
        self._commit(
            *(
                self._records.event(
                    RecordType.INTENT_CLOSED,
                    request_id=name,
                    intent_index=index,
                    ending=Ending.UNKNOWN.value,
                    cause="restart",
                )
                for name, index in left
            )
        )
        if left:
            _LOG.warning("%d calls had no outcome in the audit log; they are closed as `unknown` now", len(left))

    def _record_jump(self, scan: Scan) -> None:
        """The last record is from the future: the wall clock went back while no process was looking."""
        now = self._clock.wall()
        if scan.last_time > rfc3339(now):
            jump = now - microseconds_of(scan.last_time)
            self._commit(self._records.event(RecordType.CLOCK_JUMP, previous=scan.last_time, jump_us=jump))

    def _commit(self, *records: Event) -> None:
        left = list(records)
        while left:
            del left[: self._store.commit(left).taken]


def _make(home: Path, files: Files) -> None:
    """Make the directory, readable by its owner only, and durable with its parents' entries."""
    missing = [each for each in (home, *home.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        files.sync_directory(each.parent)


def _taken(home: Path, origin: str) -> str:
    holder = (home / LOCK).read_text(encoding="ascii", errors="replace").strip() or "unknown"
    return (
        f"Another process (process id {holder}) writes to the audit log `{origin}` in {home}. Stop it, or give this "
        "one a log of its own with `audit.origin`."
    )


def _unreadable(path: Path, offset: int) -> str:
    return (
        f"{path} is damaged at byte {offset}: what stands there is no record, and it is more than a crash can leave. "
        f"{MEND}"
    )
