"""The server's journal: group commit, deadlines, health, what it closes by itself, and its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fakes.audit import ORIGIN, SIGNING, FaultyFiles, HandClock, kinds, read
from fakes.calls import intent, outcome
from support.loops import until
from vestry.audit.canonical import NotCanonical
from vestry.audit.fields import RecordType
from vestry.audit.log import AuditLog
from vestry.audit.records import Records
from vestry.audit.scan import LogLocked
from vestry.errors import AuditUnavailable

PATIENCE = 20.0


class Counts:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, int, int]] = []
        self.lost: list[int] = []
        self.states: list[bool] = []

    def committed(self, seconds: float, records: int, size: int) -> None:
        self.batches.append((seconds, records, size))

    def failed(self, records: int) -> None:
        self.lost.append(records)

    def health(self, healthy: bool) -> None:
        self.states.append(healthy)


def opened(directory: Path, files: FaultyFiles | None = None, **more: Any) -> AuditLog:
    """A log that is patient with the disk, and quick to try again."""
    options: dict[str, Any] = {"commit_seconds": PATIENCE, "segment_bytes": 1 << 20, "probe_seconds": 0.05}
    return AuditLog.open(directory, ORIGIN, signing=SIGNING, files=files, **{**options, **more})


async def hung(log: AuditLog, files: FaultyFiles, name: str = "in-the-write") -> asyncio.Future[None]:
    """A record whose write hangs, with the thread inside the write."""
    before = files.calls["sync"]
    files.fail("sync", "hang", times=1)
    future = log.append(intent(name))
    await until(lambda: files.calls["sync"] > before)
    return future


def closings(directory: Path) -> list[tuple[str, str, str]]:
    """The intents that were closed by the log: id, ending, cause."""
    return [
        (record["request_id"], record["ending"], record["cause"])
        for record in read(directory)
        if record["type"] == "intent.closed"
    ]


def test_one_sync_serves_everyone_waiting(tmp_path: Path) -> None:
    """While one write is under way all others gather; then one fdatasync and one wakeup serve them all."""
    files, counts = FaultyFiles(), Counts()

    async def run() -> None:
        log = opened(tmp_path, files, observer=counts)
        await log.append(intent("first"))
        held = await hung(log, files)
        syncs = files.calls["sync"]
        others = [log.append(intent(f"r{number}")) for number in range(300)]
        files.mend()
        await asyncio.gather(held, *others)
        assert files.calls["sync"] == syncs + 1
        await log.close()

    asyncio.run(run())
    assert [records for _, records, _ in counts.batches] == [1, 1, 300]
    assert all(seconds > 0 and size > 300 * records for seconds, records, size in counts.batches)
    assert counts.states == [False]


class Frozen(asyncio.SelectorEventLoop):
    """A loop whose clock stands still: nothing in it is ever late."""

    def time(self) -> float:
        return 1.0


@pytest.mark.parametrize(("turns", "batches"), [((2, 2, 2, 0), [6]), ((2, 1, 0, 3), [3, 3])])
def test_records_of_a_busy_loop_wait_for_each_other(tmp_path: Path, turns: tuple[int, ...], batches: list[int]) -> None:
    """As long as every turn of the loop brings more."""
    counts = Counts()

    async def run() -> None:
        log = opened(tmp_path, observer=counts)
        waiting = []
        for number, records in enumerate(turns):
            waiting += [log.append(intent(f"r{number}-{place}")) for place in range(records)]
            await asyncio.sleep(0)
            time.sleep(0.002)  # noqa: ASYNC251 - in which the thread takes what it has been given
            if not records:
                await asyncio.gather(*waiting)
        await asyncio.gather(*waiting)
        await log.close()

    with asyncio.Runner(loop_factory=Frozen) as runner:
        runner.run(run())
    assert [records for _, records, _ in counts.batches] == batches


def test_no_record_waits_for_a_hundred_others(tmp_path: Path) -> None:
    """However busy the loop is: here every turn brings more, and the clock never says that it is enough."""

    async def run() -> None:
        log = opened(tmp_path)
        waiting: list[asyncio.Future[None]] = []
        while not waiting or not waiting[0].done():
            assert len(waiting) < 16_000
            waiting += [log.append(intent(f"r{len(waiting)}-{place}")) for place in range(2)]
            await asyncio.sleep(0)
            time.sleep(0.001)  # noqa: ASYNC251 - the turn of a busy loop
        await asyncio.gather(*waiting)
        await log.close()

    with asyncio.Runner(loop_factory=Frozen) as runner:
        runner.run(run())


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    """What waits is written in batches of about a mebibyte, because that is the most that a crash may tear."""
    files, counts = FaultyFiles(), Counts()

    async def run() -> None:
        log = opened(tmp_path, files, observer=counts, segment_bytes=1 << 24)
        held = await hung(log, files)
        big = [replace(intent(f"r{number}"), rule="x" * 60_000) for number in range(50)]
        others = [log.append(record) for record in big]
        files.mend()
        await asyncio.gather(held, *others)
        await log.close()

    asyncio.run(run())
    assert [records for _, records, _ in counts.batches] == [1, 18, 18, 14]
    assert max(size for _, _, size in counts.batches) < (1 << 20) + 65_536
    stored = [record["request_id"] for record in raw(tmp_path) if record["type"] == "intent"]
    assert stored == ["in-the-write", *(f"r{number}" for number in range(50))]


def raw(directory: Path) -> list[dict[str, Any]]:
    """Records without the schema's check, for those that are larger than the builders make them."""
    lines = [line for path in sorted(directory.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line) for line in lines]


