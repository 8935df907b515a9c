"""How many records a second the log takes, with its tree and checkpoints: a process that does nothing but append.

`python -m bench.saturation DIRECTORY SECONDS` prints one line of JSON. The records are those of calls, an intent and
an outcome each, from so many callers at once that every commit is as large as it gets.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fakes.calls import intent, outcome
from vestry.audit.log import AuditLog
from vestry.audit.notary import Signing
from vestry.audit.records import Records
from vestry.audit.tlog.notes import Signer

CALLERS = 1024


class Counts:
    """What the log did, as its observer and watcher."""

    def __init__(self) -> None:
        self.records = self.bytes = self.commits = self.covered = 0

    def committed(self, _seconds: float, records: int, size: int) -> None:
        self.records += records
        self.bytes += size
        self.commits += 1

    def failed(self, _records: int) -> None:
        raise SystemExit("records were refused: the disk is too slow, or full")

    def health(self, _healthy: bool) -> None: ...

    def checkpointed(self, _note: str, head: object) -> None:
        self.covered = head.size  # type: ignore[attr-defined]

    def checkpoint_failed(self) -> None:
        raise SystemExit("no checkpoint can be written")


async def main(directory: Path, seconds: float) -> None:
    counts = Counts()
    signing = Signing(Signer("bench/vestry", Ed25519PrivateKey.generate()))
    log = AuditLog.open(
        directory,
        "server",
        signing=signing,
        commit_seconds=30,
        segment_bytes=1 << 26,
        observer=counts,
        watchers=[counts],
    )
    until = time.monotonic() + seconds
    records = Records()

    async def caller(name: int) -> None:
        number = 0
        while time.monotonic() < until:
            await log.append(intent(f"req-{name}-{number}", records))
            await log.append(outcome(f"req-{name}-{number}", records))
            number += 1

    began = time.monotonic()
    await asyncio.gather(*map(caller, range(CALLERS)))
    taken = time.monotonic() - began
    await log.close()
    whole = time.monotonic() - began
    print(
        json.dumps(
            {
                "seconds": taken,
                "records_per_second": counts.records / taken,
                "records_per_commit": counts.records / counts.commits,
                "bytes_per_second": counts.bytes / taken,
                "covered_per_second": counts.covered / whole,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
