"""Couriers and spools: copies go out in order, a sink that is down holds up nobody, a restart loses nothing."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from support.copies import HOUSE, Counted, GrownLog, ListSink
from support.house import until
from vestry.audit.copies import spool as spools
from vestry.audit.copies.couriers import Couriers
from vestry.audit.copies.sink import Item
from vestry.audit.copies.spool import Spool
from vestry.audit.tlog.notes import Checkpoint


def started(home: Path, *sinks: ListSink, counted: Counted | None = None, limit: int = 100) -> Couriers:
    couriers = Couriers(home, sinks, observer=counted, limit=limit, first_pause=0.02, longest_pause=0.1)
    couriers.start()
    return couriers


def tell(couriers: Couriers, log: GrownLog, *sizes: int) -> None:
    for size in sizes:
        note = log.grow(size)
        couriers.checkpointed(note, log.head)


def test_checkpoints_go_to_every_sink_in_order(tmp_path: Path) -> None:
    """What is signed comes to each sink, in the order of signing, and is counted."""
    log, one, two, counted = GrownLog(tmp_path / "server"), ListSink("one"), ListSink("two"), Counted()
    couriers = started(log.home, one, two, counted=counted)
    tell(couriers, log, 3, 300, 301)
    one.wait_for(3, 300, 301)
    two.wait_for(3, 300, 301)
    couriers.close()
    assert sorted(counted.sizes) == [3, 3, 300, 300, 301, 301]
    assert (counted.declared, counted.failures, counted.waiting) == (["one", "two"], 0, 0)


def test_down_at_the_start_and_in_the_middle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a sink that is down did not take waits on the disk, is tried again, and comes in order when it is up."""
    log, sink, counted = GrownLog(tmp_path / "server"), ListSink(down="it is down"), Counted()
    couriers = started(log.home, sink, counted=counted)
    tell(couriers, log, 1, 2)
    until(lambda: counted.failures >= 3 and counted.waiting == 2, what="three failed tries")
    assert counted.since is not None
    assert time.time() - counted.since < 60
    assert sorted(each.suffix for each in (log.home / "spool" / "list").iterdir()) == [".checkpoint"] * 2
    sink.down = ""
    sink.wait_for(1, 2)
    tell(couriers, log, 3)
    sink.wait_for(1, 2, 3)
    sink.down = "it is down again"
    tell(couriers, log, 4, 5)
    until(lambda: counted.waiting == 2, what="two to wait")
    sink.down = ""
    sink.wait_for(1, 2, 3, 4, 5)
    until(lambda: counted.waiting == 0, what="an empty spool")
    couriers.close()
    said = [record.getMessage() for record in caplog.records]
    assert sum("it is down" in each and "again" not in each for each in said) == 1, "each failure is said once"
    assert any("is taken again" in each for each in said)


def test_one_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    """While one sink hangs, `checkpointed` returns at once, the other sink gets everything, and all is on the disk."""
    log, released = GrownLog(tmp_path / "server"), threading.Event()
    hanging, well = ListSink("hanging", before=lambda: (released.wait(20), None)[1]), ListSink("well")
    couriers = started(log.home, hanging, well)
    began = time.monotonic()
    for size in range(1, 21):
        note = log.grow(size)
        before = time.monotonic()
        couriers.checkpointed(note, log.head)
        assert time.monotonic() - before < 5
    well.wait_for(*range(1, 21))
    until(lambda: len(list((log.home / "spool" / "hanging").glob("*.checkpoint"))) == 20, what="the spool")
    assert hanging.items == []
    closing = time.monotonic()
    couriers.close(0.3)
    assert time.monotonic() - closing < 10, "a stop does not wait for it"
    released.set()
    assert time.monotonic() - began < 15


def test_a_restart_delivers_what_waited(tmp_path: Path) -> None:
    """Another process goes on with the spool, in order, and does not deliver again what is there."""
    log, sink = GrownLog(tmp_path / "server"), ListSink()
    couriers = started(log.home, sink)
    tell(couriers, log, 1)
    sink.wait_for(1)
    sink.down = "it is down"
    tell(couriers, log, 2, 3)
    until(lambda: len(list((log.home / "spool" / "list").glob("0*.checkpoint"))) == 2, what="the spool")
    couriers.close()
    sink.down = ""
    counted = Counted()
    couriers = started(log.home, sink, counted=counted)
    sink.wait_for(1, 2, 3)
    tell(couriers, log, 4)
    sink.wait_for(1, 2, 3, 4)
    couriers.close()
    assert counted.known == [1], "the size that it has is known from before"
    for _ in range(2):
        couriers = started(log.home, sink)
        couriers.registered("the registry\n")
        couriers.close()
    assert sink.sizes == [1, 2, 3, 4]
    assert [each.kind for each in sink.items].count("registry") == 1


def test_a_checkpoint_that_a_crash_kept_from_the_spool_is_delivered(tmp_path: Path) -> None:
    """The log's own checkpoint is taken up at the start, so a crash between signing and spooling loses nothing."""
    log, sink = GrownLog(tmp_path / "server"), ListSink()
    log.grow(7)
    couriers = started(log.home, sink)
    sink.wait_for(7)
    couriers.close()


def test_the_last_checkpoint_goes_out_at_the_stop(tmp_path: Path) -> None:
    """`close` waits a moment for what is on its way."""
    log, sink = GrownLog(tmp_path / "server"), ListSink(before=lambda: time.sleep(0.1))
    couriers = started(log.home, sink)
    tell(couriers, log, 1, 2, 3)
    couriers.close()
    assert sink.sizes == [1, 2, 3]