def test_deadlines_are_each_callers_own(tmp_path: Path) -> None:
    """Callers that came at different times to a write that hangs are each told after the same time."""
    files = FaultyFiles()

    async def wait(log: AuditLog, name: str, after: float) -> float:
        await asyncio.sleep(after)
        began = time.monotonic()
        with pytest.raises(AuditUnavailable):
            await log.append(intent(name))
        return time.monotonic() - began

    async def run() -> None:
        log = opened(tmp_path, files, commit_seconds=1.0)
        files.fail("sync", "hang", times=1)
        took = await asyncio.gather(*(wait(log, f"r{number}", number * 0.04) for number in range(6)))
        assert all(0.99 <= each < 10 for each in took), took
        assert not log.healthy
        files.mend()
        await until(lambda: log.healthy)
        await log.close()

    asyncio.run(run())


def test_a_log_that_stood_still_is_not_overdue(tmp_path: Path) -> None:
    """A process that was paused for longer than a write may take wrote nothing meanwhile either: it refuses nobody."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, commit_seconds=0.5)
        held = await hung(log, files)
        time.sleep(0.8)  # noqa: ASYNC251 - the process stands still
        asyncio.get_running_loop().call_later(0.02, files.mend)
        await held
        assert log.healthy
        await log.close()

    asyncio.run(run())


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """More callers than the queue holds are refused at once; those in it are served."""
    files, counts = FaultyFiles(), Counts()

    async def run() -> None:
        log = opened(tmp_path, files, capacity=5, observer=counts)
        held = await hung(log, files)
        others = [log.append(intent(f"r{number}")) for number in range(4)]
        began = time.monotonic()
        with pytest.raises(AuditUnavailable):
            await log.append(intent("one too many"))
        assert time.monotonic() - began < PATIENCE / 2
        assert log.healthy
        files.mend()
        await asyncio.gather(held, *others)
        await log.close()

    asyncio.run(run())
    assert counts.lost == [1]
    assert kinds(tmp_path).count("intent") == 5


def test_what_is_no_record_fails_alone(tmp_path: Path) -> None:
    """A record that cannot be stored fails for its caller; others of the same batch, and health, are not touched."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        await log.append(intent("a"))
        held = await hung(log, files)
        bad = [
            log.append({**msgspec.to_builtins(outcome("a")), "temperature": 0.5}),
            log.append(intent("b")),
            log.append({"x": 1.5}),
        ]
        files.mend()
        await held
        found = await asyncio.gather(*bad, return_exceptions=True)
        assert [type(each) for each in found] == [NotCanonical, type(None), NotCanonical]
        assert log.healthy
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent", "intent", "intent", "intent.closed"]
    assert closings(tmp_path) == [("a", "unknown", "outcome_lost")]


def test_what_is_no_record_behind_the_logs_own(tmp_path: Path) -> None:
    """The log's own records in a batch do not make it mistake which of the callers' records was unfit."""
    hand = HandClock()

    async def run() -> None:
        log = opened(tmp_path, clock=hand.clock)
        await log.append(intent("a"))
        hand.wall -= 1
        found = await asyncio.gather(log.append(intent("b")), log.append({"x": 1.5}), return_exceptions=True)
        assert [type(each) for each in found] == [type(None), NotCanonical]
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent", "clock.jump", "intent"]


