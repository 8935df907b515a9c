"""One writer, whatever happens to the lock's file: removed, moved with its directory, or replaced under a server."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes.audit import ORIGIN, SIGNING, kinds, read
from vestry.audit.fields import RecordType
from vestry.audit.files import Files, State
from vestry.audit.log import AuditLog
from vestry.audit.opening import open_store
from vestry.audit.records import Clock, Records, rfc3339
from vestry.audit.scan import LogLocked
from vestry.audit.store import HELD_SECONDS, Store, WriteFailed
from vestry.audit.tlog.notes import Checkpoint
from vestry.audit.verify import house
from vestry.errors import AuditUnavailable
from vestry.seams import Record

PUBLIC = SIGNING.signer.public
Moves = Callable[[Path], None]


class Cleaning(Files):
    """Real files; the lock is removed while a record is made durable, which takes long, once, when it is told so."""

    def __init__(self, lock: Path) -> None:
        self.lock_path, self.armed = lock, False

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        if self.armed:
            self.armed = False
            self.lock_path.unlink()
            time.sleep(2 * HELD_SECONDS)


class Exhausted(Files):
    """Real files; so often as is said, what a segment is called cannot be asked."""

    times = 0

    def there(self, path: Path) -> State | None:
        if self.times and path.suffix == ".jsonl":
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().there(path)


class Meanwhile(Files):
    """Real files; `event` happens while the next thing is made durable."""

    event: Callable[[], object] | None = None

    def sync(self, descriptor: int) -> None:
        event, self.event = self.event, None
        if event is not None:
            event()
        super().sync(descriptor)


def opened(directory: Path, files: Files | None = None) -> AuditLog:
    """A log that is signed often, and tried again often."""
    return AuditLog.open(
        directory,
        ORIGIN,
        signing=msgspec.structs.replace(SIGNING, seconds=0.2),
        commit_seconds=5,
        segment_bytes=1 << 20,
        probe_seconds=0.1,
        files=files,
    )


def change(name: str, moment: str = "2027-01-01T00:00:00.000000Z") -> Record:
    """A record that is told from the others by this."""
    return {
        "schema": 1,
        "type": "key.revoke",
        "time": moment,
        "tenant": "default",
        "subject": "alice",
        "key_id": name,
        "actor": "root",
    }


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "waited too long"
        await asyncio.sleep(0.01)


def size_signed(home: Path) -> int:
    path = home / "checkpoint"
    return Checkpoint.open(path.read_text(), PUBLIC.of(ORIGIN)).size if path.exists() else 0


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_a_second_writer_after_the_lock_was_removed(tmp_path: Path) -> None:
    """Somebody takes the lock for a stale one and removes it: the second server writes, the first one no more. Nothing
    that either has acknowledged is lost, and no checkpoint of another history is signed.
    """
    home = tmp_path / ORIGIN
    told: list[str] = []

    async def body() -> None:
        first = opened(tmp_path)
        for number in range(5):
            await first.append(change(f"first-{number}"))
        await until(lambda: size_signed(home) == first.size)
        (home / "lock").unlink()
        second = opened(tmp_path)
        for number in range(20):
            await second.append(change(f"second-{number}"))
        await until(lambda: size_signed(home) == second.size)
        for number in range(5):
            try:
                await first.append(change(f"late-{number}"))
                told.append(f"late-{number}")
            except AuditUnavailable:
                await asyncio.sleep(0.2)
        assert not first.healthy
        assert second.healthy
        await second.append(change("second-end"))
        await first.close()
        assert size_signed(home) >= 26, "the first one has signed no shorter log"
        await second.close()

    run(body)
    assert told == []
    there = {record.get("key_id") for record in read(tmp_path)}
    assert {f"first-{number}" for number in range(5)} | {f"second-{number}" for number in range(20)} <= there
    assert "second-end" in there
    assert house.verify(tmp_path, PUBLIC).passed


@pytest.mark.parametrize("moment", ["waits for the tree", "makes it durable"])
def test_a_second_writer_while_the_first_one_turns_to_a_new_segment(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment that the first one fails to begin is the second one's by then: nothing of it is removed."""
    home = tmp_path / ORIGIN
    others: list[Store] = []

    def second(*_: object) -> bool:
        (home / "lock").unlink()
        others.append(open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1024))
        others[0].commit([change("second")])
        return True

    files = Meanwhile()
    first = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1024, files=files)
    before = first.commit([change(f"first-{number}") for number in range(10)])
    assert before.size > 1024
    if moment == "makes it durable":
        files.event = second
    else:
        monkeypatch.setattr(first.notary, "has_room", second)
    with pytest.raises(WriteFailed):
        first.commit([change("late")])
    first.abandon()
    others[0].commit([change("second-end")])
    others[0].close()
    names = [each["key_id"] for each in read(tmp_path) if "key_id" in each]
    assert names == [*(f"first-{number}" for number in range(10)), "second", "second-end"]
    assert house.verify(tmp_path, PUBLIC).passed


