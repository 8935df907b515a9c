"""The fault table: every system call of the writer fails, and the log stays whole.

Whatever fails: no acknowledged record is lost, indices have no gap and no double, waiters are told, and the log
recovers by itself.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fakes.audit import ORIGIN, SIGNING, FaultyFiles, HandClock, kinds, read
from fakes.calls import intent, outcome
from support import forks
from support.loops import until
from vestry.audit.fields import RecordType
from vestry.audit.log import AuditLog
from vestry.audit.opening import open_store
from vestry.audit.records import Records
from vestry.audit.store import SEGMENT_SECONDS, WriteFailed
from vestry.errors import AuditUnavailable


def opened(directory: Path, files: FaultyFiles | None = None, **more: Any) -> AuditLog:
    options: dict[str, Any] = {"commit_seconds": 20, "segment_bytes": 2500, "probe_seconds": 0.02}
    return AuditLog.open(directory, ORIGIN, signing=SIGNING, files=files, **{**options, **more})


async def load(log: AuditLog, names: list[str]) -> list[str]:
    """Append an intent for each name, a few at a time; returns the names that were acknowledged."""
    acknowledged: list[str] = []

    async def one(name: str) -> None:
        try:
            await log.append(intent(name))
        except AuditUnavailable:
            return
        acknowledged.append(name)

    for at in range(0, len(names), 3):
        await asyncio.gather(*map(one, names[at : at + 3]))
    return acknowledged


def assert_none_lost(directory: Path, acknowledged: list[str]) -> None:
    found = [record["request_id"] for record in read(directory) if record["type"] == "intent"]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)


FAULTS: list[tuple[str, int | str]] = [
    ("write", errno.EIO),
    ("write", errno.ENOSPC),
    ("write", "short"),
    ("sync", errno.EIO),
    ("sync", errno.ENOSPC),
    ("sync", "lie"),
    ("state", errno.EIO),
    ("create", errno.ENOSPC),
    ("create", errno.EMFILE),
    ("sync_directory", errno.EIO),
    ("remove", errno.EACCES),
    ("append_to", errno.EACCES),
    ("truncate", errno.EIO),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{fault}" for name, fault in FAULTS])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_fault_under_load(tmp_path: Path, name: str, fault: int | str, times: int) -> None:
    """One system call fails some times while records come in: acknowledged ones stay, and the log recovers."""
    files = FaultyFiles()

    async def run() -> list[str]:
        log = opened(tmp_path, files)
        acknowledged = await load(log, [f"before-{number}" for number in range(12)])
        assert len(acknowledged) == 12
        files.fail(name, fault, times=times)
        if name in {"append_to", "truncate"}:  # these are called after another fault only
            await fail_once(log, files, "write", "short")
        acknowledged += await load(log, [f"during-{number}" for number in range(30)])
        files.mend()
        await until(lambda: log.healthy)
        acknowledged += await load(log, [f"after-{number}" for number in range(12)])
        await log.close()
        return acknowledged

    acknowledged = asyncio.run(run())
    assert sum(each.startswith("after") for each in acknowledged) == 12
    assert_none_lost(tmp_path, acknowledged)
    asyncio.run(opened_and_closed(tmp_path))
    assert_none_lost(tmp_path, acknowledged)
    assert "log.trim" not in kinds(tmp_path), "what failed was cut off by the writer itself"


async def fail_once(log: AuditLog, files: FaultyFiles, name: str, fault: int | str) -> None:
    """One more fault, once, beside those that are set."""
    real = files.write

    def short(descriptor: int, data: bytes) -> int:
        del files.write
        return real(descriptor, data[: len(data) // 2])

    files.write = short  # type: ignore[method-assign]
    with pytest.raises(AuditUnavailable):
        await log.append(intent("in-between"))


async def opened_and_closed(directory: Path) -> None:
    log = opened(directory)
    await log.close()


def test_a_failed_sync_begins_a_new_segment(tmp_path: Path) -> None:
    """After a failed fdatasync the file is not trusted any more: what failed is cut off, and a new file follows."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, segment_bytes=1 << 20)
        await log.append(intent("before"))
        files.fail("sync", "lie", times=1)
        with pytest.raises(AuditUnavailable):
            await log.append(intent("persisted, but not acknowledged"))
        await until(lambda: log.healthy)
        await log.append(intent("after"))
        await log.close()

    asyncio.run(run())
    assert sorted(path.name for path in tmp_path.rglob("*.jsonl")) == [
        "000000000000000000.jsonl",
        "000000000000000002.jsonl",
    ]
    assert kinds(tmp_path) == ["segment.begin", "intent", "segment.begin", "log.recovered", "intent"]
    assert read(tmp_path)[2]["open_intents"] == [{"index": 1, "request_id": "before"}]


