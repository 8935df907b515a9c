"""The program that faults are injected into: the server's journal under load, as `app` opens it.

`python -m injection.program DIRECTORY ROUND` appends intents and outcomes from several callers at once, and writes the
name of each acknowledged record to standard output. Exit status 3: the log could not be opened.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from fakes.audit import ORIGIN, SIGNING
from fakes.calls import intent, outcome
from vestry.audit.canonical import said
from vestry.audit.log import AuditLog
from vestry.audit.notary import Signing
from vestry.audit.scan import LogUnusable
from vestry.errors import AuditUnavailable
from vestry.seams import Record

CALLERS = 8
CALLS_EACH = 24
REFUSALS_EACH = 3
SEGMENT_BYTES = 65_536
OFTEN = Signing(SIGNING.signer, records=48, seconds=0.05)


async def caller(log: AuditLog, name: str) -> None:
    """Calls one after the other; one that is refused often enough gives up."""
    refused = 0
    for number in range(CALLS_EACH):
        for record in (intent(f"{name}-{number}"), outcome(f"{name}-{number}")):
            if refused < REFUSALS_EACH and not await appended(log, record):
                refused += 1
                await asyncio.sleep(0.02)


async def appended(log: AuditLog, record: Record) -> bool:
    """Whether the record was acknowledged; if so, it is told."""
    told = f"{said(record, 'type')} {said(record, 'request_id')}\n".encode()
    try:
        await log.append(record)
    except AuditUnavailable:
        return False
    os.write(1, told)
    return True


async def main(directory: Path, turn: str) -> int:
    try:
        log = AuditLog.open(
            directory, ORIGIN, signing=OFTEN, commit_seconds=2, segment_bytes=SEGMENT_BYTES, probe_seconds=0.05
        )
    except LogUnusable:
        return 3
    await asyncio.gather(*(caller(log, f"{turn}-{each}") for each in range(CALLERS)))
    await log.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2])))