def test_a_second_writer_while_the_first_one_signs(tmp_path: Path) -> None:
    """While the first one makes its tree durable the second one signs more: that checkpoint stays."""
    home = tmp_path / ORIGIN
    signed: list[int] = []

    def second() -> None:
        (home / "lock").unlink()
        other = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20)
        other.commit([change(f"second-{number}") for number in range(20)])
        other.close()
        signed.append(size_signed(home))

    files = Meanwhile()
    first = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20, files=files)
    first.commit([change("first")])
    files.event = second
    first.notary.ask()
    first.notary.work()
    first.abandon()
    assert [size_signed(home)] == signed
    assert signed[0] > 20
    assert house.verify(tmp_path, PUBLIC).passed


@pytest.mark.parametrize("moment", ["between", "within"])
def test_a_lock_that_only_was_removed_is_taken_anew(tmp_path: Path, moment: str) -> None:
    """A cleaner of old files removes it, between two writes or within one: the log goes on by itself, and keeps others
    out again.
    """

    async def body() -> None:
        files = Cleaning(tmp_path / ORIGIN / "lock")
        log = opened(tmp_path, files)
        await log.append(change("before"))
        if moment == "within":
            files.armed = True
        else:
            files.lock_path.unlink()
        await asyncio.sleep(2 * HELD_SECONDS)
        with pytest.raises(AuditUnavailable):
            await log.append(change("during"))
        await until(lambda: log.healthy)
        await log.append(change("after"))
        with pytest.raises(LogLocked, match=f"process id {os.getpid()}"):
            opened(tmp_path)
        await log.close()

    run(body)
    records = read(tmp_path)
    assert [each["key_id"] for each in records if "key_id" in each] == ["before", "after"]
    assert [each["cause"] for each in records if each["type"] == "log.recovered"] == ["lock_lost"]


@pytest.mark.parametrize("segment_bytes", [1024, 1 << 20])
def test_what_another_one_has_signed_meanwhile_is_not_taken_back(tmp_path: Path, segment_bytes: int) -> None:
    """It wrote nothing, but signed what this process had begun to write: to go on would be a second history."""
    home = tmp_path / ORIGIN

    def signed() -> None:
        (home / "lock").unlink()
        open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20).close()

    files = Meanwhile()
    store = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=segment_bytes, files=files)
    now = rfc3339(Clock().wall())  # else the other one would write that the clock went back
    store.commit([change(f"before-{number}", now) for number in range(10)])
    files.event = signed
    with pytest.raises(WriteFailed, match="lock was removed"):
        store.commit([change("during", now)])
    outside = (home / "checkpoint").read_text()
    assert size_signed(home) == 12
    report = Records().event(
        RecordType.LOG_RECOVERED, cause="lock_lost", failures=1, lost=0, outage_us=1, discarded_bytes=0
    )
    with pytest.raises(WriteFailed, match="signed by another process"):
        store.recover(report)
    store.abandon()
    open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1 << 20).close()
    assert house.verify(tmp_path, PUBLIC, checkpoints=[house.Outside("outside", outside)]).passed


