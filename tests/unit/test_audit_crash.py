"""kill -9 at random moments: no acknowledged record is lost."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from fakes.audit import ORIGIN, SIGNING, kinds, read
from support import forks
from vestry.audit.opening import open_store

KILLS = 20

WRITER = """
import asyncio, sys
from pathlib import Path
from fakes.audit import SIGNING
from fakes.calls import intent, outcome
from vestry.audit.log import AuditLog

async def call(log, name):
    await log.append(intent(name))
    sys.stdout.write(f"intent {name}\\n")
    await log.append(outcome(name))
    sys.stdout.write(f"outcome {name}\\n")

async def caller(log, name):
    number = 0
    while True:
        await call(log, f"{name}-{number}")
        sys.stdout.flush()
        number += 1

async def main(directory, round):
    log = AuditLog.open(Path(directory), "server", signing=SIGNING, commit_seconds=60, segment_bytes=65536)
    await asyncio.gather(*(caller(log, f"{round}-{each}") for each in range(16)))

asyncio.run(main(*sys.argv[1:]))
"""


def killed(directory: Path, number: int, lines: int) -> list[str]:
    """Start a writer, kill it after it has acknowledged so many records, and return all that it acknowledged."""
    writer = forks.Child(["-c", WRITER, str(directory), str(number)], env=os.environ)
    with writer.stdout as said:
        found = [said.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        found += said.readlines()
    assert writer.wait(10) == -signal.SIGKILL
    return [line.strip() for line in found if line.endswith("\n")]


def test_kill_nine_loses_nothing(tmp_path: Path) -> None:
    """Twenty writers in turn are killed in mid-write; each record that was acknowledged stands in the log, once."""
    chance = random.Random(os.urandom(8))
    acknowledged: list[str] = []
    for number in range(KILLS):
        acknowledged += killed(tmp_path, number, chance.randrange(1, 200))
    open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=65536).close()
    records = read(tmp_path)
    found = [
        f"{record['type']} {record['request_id']}" for record in records if record["type"] in {"intent", "outcome"}
    ]
    assert len(found) == len(set(found))
    assert len(acknowledged) > KILLS
    lost = set(acknowledged) - set(found)
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged records are not in the log"
    begun = {record["request_id"] for record in records if record["type"] == "intent"}
    ended = {record["request_id"] for record in records if record["type"] in {"outcome", "intent.closed"}}
    assert begun == ended, "every call that was in progress at a kill is closed"
    assert kinds(tmp_path).count("segment.begin") > 1