def test_nothing_to_close(tmp_path: Path) -> None:
    """A lost outcome whose intent is not open needs no record, and makes no empty batch."""
    counts = Counts()

    async def run() -> None:
        log = opened(tmp_path, observer=counts)
        await log.append(intent("a"))
        with pytest.raises(NotCanonical):
            await log.append({**msgspec.to_builtins(outcome("unknown")), "temperature": 0.5})
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent"]
    assert [records for _, records, _ in counts.batches] == [1]


def test_everyone_waiting_is_told_at_once(tmp_path: Path) -> None:
    """When the log breaks, nobody behind the failed batch waits for a deadline either."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        await log.append(intent("first"))
        held = await hung(log, files)
        others = [log.append(intent(f"r{number}")) for number in range(1500)]
        files.fail("write")
        files.released.set()
        await held
        began = time.monotonic()
        found = await asyncio.gather(*others, return_exceptions=True)
        assert {type(each) for each in found} == {AuditUnavailable}
        assert time.monotonic() - began < PATIENCE / 2
        files.mend()
        await until(lambda: log.healthy)
        await log.close()

    asyncio.run(run())
    assert [record["lost"] for record in read(tmp_path) if record["type"] == "log.recovered"] == [1500]


def test_only_what_is_no_record(tmp_path: Path) -> None:
    """A batch of nothing but unfit records writes nothing."""

    async def run() -> None:
        log = opened(tmp_path)
        with pytest.raises(NotCanonical):
            await log.append({"x": 1.5})
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin"]


def test_an_intent_told_too_late_is_closed(tmp_path: Path) -> None:
    """An intent that became durable after its caller was refused is closed as refused, without traffic."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, commit_seconds=0.5)
        held = await hung(log, files, "late")
        log.append(outcome("another")).cancel()
        with pytest.raises(AuditUnavailable):
            await held
        files.mend()
        await until(lambda: "intent.closed" in kinds_so_far(tmp_path))
        await log.close()

    asyncio.run(run())
    assert closings(tmp_path) == [("late", "refused", "audit_unavailable")]


def test_an_intent_whose_caller_left_is_closed(tmp_path: Path) -> None:
    """An intent whose caller was cancelled while it waited is closed as cancelled; an outcome needs nothing."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        await log.append(intent("stays"))
        held = await hung(log, files, "left")
        held.cancel()
        done = log.append(outcome("stays"))
        done.cancel()
        files.mend()
        await until(lambda: "intent.closed" in kinds_so_far(tmp_path))
        await log.close()

    asyncio.run(run())
    assert closings(tmp_path) == [("left", "cancelled", "caller_left")]
    assert kinds(tmp_path).count("outcome") == 1


def test_a_lost_outcome_closes_its_intent(tmp_path: Path) -> None:
    """Outcomes that failed, or were refused meanwhile, close their intents as unknown once the log is back."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        await asyncio.gather(log.append(intent("failed")), log.append(intent("refused")), log.append(intent("fine")))
        files.fail("sync")
        for name in ("failed", "refused"):
            with pytest.raises(AuditUnavailable):
                await log.append(outcome(name))
        files.mend()
        await until(lambda: log.healthy)
        await log.append(outcome("fine"))
        await log.close()

    asyncio.run(run())
    assert closings(tmp_path) == [("failed", "unknown", "outcome_lost"), ("refused", "unknown", "outcome_lost")]


