"""The directory sink: one file a checkpoint, durable, never replaced; full and read-only volumes; the newest one."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.copies import GrownLog
from vestry.audit.copies import directory
from vestry.audit.copies.comparing import compare_with_copies
from vestry.audit.copies.directory import DirectorySink
from vestry.audit.copies.sink import Item
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.notes import Checkpoint
from vestry.wires import Undelivered


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "volume"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_one_file_a_checkpoint_and_the_latest(tmp_path: Path) -> None:
    """Each checkpoint stands in a file of its own, for this user alone; `latest` is the last; again does no harm."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    assert sink.newest().notes == ()
    notes = [log.grow(size) for size in (1, 5, 300)]
    for note in [*notes, notes[1], notes[2]]:
        sink.deliver(Item("checkpoint", note))
    found = sorted((outside / "server/checkpoints/000000000000").iterdir())
    assert [int(each.name[:18]) for each in found] == [1, 5, 300]
    assert [each.read_text() for each in found] == notes
    assert (outside / "server/latest").read_text() == notes[2]
    assert {each.stat().st_mode & 0o777 for each in found} == {0o600}
    assert not list(outside.rglob(".*")), "no draft is left"
    assert sink.newest().notes[0] == notes[2]


@pytest.fixture
def append_only() -> Iterator[Callable[[Path], None]]:
    """Makes folders append-only, as docs/audit-copies.md says, and undoes it."""
    made: list[Path] = []

    def only(folder: Path) -> None:
        if subprocess.run(["chattr", "+a", str(folder)], capture_output=True, check=False).returncode:
            pytest.skip("this file system has no append-only folders")
        made.append(folder)

    yield only
    for each in made:
        subprocess.run(["chattr", "-a", str(each)], check=True)


def test_folders_that_are_append_only(tmp_path: Path, append_only: Callable[[Path], None]) -> None:
    """What stands in `checkpoints/…` and `registry` can be protected from us: new ones come beside it, and no draft."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    notes = [log.grow(size) for size in (1, 5)]
    for note in notes:
        sink.deliver(Item("checkpoint", note))
        sink.deliver(Item("registry", note))
        if note == notes[0]:
            for folder in ("server/checkpoints/000000000000", "server/checkpoints", "registry"):
                append_only(outside / folder)
    for folder in ("server/checkpoints/000000000000", "registry"):
        assert {each.read_text() for each in (outside / folder).iterdir()} == set(notes)
        for each in (outside / folder).iterdir():
            with pytest.raises(PermissionError):
                each.unlink()
    assert (outside / "server/latest").read_text() == (outside / "origins").read_text() == notes[1]
    assert not list(outside.rglob(".*")), "no draft is left"


def test_two_checkpoints_of_one_size_stand_side_by_side(tmp_path: Path) -> None:
    """A second one cannot replace the first: both are evidence."""
    log, other, outside = GrownLog(tmp_path / "a"), GrownLog(tmp_path / "b", text="forged"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    notes = [log.grow(5), other.grow(5)]
    for note in notes:
        sink.deliver(Item("checkpoint", note))
    assert set(sink.newest().notes) == set(notes)


def test_the_newest_is_found_across_folders(tmp_path: Path) -> None:
    """A folder holds a million records; the newest checkpoint is in the last, whatever `latest` says."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    notes = {
        size: log.signer.sign(Checkpoint(log.public.name, size, b"r" * 32).text())
        for size in (999_999, 1_000_000, 2_500_000)
    }
    for note in notes.values():
        sink.deliver(Item("checkpoint", note))
    (outside / "server/latest").write_text(notes[999_999])
    assert [each.name for each in sorted((outside / "server/checkpoints").iterdir())] == [
        "000000000000",
        "000000000001",
        "000000000002",
    ]
    assert sink.newest().notes[0] == notes[2_500_000]
    for folder in (outside / "server/checkpoints").iterdir():
        for each in folder.iterdir():
            each.unlink()
    assert sink.newest().notes == (notes[999_999],), "with the files gone, `latest` is left"


