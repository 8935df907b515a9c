"""The comparison at the start: a log that was rolled back, cut off or rewritten is caught; doubts are said."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from support.copies import Counted, GrownLog, ListSink
from vestry.audit.copies.comparing import Compared, CopyMissing, compare_with_copies
from vestry.audit.copies.sink import Held
from vestry.audit.files import Files
from vestry.audit.pruning import remove
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.merkle import EMPTY_ROOT
from vestry.audit.tlog.notes import Signer


def compare(log: GrownLog, *sinks: ListSink, counted: Counted | None = None, seconds: float = 10) -> list[Compared]:
    return compare_with_copies(
        log.home, log.head.size, log.head.root, log.public, sinks, observer=counted, seconds=seconds
    )


def holding(*notes: str, **more: object) -> ListSink:
    return ListSink(held=Held(notes=notes, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 300, 700, 1000])
def test_a_log_that_has_grown_agrees(tmp_path: Path, size: int) -> None:
    """The root at an older size comes from the tiles, partial ones included."""
    log, counted = GrownLog(tmp_path / "server"), Counted()
    old = log.grow(size)
    log.grow(1000)
    assert compare(log, holding(old), counted=counted) == [Compared("list", agrees=True, size=size)]
    assert counted.compared == {"list": True}


@pytest.mark.parametrize("younger", [True, False])
def test_a_checkpoint_older_than_what_was_pruned_is_a_doubt(tmp_path: Path, *, younger: bool) -> None:
    """A sink that was away for as long as records are kept does not keep the log from opening; what it holds of later
    sizes is compared all the same, and a log that does not continue that is caught."""
    log, forged, counted = GrownLog(tmp_path / "server"), GrownLog(tmp_path / "forged", text="forged"), Counted()
    old, at, later = log.grow(300), log.grow(512), log.grow(700)
    log.grow(1000)
    remove(log.home, 0, 512, Files())
    [found] = compare(log, holding(old, at, later) if younger else holding(old), counted=counted)
    assert (found.agrees, found.size) == ((True, 700) if younger else (False, None))
    assert counted.compared == {"list": younger}
    assert found.doubts == (
        "its checkpoint of 300 records is older than what was pruned, the records below 512, so it cannot be compared",
    )
    with pytest.raises(LogDamaged, match="was rewritten"):
        compare(log, holding(old, forged.grow(700)))
    (log.home / "tile" / "0" / "002").unlink()
    with pytest.raises(LogDamaged, match="is missing"):
        compare(log, holding(old, later))


def test_a_rolled_back_log_is_caught(tmp_path: Path) -> None:
    """An older copy of the whole directory, checkpoint and all, is in order by itself; the copy outside has more."""
    log = GrownLog(tmp_path / "server")
    log.grow(300)
    back = log.snapshot(tmp_path / "snapshot")
    newest = log.grow(500)
    back()
    log.heads.pop()
    with pytest.raises(
        LogDamaged, match=r"rolled back or cut off: `list` \(a list\) holds a checkpoint of 500 .* 300\."
    ):
        compare(log, holding(newest))


def test_a_log_that_is_gone_is_caught(tmp_path: Path) -> None:
    """Nothing at all is less than what was signed."""
    log = GrownLog(tmp_path / "server")
    newest = log.grow(5)
    shutil.rmtree(log.home)
    log.home.mkdir()
    with pytest.raises(LogDamaged, match="holds a checkpoint of 5 records; the log's own newest one has 0"):
        compare_with_copies(log.home, 0, EMPTY_ROOT, log.public, [holding(newest)])


@pytest.mark.parametrize(("forged", "size"), [(500, 500), (800, 500)])
def test_a_rewritten_log_is_caught(tmp_path: Path, forged: int, size: int) -> None:
    """Whoever holds the key can sign another history; of the same size or larger, it has another root there."""
    honest, log = GrownLog(tmp_path / "honest"), GrownLog(tmp_path / "server", text="forged")
    newest = honest.grow(size)
    log.grow(forged)
    with pytest.raises(LogDamaged, match="was rewritten"):
        compare(log, holding(newest))


def test_tiles_that_are_not_the_checkpoints_are_caught(tmp_path: Path) -> None:
    """The comparison trusts no tile before it gives the signed root."""
    log = GrownLog(tmp_path / "server")
    note = log.grow(300)
    tile = log.home / "tile/0/001.p/44"
    tile.write_bytes(b"x" + tile.read_bytes()[1:])
    with pytest.raises(LogDamaged, match="its tiles do not give the root"):
        compare(log, holding(note))
    tile.unlink()
    with pytest.raises(LogDamaged, match="is missing"):
        compare(log, holding(note))


def test_tiles_of_two_histories_are_caught(tmp_path: Path) -> None:
    """A forger who leaves the honest tiles below, and forges those above, has two roots that nothing joins."""
    honest, log = GrownLog(tmp_path / "honest"), GrownLog(tmp_path / "server", text="forged")
    early = honest.grow(100)
    honest.grow(300)
    log.grow(300)
    shutil.copyfile(honest.home / "tile/0/000", log.home / "tile/0/000")
    with pytest.raises(LogDamaged, match="was rewritten"):
        compare(log, holding(early))


def test_an_older_copy_first_does_not_hide_a_newer_one(tmp_path: Path) -> None:
    """All that a sink shows is looked at."""
    log = GrownLog(tmp_path / "server")
    old = log.grow(3)
    back = log.snapshot(tmp_path / "snapshot")
    newer = log.grow(9)
    back()
    log.heads.pop()
    with pytest.raises(LogDamaged, match="9 records"):
        compare(log, holding("garbage", old, newer))


def test_garbage_and_other_keys_are_doubts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the log's own key has not signed says nothing against the log, however large the size it claims."""
    log = GrownLog(tmp_path / "server")
    note = log.grow(5)
    stranger = Signer.generate("house.test/vestry").of("server")
    larger = log.head.text().replace("\n5\n", "\n900\n")
    tampered = note.replace("\n5\n", "\n900\n")
    other_log = GrownLog(tmp_path / "two", origin="server/two").grow(700)
    sink = holding("garbage", stranger.sign(larger), tampered, other_log, note, "\n\n", "x" * 60_000)
    [found] = compare(log, sink)
    assert (found.agrees, found.size) == (True, 5)
    assert len(found.doubts) == 3, "each is said once"
    assert "is not signed by" in caplog.text
    assert "does not fit the text" in caplog.text


