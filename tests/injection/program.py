"""The program that faults are injected into: the server's journal under load, as `app` opens it.

`python -m injection.program DIRECTORY ROUND OPENINGS TURNS [torn]` opens and closes the log so many times. In between
callers append intents and outcomes at once, in turns that each end with a checkpoint: TURNS after the last opening,
one after each before. With `torn` the disk takes only half of every third write of the journal, as write(2) may, and
the log has to cut the file back. The name of each acknowledged record goes to standard output. Exit status 3: the log
could not be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path

from fakes.audit import ORIGIN, SIGNING
from fakes.calls import intent, outcome
from vestry.audit.canonical import said
from vestry.audit.files import Files
from vestry.audit.log import AuditLog
from vestry.audit.notary import Signing
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.notes import Checkpoint
from vestry.errors import AuditUnavailable
from vestry.seams import Record

CALLERS = 6
PATIENCE_SECONDS = 0.15
PATIENCE_LOOKS = 15
SEGMENT_BYTES = 65_536
RARELY = Signing(SIGNING.signer, records=1_000_000, seconds=3600)


class Signed:
    """notary.Watcher: tells the loop that a checkpoint was made, or could not be."""

    def __init__(self) -> None:
        self._loop, self.event = asyncio.get_running_loop(), asyncio.Event()

    def checkpointed(self, note: str, head: Checkpoint) -> None:
        self._loop.call_soon_threadsafe(self.event.set)

    def checkpoint_failed(self) -> None:
        self._loop.call_soon_threadsafe(self.event.set)


class Torn(Files):
    """A disk that takes half of every third write of the journal's thread."""

    def __init__(self) -> None:
        self._writes = 0

    def write(self, descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "vestry-audit":
            self._writes += 1
            if self._writes % 3 == 0:
                return super().write(descriptor, data[: len(data) // 2])
        return super().write(descriptor, data)


async def call(log: AuditLog, name: str) -> None:
    """An intent, and its outcome if the intent was acknowledged."""
    if await appended(log, intent(name)):
        await appended(log, outcome(name))


async def appended(log: AuditLog, record: Record) -> bool:
    """Whether the record was acknowledged; if so, it is told."""
    told = f"{said(record, 'type')} {said(record, 'request_id')}\n".encode()
    try:
        await log.append(record)
    except AuditUnavailable:
        return False
    os.write(1, told)
    return True


async def turn(log: AuditLog, name: str, signed: asyncio.Event) -> None:
    """One call of each caller, and a checkpoint; a log that is broken is given some time before."""
    for _ in range(PATIENCE_LOOKS):
        if log.healthy:
            break
        await asyncio.sleep(PATIENCE_SECONDS / PATIENCE_LOOKS)
    size = log.size
    await asyncio.gather(*(call(log, f"{name}-{each}") for each in range(CALLERS)))
    if log.size > size:
        signed.clear()
        log.checkpoint()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signed.wait(), PATIENCE_SECONDS)


async def life(directory: Path, name: str, turns: int, *, torn: bool) -> None:
    """Open the log, use it, close it. Raises LogUnusable."""
    signed = Signed()
    log = AuditLog.open(
        directory,
        ORIGIN,
        signing=RARELY,
        commit_seconds=2,
        segment_bytes=SEGMENT_BYTES,
        probe_seconds=0.03,
        watchers=[signed],
        files=Torn() if torn else None,
    )
    for number in range(turns):
        await turn(log, f"{name}-{number}", signed.event)
    await log.close()


async def main(directory: Path, name: str, openings: int, turns: int, *, torn: bool) -> int:
    try:
        for left in reversed(range(openings)):
            await life(directory, f"{name}-{left}", 1 if left else turns, torn=torn)
    except LogUnusable:
        return 3
    return 0


if __name__ == "__main__":
    _, folder, round_, openings, turns, *more = sys.argv
    sys.exit(asyncio.run(main(Path(folder), round_, int(openings), int(turns), torn=more == ["torn"])))
