"""The notary: what is durable comes under a checkpoint, what waits is bounded, and nothing else is ever signed."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fakes.audit import ORIGIN, SIGNING, FaultyFiles, read
from fakes.calls import intent
from vestry.audit import notary as module
from vestry.audit.log import AuditLog
from vestry.audit.notary import Notary, Signing, replace_file
from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader
from vestry.audit.scan import segments
from vestry.audit.store import Store, WriteFailed
from vestry.audit.tlog.merkle import leaf_hash, root
from vestry.audit.tlog.notes import Checkpoint
from vestry.audit.tlog.tiles import Tiles
from vestry.audit.tree import Tree
from vestry.errors import AuditUnavailable

PUBLIC = SIGNING.signer.public.of(ORIGIN)


class Watching:
    """Counts what a notary tells."""

    def __init__(self) -> None:
        self.heads: list[Checkpoint] = []
        self.notes: list[str] = []
        self.failures = 0

    def checkpointed(self, note: str, head: Checkpoint) -> None:
        self.notes.append(note)
        self.heads.append(head)

    def checkpoint_failed(self) -> None:
        self.failures += 1


def leaves(count: int, start: int = 0) -> list[bytes]:
    return [b'{"index":%d}' % index for index in range(start, start + count)]


def notary(home: Path, files: FaultyFiles | None = None, **often: float) -> tuple[Notary, Watching]:
    """One of an empty log, without a thread; seldom enough that only `ask` makes it sign, unless `often` says more."""
    home.mkdir(exist_ok=True)
    files = files or FaultyFiles()
    signing = msgspec.structs.replace(SIGNING, **{"records": 1_000_000, "seconds": 3600.0, **often})
    found = Notary(home, ORIGIN, tree=Tree(home, files), head=None, signing=signing, files=files, holds=lambda: True)
    watching = Watching()
    found.watchers.append(watching)
    return found, watching


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def signed(home: Path) -> Checkpoint:
    """The checkpoint on the disk, by the house's key, after its tree was computed anew from the bundles."""
    head = Checkpoint.open((home / "checkpoint").read_text(), PUBLIC)
    tiles = Tiles(home, head.size)
    for index, leaf in tiles.leaves():
        assert tiles.leaf_hash(index) == leaf_hash(leaf)
    assert head.root == root(head.size, tiles.subtree)
    return head


# When it signs.


def begun(home: Path, files: FaultyFiles | None = None, **often: float) -> tuple[Notary, Watching]:
    """As `notary`, of a log that has its first record, and so its first checkpoint."""
    one, watching = notary(home, files, **often)
    one.take(leaves(1))
    one.work()
    return one, watching


def test_it_signs_the_first_record_at_once(tmp_path: Path) -> None:
    """A log can be verified from its beginning."""
    one, watching = begun(tmp_path)
    assert signed(tmp_path) == watching.heads[0] == one.head
    assert one.head.size == 1
    one.take(leaves(5, 1))
    one.work()
    assert len(watching.heads) == 1


def test_it_signs_when_asked(tmp_path: Path) -> None:
    """All that was taken, under the name of house and log; those who watch hear the very note on the disk."""
    one, watching = begun(tmp_path)
    one.take(leaves(299, 1))
    one.work()
    assert len(watching.heads) == 1
    one.ask()
    one.work()
    assert signed(tmp_path) == watching.heads[1] == one.head
    assert (one.head.size, one.head.name) == (300, "house.test/vestry/server")
    assert watching.notes[1] == (tmp_path / "checkpoint").read_text()
    assert not (tmp_path / "checkpoint").stat().st_mode & 0o077


def test_without_anything_new_it_signs_nothing(tmp_path: Path) -> None:
    """Asked or not, early or late; and what it was asked then is not remembered."""
    one, watching = notary(tmp_path, seconds=0.001)
    one.ask()
    one.work()
    assert not (tmp_path / "checkpoint").exists()
    one.take(leaves(1))
    one.ask()
    one.work()
    time.sleep(0.01)
    one.ask()
    one.work()
    assert [head.size for head in watching.heads] == [1]