def test_a_failed_write_stays_in_its_segment(tmp_path: Path) -> None:
    """After a failed write the file's state is known: what was written of it is cut off, and the file goes on."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, segment_bytes=1 << 20)
        await log.append(intent("before"))
        files.fail("write", errno.ENOSPC, times=1)
        with pytest.raises(AuditUnavailable):
            await log.append(intent("during"))
        await until(lambda: log.healthy)
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent", "log.recovered"]


TURNS: list[dict[str, int | str]] = [
    {"write": "short"},
    {"write": "short", "remove": errno.EACCES},
    {"sync": errno.EIO},
    {"sync": "lie", "remove": errno.EACCES},
    {"sync_directory": errno.EIO},
    {"create": errno.EMFILE},
    {"remove": errno.EACCES},
]


@pytest.mark.parametrize("faults", TURNS, ids="-".join)
def test_a_turn_that_failed_is_made_up_for_whatever_the_clock_says(
    tmp_path: Path, faults: dict[str, int | str]
) -> None:
    """The day's turn to a new segment fails, and the clock is set back before the disk works again: what is
    acknowledged afterwards stands behind the turn, and is there after a crash."""
    files, clock = FaultyFiles(), HandClock()
    store = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20, files=files, clock=clock.clock)
    store.commit([intent("before")])
    clock.both(SEGMENT_SECONDS + 1)
    if "remove" in faults:  # what an attempt before has left
        (tmp_path / ORIGIN / "000000000000000002.jsonl").write_bytes(b"{")
    for name, fault in faults.items():
        files.fail(name, fault)
    with pytest.raises(WriteFailed):
        store.commit([intent("during")])
    clock.wall -= 60_000_000
    files.mend()
    report = {"cause": "EIO", "failures": 1, "lost": 1, "outage_us": 1, "discarded_bytes": 0}
    store.recover(Records(clock=clock.clock).event(RecordType.LOG_RECOVERED, **report))
    store.commit([intent("after")])
    store.abandon()
    open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20, clock=clock.clock).close()
    assert kinds(tmp_path)[:5] == ["segment.begin", "intent", "segment.begin", "log.recovered", "intent"]


def test_failed_but_persisted_before_a_crash(tmp_path: Path) -> None:
    """A crash right after a failed fdatasync can leave unacknowledged records: whole ones stay, intents are closed."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, segment_bytes=1 << 20)
        await log.append(intent("before"))
        files.fail("sync", "lie")
        files.faults["truncate"] = OSError(errno.EIO, "injected")
        with pytest.raises(AuditUnavailable):
            await log.append(intent("during"))
        await log.close()

    asyncio.run(run())
    asyncio.run(opened_and_closed(tmp_path))
    assert kinds(tmp_path) == ["segment.begin", "intent", "intent", "intent.closed", "intent.closed"]