@pytest.mark.parametrize("further", [b"", b"{}\n"])
def test_a_lock_that_was_removed_while_a_segment_is_begun_is_taken_anew(tmp_path: Path, further: bytes) -> None:
    """What this process has written itself of that segment keeps it out of nothing; what another one has, does."""
    home, again = tmp_path / ORIGIN, {"cause": "lock_lost", "failures": 1, "lost": 0, "outage_us": 1}

    def removed() -> None:
        (home / "lock").unlink()
        time.sleep(2 * HELD_SECONDS)

    files = Meanwhile()
    store = open_store(tmp_path, ORIGIN, signing=SIGNING, segment_bytes=1024, files=files)
    store.commit([change(f"before-{number}") for number in range(10)])
    files.event = removed
    with pytest.raises(WriteFailed, match="lock was removed"):
        store.commit([change("during")])
    with max(home.glob("*.jsonl")).open("ab") as segment:
        segment.write(further)
    report = Records().event(RecordType.LOG_RECOVERED, discarded_bytes=0, **again)
    if further:
        with pytest.raises(WriteFailed, match="changed by another process"):
            store.recover(report)
        store.abandon()
        return
    store.recover(report)
    store.commit([change("after")])
    store.close()
    assert [each["key_id"] for each in read(tmp_path) if "key_id" in each][-2:] == ["before-9", "after"]
    assert house.verify(tmp_path, PUBLIC).passed


def test_a_lock_that_cannot_be_taken_anew_at_once_is_so_later(tmp_path: Path) -> None:
    """A try that fails on its way lets go of the lock: this process is not the other one that keeps it out."""

    async def body() -> None:
        files = Exhausted()
        log = opened(tmp_path, files)
        await log.append(change("before"))
        (tmp_path / ORIGIN / "lock").unlink()
        await asyncio.sleep(2 * HELD_SECONDS)
        files.times = 2
        with pytest.raises(AuditUnavailable):
            await log.append(change("during"))
        await until(lambda: log.healthy)
        assert not files.times
        await log.append(change("after"))
        await log.close()

    run(body)
    assert [each["key_id"] for each in read(tmp_path) if "key_id" in each] == ["before", "after"]


def _away(home: Path) -> None:
    home.rename(home.with_name("aside"))


def _replaced(home: Path) -> None:
    _away(home)
    home.mkdir()


@pytest.mark.parametrize("moves", [_away, _replaced])
def test_a_directory_that_is_moved(tmp_path: Path, moves: Moves) -> None:
    """It is moved away under the server, or another one mounted over it: nothing is acknowledged, and nothing written
    where it stood, until it is back.
    """
    home = tmp_path / ORIGIN

    async def body() -> None:
        log = opened(tmp_path)
        for number in range(300):
            await log.append(change(f"before-{number}"))
        await until(lambda: size_signed(home) == log.size)
        moves(home)
        await asyncio.sleep(2 * HELD_SECONDS)
        with pytest.raises(AuditUnavailable):
            await log.append(change("during"))
        await asyncio.sleep(0.5)
        assert not log.healthy
        assert [each.name for each in home.rglob("*")] in ([], ["lock"])
        for each in home.rglob("*"):
            each.unlink()
        if home.exists():
            home.rmdir()
        home.with_name("aside").rename(home)
        await until(lambda: log.healthy)
        await log.append(change("after"))
        await log.close()

    run(body)
    assert "after" in {record.get("key_id") for record in read(tmp_path)}
    assert "during" not in {record.get("key_id") for record in read(tmp_path)}
    assert kinds(tmp_path).count("log.recovered") == 1
    assert house.verify(tmp_path, PUBLIC).passed


def test_a_segment_that_is_moved(tmp_path: Path) -> None:
    """A rotation of log files renames the journal's segment: what would go to the renamed file is not acknowledged."""
    path = tmp_path / ORIGIN / "000000000000000000.jsonl"

    async def body() -> None:
        log = opened(tmp_path)
        await log.append(change("before"))
        path.rename(tmp_path / "rotated")
        await asyncio.sleep(2 * HELD_SECONDS)
        with pytest.raises(AuditUnavailable):
            await log.append(change("during"))
        await asyncio.sleep(0.3)
        assert not log.healthy
        (tmp_path / "rotated").rename(path)
        await until(lambda: log.healthy)
        await log.append(change("after"))
        await log.close()

    run(body)
    names = [each["key_id"] for each in read(tmp_path) if "key_id" in each]
    assert names == ["before", "after"]