def test_it_signs_after_so_many_records(tmp_path: Path) -> None:
    """Not before."""
    one, watching = begun(tmp_path, records=100)
    one.take(leaves(99, 1))
    one.work()
    assert len(watching.heads) == 1
    one.take(leaves(1, 100))
    one.work()
    one.take(leaves(99, 101))
    one.work()
    assert [head.size for head in watching.heads] == [1, 101]


def test_it_signs_after_so_long(tmp_path: Path) -> None:
    """In its thread, by itself."""
    one, watching = begun(tmp_path, seconds=0.2)
    one.start()
    one.take(leaves(2, 1))
    until(lambda: len(watching.heads) == 2)
    assert signed(tmp_path).size == 3
    one.close(10)


def test_it_signs_at_the_end(tmp_path: Path) -> None:
    """`close` takes what waits, whether a thread was started or not."""
    for number, started in enumerate((True, False)):
        one, _ = notary(tmp_path / str(number))
        if started:
            one.start()
        one.take(leaves(700))
        one.close(10)
        assert signed(tmp_path / str(number)).size == 700


def test_a_thread_that_hangs_does_not_hold_up_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is given up after the patience that `close` was given, and told."""
    files = FaultyFiles()
    one, _ = notary(tmp_path, files)
    one.start()
    files.fail("sync", "hang")
    one.take(leaves(3))
    one.ask()
    until(lambda: files.calls["sync"])
    one.close(0.1)
    assert "could not be finished" in caplog.text
    assert not (tmp_path / "checkpoint").exists()
    files.mend()


# What is signed is durable, and continues what was signed.


def test_tiles_are_durable_before_the_checkpoint(tmp_path: Path) -> None:
    """The order of the calls: every file's sync and every folder's before the checkpoint takes its place."""
    done: list[tuple[str, str]] = []

    class Noting(FaultyFiles):
        def rename(self, old: Path, new: Path) -> None:
            super().rename(old, new)
            done.append(("rename", new.relative_to(tmp_path).as_posix()))

        def sync_directory(self, path: Path) -> None:
            super().sync_directory(path)
            done.append(("synced", path.relative_to(tmp_path).as_posix()))

    one, _ = notary(tmp_path, Noting())
    one.take(leaves(300))
    one.ask()
    one.work()
    at = done.index(("rename", "checkpoint"))
    assert done[at + 1 :] == [("synced", ".")]
    for name in ("tile/0/000", "tile/entries/001.p/44", "tile/1/000.p/1"):
        assert done.index(("rename", name)) < done.index(("synced", str(Path(name).parent))) < at
    assert ("synced", ".") in done[:at]


FAULTS: list[tuple[str, int | str]] = [
    ("create", errno.ENOSPC),
    ("write", errno.ENOSPC),
    ("sync", errno.EIO),
    ("sync", "lie"),
    ("rename", errno.EACCES),
    ("sync_directory", errno.EIO),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{fault}" for name, fault in FAULTS])
def test_a_fault_is_told_once_and_tried_again(
    tmp_path: Path, name: str, fault: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last checkpoint stands meanwhile; each try is counted; one line for the fault, one for its end."""
    caplog.set_level(logging.WARNING)
    files = FaultyFiles()
    one, watching = notary(tmp_path, files)
    one.take(leaves(300))
    one.ask()
    one.work()
    one.take(leaves(300, 300))
    files.fail(name, fault)
    one.ask()
    for _ in range(3):
        one.work()
    assert (watching.failures, len(watching.heads)) == (3, 1)
    assert signed(tmp_path).size == 300
    files.mend()
    one.work()
    assert signed(tmp_path).size == 600
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "no checkpoint of the audit log can be written: " in told[0]
    assert "can be written again" in told[1]