def test_a_size_without_a_checkpoint_counts(tmp_path: Path) -> None:
    """A witness's 409 states a size: a larger one than the log's is a log rolled back."""
    log = GrownLog(tmp_path / "server")
    log.grow(5)
    assert compare(log, holding(size=5))[0].size == 5
    with pytest.raises(LogDamaged, match="6 records"):
        compare(log, holding(size=6))


def test_one_that_cannot_be_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unreachable is a warning and a figure; where it is required, the log is not opened."""
    log, counted = GrownLog(tmp_path / "server"), Counted()
    log.grow(5)
    down = ListSink("vault", down="it is down")
    [found] = compare(log, down, counted=counted)
    assert (found.agrees, counted.compared) == (False, {"vault": False})
    assert "was not compared with the outside copy `vault`: it is down" in caplog.text
    down.required = True
    with pytest.raises(CopyMissing, match=r"`required`.*`vault`: it is down"):
        compare(log, down)


def test_a_contradiction_is_told_before_a_silence(tmp_path: Path) -> None:
    """A required sink that is down does not hide that another speaks against the log."""
    log = GrownLog(tmp_path / "server")
    log.grow(3)
    back = log.snapshot(tmp_path / "snapshot")
    newest = log.grow(9)
    back()
    log.heads.pop()
    with pytest.raises(LogDamaged, match="rolled back"):
        compare(log, ListSink("vault", down="it is down", required=True), holding(newest))


def test_one_that_hangs_has_a_deadline(tmp_path: Path) -> None:
    """All are asked at once, and the start does not wait for ever."""
    released = threading.Event()

    class Hanging(ListSink):
        def newest(self) -> Held | None:
            released.wait(20)
            return None

    log = GrownLog(tmp_path / "server")
    note = log.grow(5)
    began = time.monotonic()
    found = compare(log, Hanging("one"), Hanging("two"), holding(note), seconds=0.3)
    assert time.monotonic() - began < 15
    assert [each.agrees for each in found] == [False, False, True]
    released.set()


def test_one_that_never_answers_such_questions(tmp_path: Path) -> None:
    """A syslog receiver is neither compared nor missed; an exception that nobody foresaw is a silence."""

    class Broken(ListSink):
        def newest(self) -> Held | None:
            raise KeyError("unforeseen")

    log, counted = GrownLog(tmp_path / "server"), Counted()
    log.grow(5)
    found = compare(log, ListSink("syslog", held=None), Broken("broken"), counted=counted)
    assert [each.agrees for each in found] == [None, False]
    assert counted.compared == {"broken": False}