def test_a_full_spool_keeps_the_newest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a long outage the newest stay; what made room is counted and said, and the registry is not among it."""
    log, sink, counted = GrownLog(tmp_path / "server"), ListSink(down="it is down"), Counted()
    couriers = started(log.home, sink, counted=counted, limit=3)
    couriers.registered("an older registry\n")
    couriers.registered("the registry\n")
    tell(couriers, log, *range(1, 11))
    until(lambda: counted.dropped == 7, what="seven to make room")
    sink.down = ""
    sink.wait_for(8, 9, 10)
    until(lambda: counted.waiting == 0, what="an empty spool")
    couriers.close()
    assert [each.note for each in sink.items if each.kind == "registry"] == ["the registry\n"]
    assert any("made room" in record.getMessage() for record in caplog.records)


def test_a_registry_goes_only_where_it_is_kept(tmp_path: Path) -> None:
    """Syslog and witnesses get checkpoints only."""
    log, keeps, not_ = GrownLog(tmp_path / "server"), ListSink("keeps"), ListSink("not", keeps_registry=False)
    couriers = started(log.home, keeps, not_)
    couriers.registered("the registry\n")
    tell(couriers, log, 1)
    not_.wait_for(1)
    keeps.wait_for(1)
    couriers.close()
    assert [each.kind for each in keeps.items] == ["registry", "checkpoint"]
    assert [each.kind for each in not_.items] == ["checkpoint"]


def test_whatever_a_sink_raises_its_thread_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw is a failed try, said with its place."""
    times: list[int] = []

    def fail_twice() -> None:
        times.append(1)
        if len(times) < 3:
            raise KeyError("unforeseen")

    log, counted = GrownLog(tmp_path / "server"), Counted()
    sink = ListSink(before=fail_twice)
    couriers = started(log.home, sink, counted=counted)
    tell(couriers, log, 1)
    sink.wait_for(1)
    couriers.close()
    assert counted.failures == 2
    assert any(record.exc_info for record in caplog.records)


def test_without_sinks_nothing_happens(tmp_path: Path) -> None:
    """No thread, no folder."""
    log = GrownLog(tmp_path / "server")
    before = threading.active_count()
    couriers = started(log.home)
    tell(couriers, log, 1)
    couriers.registered("registry\n")
    couriers.checkpoint_failed()
    assert threading.active_count() == before
    couriers.close()
    assert not (log.home / "spool").exists()


# The spool by itself.


def note_of(size: int) -> Item:
    return Item("checkpoint", HOUSE.sign(Checkpoint("house.test/vestry", size, b"r" * 32).text()))


def test_a_damaged_item_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of the spool that is no checkpoint, too large, or gone does not block those behind it."""
    spool = Spool(tmp_path / "spool")
    items = [note_of(size) for size in range(1, 6)]
    for each in items:
        spool.put(each)
    one, two, three, four, _ = sorted(tmp_path.glob("spool/*.checkpoint"))
    one.write_bytes(b"\xff")
    two.unlink()
    three.write_bytes(b"x" * 70_000)
    four.write_text(items[3].note[:40])
    for name, age in ((".old", 7200), (".young", 0)):
        (tmp_path / "spool" / name).touch()
        os.utime(tmp_path / "spool" / name, (time.time() - age,) * 2)
    again = Spool(tmp_path / "spool")
    found = again.first()
    assert found is not None
    assert found[1] == items[4]
    assert again.dropped == 3
    mine = spool.first()
    assert mine is not None
    assert mine[1] == items[4]
    assert [each.name for each in (tmp_path / "spool").glob(".*")] == [".young"]
    assert "cannot be read" in caplog.text


def test_two_processes_share_a_spool(tmp_path: Path) -> None:
    """Commands that run at once put into one folder; nothing is overwritten, and what one delivered the other skips."""
    one, two = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    one.put(note_of(1))
    two.put(note_of(2))
    third = Spool(tmp_path / "spool")
    assert third.waiting[0] == 2
    while (found := third.first()) is not None:
        third.done(*found)
    assert (one.first(), two.first()) == (None, None)
    assert one.dropped == two.dropped == 0


def test_where_the_disk_is_full_items_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is not lost for want of space, and the bound holds."""

    def full(path: Path, text: str, *, over: bool = True) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(tmp_path / "spool", limit=2)
    monkeypatch.setattr(spools, "write_whole", full)
    for size in (1, 2, 3):
        spool.put(note_of(size))
    assert spool.holds(note_of(3))
    assert not spool.holds(note_of(2))
    assert spool.waiting[0] == 2
    found = spool.first()
    assert found is not None
    assert found[1] == note_of(2)
    spool.done(*found)
    assert (spool.waiting[0], spool.dropped) == (1, 1)


def test_a_spool_that_is_no_folder_is_empty(tmp_path: Path) -> None:
    """Somebody put a file in its place: items wait in memory."""
    (tmp_path / "spool").write_text("no folder")
    spool = Spool(tmp_path / "spool")
    spool.put(note_of(1))
    found = spool.first()
    assert found is not None
    assert found[1] == note_of(1)
    spool.done(*found)
    assert spool.waiting == (0, None)
    assert spool.delivered() is None


def test_a_spool_that_does_not_answer_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Something may wait there, and is not delivered."""
    (tmp_path / "spool").symlink_to(tmp_path / "spool")  # ELOOP, as EIO would be
    assert Spool(tmp_path / "spool").waiting == (0, None)
    assert "so what waited there is not delivered" in caplog.text