def test_the_thread_tries_again_by_itself(tmp_path: Path) -> None:
    """Traffic or not."""
    files = FaultyFiles()
    one, watching = notary(tmp_path, files)
    files.fail("create")
    one.start()
    one.take(leaves(10))
    one.ask()
    until(lambda: watching.failures)
    files.mend()
    until(lambda: watching.heads)
    assert signed(tmp_path).size == 10
    one.close(10)


def test_a_checkpoint_is_replaced_in_one_piece(tmp_path: Path) -> None:
    """Whoever reads it at any moment reads a whole one."""
    one, _ = notary(tmp_path)
    one.take(leaves(1))
    one.ask()
    one.work()
    over = threading.Event()
    bad: list[BaseException] = []

    def look() -> None:
        while not over.is_set():
            try:
                Checkpoint.open((tmp_path / "checkpoint").read_text(), PUBLIC)
            except BaseException as error:
                bad.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 100):
        one.take(leaves(1, number))
        one.ask()
        one.work()
    over.set()
    thread.join(10)
    assert bad == []


def test_a_draft_of_a_crash_is_not_in_the_way(tmp_path: Path) -> None:
    """It is written anew."""
    (tmp_path / "checkpoint.new").write_text("half")
    replace_file(tmp_path / "checkpoint", b"whole", FaultyFiles())
    assert (tmp_path / "checkpoint").read_bytes() == b"whole"
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


# What waits is bounded.


def opened(directory: Path, files: FaultyFiles, *, segment_bytes: int = 1 << 20) -> Store:
    return open_store(directory, ORIGIN, signing=SIGNING, segment_bytes=segment_bytes, files=files)


class TreeFails(FaultyFiles):
    """Only the tree's files fail, as where their folder cannot be written but the journal's file can."""

    failing = False

    def create(self, path: Path) -> int:
        if self.failing and "tile" in path.parts:
            raise OSError(errno.ENOSPC, "injected ENOSPC")
        return super().create(path)


def test_where_the_tree_cannot_be_written_the_journal_soon_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are served until BACKLOG_BYTES wait, then refused; it recovers by itself, with every record in the tree."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(module, "_FLUSH_BYTES", 20_000)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    files = TreeFails()

    async def run() -> list[str]:
        log = AuditLog.open(
            tmp_path, ORIGIN, signing=SIGNING, files=files, commit_seconds=20, segment_bytes=1 << 20, probe_seconds=0.02
        )
        files.failing = True
        taken: list[str] = []
        refused = 0
        while not refused:
            assert len(taken) < 3000, "what waits is not bounded"
            names = [f"call-{len(taken) + at}" for at in range(20)]
            found = await asyncio.gather(*(log.append(intent(name)) for name in names), return_exceptions=True)
            taken += [name for name, error in zip(names, found, strict=True) if error is None]
            refused = sum(isinstance(error, AuditUnavailable) for error in found)
        assert len(taken) > 100, "a tree that is late for a moment refuses nobody"
        assert not log.healthy
        files.failing = False
        end = time.monotonic() + 20
        while not log.healthy:
            assert time.monotonic() < end, "it does not recover"
            await asyncio.sleep(0.01)
        await log.append(intent("after"))
        await log.close()
        return taken

    taken = asyncio.run(run())
    records = read(tmp_path)
    assert [each["cause"] for each in records if each["type"] == "log.recovered"] == ["tree_behind"]
    found = [each["request_id"] for each in records if each["type"] == "intent"]
    assert found == [*taken, "after"]
    assert signed(tmp_path / ORIGIN).size == len(records)


def test_full_is_more_than_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends when the tree has taken them."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)
    store = opened(tmp_path, FaultyFiles())
    store.notary.grow()
    store.notary.take([b"x" * 1000])
    assert not store.notary.full
    store.notary.take([b"x"])
    assert store.notary.full
    with pytest.raises(WriteFailed, match="too many records wait for it") as fault:
        store.commit([intent("r1")])
    assert fault.value.cause == "tree_behind"
    store.notary.grow()
    assert not store.notary.full
    store.abandon()