def test_closings_survive_a_failure(tmp_path: Path) -> None:
    """If the write of the closing itself fails, it is tried again."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        await log.append(intent("first"))
        held = await hung(log, files, "left")
        held.cancel()
        files.fail("write", times=1)
        files.released.set()
        await until(lambda: kinds_so_far(tmp_path).count("log.recovered") == 1)
        await until(lambda: log.healthy)
        await log.append(intent("more"))
        await log.close()

    asyncio.run(run())
    assert closings(tmp_path) == [("left", "cancelled", "caller_left")]


def kinds_so_far(directory: Path) -> list[str]:
    """The types in a log that is being written."""
    try:
        return kinds(directory)
    except AssertionError:
        return []


def test_the_outage_is_recorded(tmp_path: Path) -> None:
    """The first record after an outage says why, how long, and what was lost; health and counts follow it."""
    files, counts = FaultyFiles(), Counts()

    async def run() -> None:
        log = opened(tmp_path, files, observer=counts)
        await log.append(intent("before"))
        files.fail("write", 28)  # ENOSPC, after a third of the data
        for name in ("during", "refused"):
            with pytest.raises(AuditUnavailable):
                await log.append(intent(name))
        await until(lambda: files.calls["write"] > 5)
        files.mend()
        await until(lambda: log.healthy)
        await log.append(intent("after"))
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent", "log.recovered", "intent"]
    report = read(tmp_path)[2]
    assert (report["cause"], report["lost"]) == ("ENOSPC", 1)
    assert report["failures"] >= 3
    assert report["outage_us"] > 50_000
    assert report["discarded_bytes"] > 100
    assert counts.states == [False, True, False]
    assert counts.lost == [1, 1]


def test_a_caller_that_left_before_the_failure(tmp_path: Path) -> None:
    """A failed write tells those who still wait; a caller that has left is not disturbed, nor counted twice."""
    files, counts = FaultyFiles(), Counts()

    async def run() -> None:
        log = opened(tmp_path, files, observer=counts)
        await log.append(intent("first"))
        held = await hung(log, files)
        left, stays = log.append(intent("left")), log.append(intent("stays"))
        left.cancel()
        files.fail("write", times=1)
        files.released.set()
        await held
        with pytest.raises(AuditUnavailable):
            await stays
        await log.close()

    asyncio.run(run())
    assert counts.lost == [2]
    assert [record["request_id"] for record in read(tmp_path) if record["type"] == "intent"] == [
        "first",
        "in-the-write",
    ]


def test_a_fault_that_is_not_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program inside the writer fails closed like a disk's, and the log recovers from it."""
    files = FaultyFiles()
    real, calls = files.write, 0

    def explode(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        raise MemoryError

    async def run() -> None:
        log = opened(tmp_path, files)
        await log.append(intent("before"))
        monkeypatch.setattr(files, "write", explode)
        with pytest.raises(AuditUnavailable):
            await log.append(intent("during"))
        await until(lambda: calls > 2)
        assert not log.healthy
        monkeypatch.setattr(files, "write", real)
        await until(lambda: log.healthy)
        await log.append(intent("after"))
        await log.close()

    asyncio.run(run())
    found = read(tmp_path)
    assert [record["cause"] for record in found if record["type"] == "log.recovered"] == ["MemoryError"]
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("wall", "monotonic", "jump"),
    [
        (-0.5, 1.0, -1.5),
        (3600.0, 1.0, 3599.0),
        (600.0, 3000.0, -2400.0),
        (0.0, 3000.0, -3000.0),
        (3.5, 3.0, None),
        (3.0, 3.5, None),
        (60.0, 60.0, None),
    ],
    ids=["back", "forward", "back while idle", "standing", "slewed", "slewed back", "quiet"],
)
def test_a_jump_of_the_clock_is_recorded(tmp_path: Path, wall: float, monotonic: float, jump: float | None) -> None:
    """A wall clock that goes back, or moves otherwise than the time that passed, is a record, also where nothing was
    written meanwhile; a slow correction is none.
    """
    hand = HandClock()
    records = Records(clock=hand.clock)

    async def run() -> None:
        log = opened(tmp_path, clock=hand.clock)
        await log.append(intent("before", records))
        hand.wall += round(wall * 1_000_000)
        hand.monotonic += monotonic
        await log.append(intent("after", records))
        await log.close()

    asyncio.run(run())
    jumps = [record for record in read(tmp_path) if record["type"] == "clock.jump"]
    if jump is None:
        assert not jumps
    else:
        assert [each["jump_us"] for each in jumps] == [round(jump * 1_000_000)]
        assert jumps[0]["previous"] == "2001-09-09T01:46:40.000000Z"
        assert kinds(tmp_path)[-2:] == ["clock.jump", "intent"]


def test_a_jump_whose_record_could_not_be_written_is_recorded_after_the_outage(tmp_path: Path) -> None:
    """The first record after the clock was set back finds the disk full: the jump is not forgotten over that."""
    hand, files = HandClock(), FaultyFiles()
    records = Records(clock=hand.clock)

    async def run() -> None:
        log = opened(tmp_path, files, clock=hand.clock)
        await log.append(intent("before", records))
        hand.wall -= 3_600_000_000
        files.fail("write", errno.ENOSPC, times=1)
        with pytest.raises(AuditUnavailable):
            await log.append(intent("lost", records))
        await until(lambda: log.healthy)
        await log.append(intent("after", records))
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin", "intent", "log.recovered", "clock.jump", "intent"]
    assert [each["jump_us"] for each in read(tmp_path) if each["type"] == "clock.jump"] == [-3_600_000_000]