def test_garbage_is_passed_over_and_said(tmp_path: Path) -> None:
    """What is no text, enormous, a link, a folder or a pipe is a doubt; other names are not looked at."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    note = log.grow(5)
    sink.deliver(Item("checkpoint", note))
    folder = outside / "server/checkpoints/000000000000"
    (folder / f"{9:018d}-{'0' * 16}").write_bytes(b"\xff" * 10)
    (folder / f"{8:018d}-{'0' * 16}").write_bytes(b"x" * 1_000_000)
    (folder / f"{7:018d}-{'0' * 16}").symlink_to("/dev/zero")
    (folder / f"{6:018d}-{'0' * 16}").mkdir()
    os.mkfifo(folder / f"{10:018d}-{'0' * 16}")
    (folder / "notes.txt").write_text("other")
    held = sink.newest()
    assert held.notes == (note, note)
    assert len(held.doubts) == 5


def test_a_flood_of_forged_files_hides_no_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of old notes that the log did sign, under others' names; beyond a bound the directory has not answered."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server", public=log.public)
    old, newest = log.grow(5), log.grow(9)
    for note in (old, newest):
        sink.deliver(Item("checkpoint", note))
    folder = outside / "server/checkpoints" / ("9" * 12)
    folder.mkdir()
    for number in range(40):
        forged = f"{log.public.name}\n{10**17 + number}\nx\n\n— x AAAAAAAA\n"
        digest = hashlib.sha256(forged.encode()).hexdigest()[:16]
        (folder / f"{10**17 + number:018d}-{digest}").write_text(old if number % 2 else forged)
    (outside / "server/latest").write_text(old)
    assert newest in sink.newest().notes
    monkeypatch.setattr(directory, "_MOST", 40)
    with pytest.raises(Undelivered, match="40 files above its newest checkpoint"):
        sink.newest()


def test_a_folder_that_cannot_be_read_hides_no_rollback(tmp_path: Path) -> None:
    """As a link to itself, above the newest checkpoint: what stands below speaks against the log all the same. Where it
    does not, the folder may, so the log was not compared.
    """
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server", public=log.public)
    sink.deliver(Item("checkpoint", log.grow(300)))
    back = log.snapshot(tmp_path / "snapshot")
    sink.deliver(Item("checkpoint", log.grow(500)))
    (outside / "server/checkpoints" / ("9" * 12)).symlink_to("9" * 12)
    [found] = compare_with_copies(log.home, 500, log.head.root, log.public, [sink])
    assert (found.agrees, found.size) == (False, 500)
    assert "999999999999 cannot be read (ELOOP)" in found.doubts[-1]
    back()
    with pytest.raises(LogDamaged, match="500 records"):
        compare_with_copies(log.home, 300, log.heads[0].root, log.public, [sink])


def test_the_registry_is_kept_in_every_version(tmp_path: Path) -> None:
    """`origins` is the newest; a shorter one does not make the longer one vanish."""
    outside = tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    for note in ("one\ntwo\n", "one\n"):
        sink.deliver(Item("registry", note))
    assert (outside / "origins").read_text() == "one\n"
    assert {each.read_text() for each in (outside / "registry").iterdir()} == {"one\ntwo\n", "one\n"}


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """A volume that is not mounted shows, instead of a copy on the log's own disk."""
    log = GrownLog(tmp_path / "server")
    sink = DirectorySink("vault", tmp_path / "missing", "server")
    with pytest.raises(Undelivered, match="is not there"):
        sink.deliver(Item("checkpoint", log.grow(1)))
    with pytest.raises(Undelivered, match="is not there"):
        sink.newest()
    assert not (tmp_path / "missing").exists()


def test_a_directory_that_does_not_answer_is_not_called_missing(tmp_path: Path) -> None:
    """A volume may be mounted and fail: the error says how."""
    log, volume = GrownLog(tmp_path / "server"), tmp_path / "volume"
    volume.symlink_to(volume)  # ELOOP, as ESTALE would be
    sink = DirectorySink("vault", volume, "server")
    with pytest.raises(Undelivered, match=r"cannot be written to \(ELOOP"):
        sink.deliver(Item("checkpoint", log.grow(1)))
    with pytest.raises(Undelivered, match=r"cannot be read \(ELOOP"):
        sink.newest()


def test_a_full_volume(tmp_path: Path, volume: Path) -> None:
    """ENOSPC is a failed try, leaves no torn file, and passes by itself."""
    log = GrownLog(tmp_path / "server")
    sink = DirectorySink("vault", volume, "server")
    sink.deliver(Item("checkpoint", log.grow(1)))
    ballast = volume / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 1_000_000)
    with pytest.raises(Undelivered, match="ENOSPC"):
        sink.deliver(Item("checkpoint", log.grow(2)))
    assert len(sink.newest().notes) == 2, "the first, and `latest`"
    ballast.unlink()
    sink.deliver(Item("checkpoint", log.grow(2)))
    assert sink.newest().notes[0].split("\n")[1] == "2"


def test_an_entry_that_did_not_become_durable_is_delivered_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose folder could not be synced stands under its name: the next try syncs it all the same."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    sink = DirectorySink("vault", outside, "server")
    sink.deliver(Item("checkpoint", log.grow(1)))
    folder, fsync = outside / "server/checkpoints/000000000000", os.fsync
    synced = 0

    def failing(descriptor: int) -> None:
        nonlocal synced
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            synced += 1
            if synced < 3:
                raise OSError(errno.EIO, "injected")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    note = log.grow(2)
    for _ in range(2):
        with pytest.raises(Undelivered, match="EIO"):
            sink.deliver(Item("checkpoint", note))
    sink.deliver(Item("checkpoint", note))
    assert synced == 3


def test_a_read_only_volume(tmp_path: Path, volume: Path) -> None:
    """It can be compared with, and not delivered to."""
    log = GrownLog(tmp_path / "server")
    sink = DirectorySink("vault", volume, "server")
    note = log.grow(1)
    sink.deliver(Item("checkpoint", note))
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    with pytest.raises(Undelivered, match="EROFS"):
        sink.deliver(Item("checkpoint", log.grow(2)))
    assert sink.newest().notes[0] == note


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    """It is a sentence, whatever stands there."""
    log, outside = GrownLog(tmp_path / "server"), tmp_path / "outside"
    outside.mkdir()
    (outside / "server").write_text("no folder")
    sink = DirectorySink("vault", outside, "server")
    with pytest.raises(Undelivered, match="cannot be written to"):
        sink.deliver(Item("checkpoint", log.grow(1)))
    assert sink.newest().notes == ()