@pytest.mark.parametrize("damage", ["removed", "shortened", "lengthened"])
def test_a_file_changed_by_others(tmp_path: Path, damage: str) -> None:
    """A segment that somebody removes or changes under the writer fails closed, and stays so until it is mended."""

    async def run() -> None:
        log = opened(tmp_path, segment_bytes=1 << 20)
        await log.append(intent("before"))
        path = tmp_path / ORIGIN / "000000000000000000.jsonl"
        kept = path.read_bytes()
        if damage == "removed":
            path.rename(tmp_path / "aside")
            (tmp_path / "aside").unlink()
        elif damage == "shortened":
            os.truncate(path, len(kept) - 10)
        else:
            with path.open("ab") as file:
                file.write(b"more")
        with pytest.raises(AuditUnavailable):
            await log.append(intent("during"))
        if damage == "lengthened":
            await until(lambda: log.healthy)
        else:
            await asyncio.sleep(0.1)
            assert not log.healthy
            path.write_bytes(kept)
            await until(lambda: log.healthy)
        await log.append(intent("after"))
        await log.close()

    asyncio.run(run())
    recovered = [record for record in read(tmp_path) if record["type"] == "log.recovered"]
    assert [record["cause"] for record in recovered] == ["changed_outside"]
    assert_none_lost(tmp_path, ["before", "after"])


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from fakes.audit import SIGNING
from fakes.calls import intent, outcome
from support.loops import until
from vestry.audit.log import AuditLog
from vestry.errors import AuditUnavailable

async def main(directory, fill, empty):
    acknowledged, refused = [], 0
    patience = {"commit_seconds": 20, "probe_seconds": 0.02}
    log = AuditLog.open(Path(directory), "server", signing=SIGNING, segment_bytes=1 << 20, **patience)
    await log.append(intent("before"))
    fill()
    number = 0
    while log.healthy:
        batch = [f"r{number + at}" for at in range(4)]
        number += 4
        found = await asyncio.gather(*(log.append(intent(each)) for each in batch), return_exceptions=True)
        acknowledged += [name for name, error in zip(batch, found) if error is None]
        refused += sum(isinstance(error, AuditUnavailable) for error in found)
    empty()
    await until(lambda: log.healthy)
    await log.append(intent("after"))
    await log.close()
    print(json.dumps({"acknowledged": acknowledged, "refused": refused}))
"""


def run_program(program: str, directory: Path) -> dict[str, Any]:
    """What a program of its own reported, which writes to a log in `directory`."""
    done = forks.run(["-c", PROGRAM + program, str(directory)], env=os.environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    """The kernel itself cuts a write short and refuses the next: fails closed, and recovers when that ends."""
    found = run_program(
        """
import resource
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
asyncio.run(main(
    sys.argv[1],
    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard)),
    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
))
""",
        tmp_path,
    )
    assert found["acknowledged"]
    assert found["refused"]
    assert_none_lost(tmp_path, ["before", *found["acknowledged"], "after"])
    assert "log.recovered" in kinds(tmp_path)


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A file system without space: fails closed, and recovers by itself when space is made."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        found = run_program(
            """
ballast = Path(sys.argv[1]) / "ballast"
asyncio.run(main(sys.argv[1], lambda: ballast.write_bytes(b"x" * 200_000), ballast.unlink))
""",
            tmp_path,
        )
        assert found["acknowledged"]
        assert found["refused"]
        assert_none_lost(tmp_path, ["before", *found["acknowledged"], "after"])
        recovered = [record for record in read(tmp_path) if record["type"] == "log.recovered"]
        assert {record["cause"] for record in recovered} <= {"ENOSPC", "short_write"}
        assert recovered
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_outcomes_keep_their_intents_closed_through_faults(tmp_path: Path) -> None:
    """Through a row of faults, every intent in the log ends with an outcome or with a closing, never with nothing."""
    files = FaultyFiles()

    async def one(log: AuditLog, name: str) -> None:
        try:
            await log.append(intent(name))
            await log.append(outcome(name))
        except AuditUnavailable:
            return

    async def run() -> None:
        log = opened(tmp_path, files)
        for number, (name, fault) in enumerate(FAULTS):
            files.fail(name, fault, times=1)
            await asyncio.gather(*(one(log, f"call-{number}-{each}") for each in range(8)))
            files.mend()
            await until(lambda: log.healthy)
        await one(log, "last")
        await log.close()

    asyncio.run(run())
    found = read(tmp_path)
    begun = {record["request_id"] for record in found if record["type"] == "intent"}
    ended = {record["request_id"] for record in found if record["type"] in {"outcome", "intent.closed"}}
    assert begun == ended