def test_segments_follow_each_other(tmp_path: Path) -> None:
    """The log goes on in a new file at the given size, and nothing is lost between them."""

    async def run() -> None:
        log = opened(tmp_path, segment_bytes=4000)
        for number in range(40):
            await log.append(intent(f"r{number}"))
            await log.append(outcome(f"r{number}"))
        await log.close()

    asyncio.run(run())
    begins = [record["index"] for record in read(tmp_path) if record["type"] == "segment.begin"]
    assert len(begins) > 8
    left = sorted(int(path.stem) for path in tmp_path.rglob("*.jsonl"))
    assert left == begins[-2:], "the bundles hold what older segments held"
    assert [record["request_id"] for record in read(tmp_path) if record["type"] == "outcome"] == [
        f"r{number}" for number in range(40)
    ]


def test_close_writes_what_waits(tmp_path: Path) -> None:
    """Closing waits for what was appended; afterwards appends are refused, and the lock is free."""

    async def run() -> None:
        log = opened(tmp_path)
        pending = [log.append(intent(f"r{number}")) for number in range(50)]
        await log.close()
        await asyncio.gather(*pending)
        assert not log.healthy
        with pytest.raises(AuditUnavailable):
            await log.append(intent("late"))
        await log.close()

    asyncio.run(run())
    assert kinds(tmp_path).count("intent") == 50
    asyncio.run(opened_and_closed(tmp_path))


async def opened_and_closed(directory: Path) -> None:
    log = opened(directory)
    await log.close()


def test_close_of_an_unused_log(tmp_path: Path) -> None:
    """A log that was never written to closes, and can be opened again."""
    asyncio.run(opened_and_closed(tmp_path))
    asyncio.run(opened_and_closed(tmp_path))
    assert kinds(tmp_path) == ["segment.begin"]


def test_close_of_a_broken_log(tmp_path: Path) -> None:
    """A log that cannot be written closes at once all the same."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files)
        files.fail("write")
        with pytest.raises(AuditUnavailable):
            await log.append(intent("a"))
        began = time.monotonic()
        await log.close()
        assert time.monotonic() - began < PATIENCE / 2

    asyncio.run(run())
    assert kinds(tmp_path) == ["segment.begin"]


def test_close_while_a_write_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that hangs does not keep the process from ending; the lock is kept until the write returns."""
    files = FaultyFiles()

    async def run() -> None:
        log = opened(tmp_path, files, commit_seconds=0.5)
        held = await hung(log, files)
        waiting = log.append(intent("behind"))
        await log.close()
        for each in (held, waiting):
            with pytest.raises(AuditUnavailable):
                await each
        with pytest.raises(LogLocked):
            opened(tmp_path)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
        assert "still hangs" in caplog.text
        files.mend()
        for thread in threading.enumerate():
            if thread.name == "vestry-audit":
                thread.join(PATIENCE)
    asyncio.run(opened_and_closed(tmp_path))
    assert kinds(tmp_path).count("intent") >= 1


def test_a_loop_that_has_gone(tmp_path: Path) -> None:
    """If the loop ends without `close`, the writer ends with its next report, and lets the lock go."""
    files = FaultyFiles()

    async def run() -> None:
        await hung(opened(tmp_path, files, commit_seconds=60), files)

    asyncio.run(run())
    files.mend()
    for thread in threading.enumerate():
        if thread.name == "vestry-audit":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    asyncio.run(opened_and_closed(tmp_path))
    assert kinds(tmp_path) == ["segment.begin", "intent", "intent.closed"]


def test_server_records(tmp_path: Path) -> None:
    """Start and stop are the first and the last record of a clean life, and nothing is left to close."""
    records = Records(configuration_digest="sha256:" + "0" * 64)

    async def run() -> None:
        log = opened(tmp_path)
        await log.append(records.event(RecordType.SERVER_START, version="1", origins=["server"]))
        await log.append(intent("a"))
        await log.append(outcome("a"))
        await log.append(records.event(RecordType.SERVER_STOP, version="1"))
        await log.close()

    asyncio.run(run())
    asyncio.run(opened_and_closed(tmp_path))
    assert kinds(tmp_path) == ["segment.begin", "server.start", "intent", "outcome", "server.stop"]