def test_a_tree_that_is_only_slower_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood does not make the journal refuse: it waits for the tree as long as it may, but not for one that fails."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)
    slow, _ = notary(tmp_path / "slow")
    slow.take(leaves(200))
    assert not slow.has_room(0.05)
    slow.start()
    assert slow.has_room(10)
    slow.close(10)

    files = FaultyFiles()
    failing, watching = notary(tmp_path / "failing", files, records=1)
    failing.take(leaves(1))
    files.fail("sync")
    failing.work()
    failing.take(leaves(200))
    began = time.monotonic()
    assert not failing.has_room(10)
    assert time.monotonic() - began < 5
    assert watching.failures == 1


def test_the_event_loop_is_not_kept_waiting(tmp_path: Path) -> None:
    """Records are acknowledged while the tree's disk hangs."""
    files = TreeFails()
    released = threading.Event()

    class Hangs(TreeFails):
        def create(self, path: Path) -> int:
            if "tile" in path.parts:
                assert released.wait(30)
            return super().create(path)

    files = Hangs()

    async def run() -> None:
        log = AuditLog.open(tmp_path, ORIGIN, signing=SIGNING, files=files, commit_seconds=5, segment_bytes=1 << 20)
        await log.append(intent("first"))
        log.checkpoint()
        for number in range(20):
            await asyncio.wait_for(log.append(intent(f"call-{number}")), 20)
        assert log.healthy
        released.set()
        await log.close()

    asyncio.run(run())
    assert signed(tmp_path / ORIGIN).size == len(read(tmp_path))


# What is covered goes.


def test_covered_segments_go_but_the_newest_two(tmp_path: Path) -> None:
    """The bundles hold the same records: reading the log shows no difference."""
    store = opened(tmp_path, FaultyFiles(), segment_bytes=2000)
    for number in range(60):
        store.commit([intent(f"r{number}")])
    home = tmp_path / ORIGIN
    before = list(LogReader(home).leaves())
    assert len(segments(home)) > 10
    newest = segments(home)[-2:]
    store.close()
    assert segments(home) == newest
    assert list(LogReader(home).leaves()) == before
    assert len(read(tmp_path)) == len(before)


def test_uncovered_segments_stay(tmp_path: Path) -> None:
    """Whatever the tree could not be written for is in the journal still."""
    files = TreeFails()
    store = opened(tmp_path, files, segment_bytes=2000)
    for number in range(30):
        store.commit([intent(f"r{number}")])
    store.notary.ask()
    store.notary.work()
    covered = segments(tmp_path / ORIGIN)
    files.failing = True
    for number in range(30, 60):
        store.commit([intent(f"r{number}")])
    store.close()
    left = segments(tmp_path / ORIGIN)
    assert left[:2] == covered
    assert len(left) > 10
    files.failing = False
    opened(tmp_path, files).close()
    assert [each["request_id"] for each in read(tmp_path) if each["type"] == "intent"] == [f"r{n}" for n in range(60)]


def test_a_segment_that_cannot_be_removed_costs_no_checkpoint(tmp_path: Path) -> None:
    """It is removed by a later one."""
    files = FaultyFiles()
    store = opened(tmp_path, files, segment_bytes=2000)
    for number in range(30):
        store.commit([intent(f"r{number}")])
    files.fail("remove", errno.EACCES)
    store.notary.ask()
    store.notary.work()
    assert signed(tmp_path / ORIGIN).size == store.next_index
    files.mend()
    store.commit([intent("last")])
    store.close()
    assert len(segments(tmp_path / ORIGIN)) == 2


def test_the_defaults_are_those_of_the_settings() -> None:
    """16,384 records, a minute."""
    assert (Signing(SIGNING.signer).records, Signing(SIGNING.signer).seconds) == (16_384, 60)
