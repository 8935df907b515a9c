"""Opening a log: locks, torn tails, open intents, damage; and one record written by a command."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.audit import ORIGIN, SIGNING, FaultyFiles, HandClock, kinds, read
from fakes.calls import PRINCIPAL, head, intent, outcome
from vestry.audit import scan
from vestry.audit.canonical import NotCanonical
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.opening import append_all, open_store
from vestry.audit.reading import origins
from vestry.audit.records import Records
from vestry.audit.scan import LogDamaged, LogLocked, LogUnusable
from vestry.audit.store import Store, WriteFailed
from vestry.errors import NoReplica
from vestry.seams import Record

SEGMENT = 1 << 20


def opened(directory: Path, *, segment_bytes: int = SEGMENT, **more: Any) -> Store:
    """The log, opened for writing."""
    return open_store(directory, ORIGIN, signing=SIGNING, segment_bytes=segment_bytes, **more)


def written(directory: Path, *records: Record, segment_bytes: int = SEGMENT) -> None:
    """A log with these records, each committed for itself, and left as by a crash: no checkpoint covers them."""
    store = opened(directory, segment_bytes=segment_bytes)
    for record in records:
        store.commit([record])
    store.abandon()


def only_segment(directory: Path) -> Path:
    (path,) = (directory / ORIGIN).glob("*.jsonl")
    return path


def reopened(directory: Path) -> list[dict[str, Any]]:
    """What the log holds after it was opened once more."""
    opened(directory).close()
    return read(directory)


# Names, locks, the disk ------------------------------------------------------------------------------------------


def test_a_new_log(tmp_path: Path) -> None:
    """A log begins with the record of its first segment; it and its directory are for their owner only."""
    written(tmp_path, intent("a"), outcome("a"))
    assert kinds(tmp_path) == ["segment.begin", "intent", "outcome"]
    path = only_segment(tmp_path)
    assert path.name == "000000000000000000.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "origin", ["../elsewhere", "a/../b", "a//b", "/a", "a/", "A", ".a", "", "a" * 64, "a b", "a\n"]
)
def test_a_name_that_is_no_origin(tmp_path: Path, origin: str) -> None:
    """A name that could leave the directory, or be read in two ways, is refused before anything is made."""
    with pytest.raises(LogUnusable, match="cannot name a log"):
        open_store(tmp_path, origin, signing=SIGNING, segment_bytes=SEGMENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("link", "origin"), [("server", "server"), ("ward", "ward/server")])
def test_a_log_behind_a_link(tmp_path: Path, link: str, origin: str) -> None:
    """Commands follow no links below the audit directory: what is written there, none of them would find, or erase.
    The audit directory itself may be one.
    """
    audit = tmp_path / "audit"
    audit.symlink_to("volume")
    (tmp_path / "volume").mkdir()
    (audit / link).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(LogUnusable, match=r"is a link, or lies behind one.*Mount the volume there"):
        open_store(audit, origin, signing=SIGNING, segment_bytes=SEGMENT)
    assert not [each for each in (tmp_path / "elsewhere").rglob("*") if each.is_file()]
    (audit / link).unlink()
    open_store(audit, origin, signing=SIGNING, segment_bytes=SEGMENT).close()
    assert origins(audit) == [origin]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """While one process writes, a second one is told which process that is, and what to do."""
    program = (
        "import sys; from pathlib import Path; from vestry.audit.opening import open_store\n"
        "from fakes.audit import SIGNING\n"
        "from fakes.audit import SIGNING\n"
        f"store = open_store(Path({str(tmp_path)!r}), 'server', signing=SIGNING, segment_bytes=65536)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(LogLocked) as refusal:
            opened(tmp_path)
        assert f"process id {holder.pid}" in str(refusal.value)
        assert "`audit.origin`" in str(refusal.value)
    finally:
        holder.communicate()
    assert [each["type"] for each in reopened(tmp_path)] == ["segment.begin"]


def test_the_lock_holds_within_a_process(tmp_path: Path) -> None:
    """Two logs of one origin in one process exclude each other too; two origins do not."""
    store = opened(tmp_path)
    with pytest.raises(LogLocked):
        opened(tmp_path)
    open_store(tmp_path, "server/two", signing=SIGNING, segment_bytes=SEGMENT).close()
    store.close()
    opened(tmp_path).close()


@pytest.mark.parametrize("name", ["sync_directory", "lock"])
def test_a_disk_that_cannot_be_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses, the sentence names the place, the cause and the mend."""
    files = FaultyFiles()

    def broken(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files, name, broken)
    with pytest.raises(LogUnusable, match=r"cannot be opened: .*Read-only.*`audit.directory`"):
        open_store(tmp_path / "new", ORIGIN, signing=SIGNING, segment_bytes=SEGMENT, files=files)


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks is refused: a second writer could not be kept out."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(LogUnusable, match="No locks available"):
        opened(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """A directory that is a file is a sentence, not a traceback."""
    (tmp_path / "audit").write_text("")
    with pytest.raises(LogUnusable, match="cannot be opened"):
        opened(tmp_path / "audit")


# Torn tails ------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
def test_a_torn_tail_at_every_byte(tmp_path: Path) -> None:
    """Cut anywhere in the last record, the log opens with all before it, and the trim is recorded with its hash."""
    master = tmp_path / "master"
    written(master, intent("a"), outcome("a"), Records().event(RecordType.SERVER_STOP, version="1"))
    whole = only_segment(master).read_bytes()
    before = read(master)
    begin = whole.rstrip(b"\n").rfind(b"\n") + 1
    for size in range(begin, len(whole)):
        copy = tmp_path / f"cut-{size}"
        shutil.copytree(master, copy)
        only_segment(copy).write_bytes(whole[:size])
        found = reopened(copy)
        assert found[: len(before) - 1] == before[:-1]
        torn = whole[begin:size]
        if not torn:
            assert len(found) == len(before) - 1
            continue
        (trim,) = found[len(before) - 1 :]
        assert (trim["type"], trim["offset"], trim["bytes"]) == ("log.trim", begin, len(torn))
        assert trim["sha256"] == hashlib.sha256(torn).hexdigest()
        (kept,) = copy.glob("server/*.torn*")
        assert kept.name == f"000000000000000000-{begin}-1.torn"
        assert kept.read_bytes() == torn
        shutil.rmtree(copy)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tail=st.binary(min_size=1, max_size=300)
    | st.integers(1, 9000).map(lambda size: b"\x00" * size)
    | st.binary(max_size=100).map(lambda data: data + b"\n" + b"\x00" * 4096 + b'"}\n')
)
def test_garbage_behind_the_last_record(tmp_path: Path, tail: bytes) -> None:
    """Whatever a crash leaves behind the last record is set aside whole, and the log goes on behind that record."""
    directory = tmp_path / hashlib.sha256(tail).hexdigest()[:16]
    shutil.rmtree(directory, ignore_errors=True)
    written(directory, intent("a"), outcome("a"))
    with only_segment(directory).open("ab") as file:
        file.write(tail)
    found = reopened(directory)
    assert [record["type"] for record in found] == ["segment.begin", "intent", "outcome", "log.trim"]
    assert found[-1]["bytes"] == len(tail)
    assert reopened(directory) == found


def test_a_line_with_a_hole(tmp_path: Path) -> None:
    """A record whose middle never reached the disk (zeros) is torn, even where the end of its line did."""
    written(tmp_path, intent("a"), outcome("a"))
    path = only_segment(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"\x00" * 100 + data[-100:])
    assert kinds_after_opening(tmp_path) == ["segment.begin", "intent", "log.trim", "intent.closed"]


def kinds_after_opening(directory: Path) -> list[str]:
    return [record["type"] for record in reopened(directory)]


def test_a_torn_beginning(tmp_path: Path) -> None:
    """A log whose very first record is torn begins anew, and records what it found."""
    written(tmp_path, intent("a"))
    path = only_segment(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    assert kinds_after_opening(tmp_path) == ["segment.begin", "log.trim"]


@pytest.mark.parametrize("size", [0, 50])
def test_a_crash_while_a_segment_began(tmp_path: Path, size: int) -> None:
    """A new segment that is empty, or holds half a record, is taken back; the log goes on in the one before."""
    written(tmp_path, intent("a"))
    following = tmp_path / ORIGIN / scan.name_of(2)
    following.write_bytes(b'{"x":"' * 10)
    with following.open("r+b") as file:
        file.truncate(size)
    expected = ["segment.begin", "intent", *(["log.trim"] if size else []), "intent.closed"]
    assert kinds_after_opening(tmp_path) == expected
    assert not following.exists()


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("sync", 1),
        ("sync", 2),
        ("sync", 3),
        ("rename", 1),
        ("rename", 2),
        ("sync_directory", 1),
        ("write", 2),
        ("truncate", 1),
        ("append_to", 1),
        ("append_to", 2),
    ],
)
def test_a_crash_while_a_tail_is_trimmed(tmp_path: Path, name: str, step: int) -> None:
    """Stopped at any step of the trim, the next start finishes it: the same bytes set aside, recorded once."""
    written(tmp_path, intent("a"), outcome("a"))
    with only_segment(tmp_path).open("ab") as file:
        file.write(b"torn")
    files = FailsAt(name, step)
    with pytest.raises(LogUnusable, match="injected"):
        opened(tmp_path, files=files)
    found = reopened(tmp_path)
    trims = [record for record in found if record["type"] == "log.trim"]
    assert len(trims) in {1, 2}
    assert trims[0]["bytes"] == 4
    assert len(list(tmp_path.glob("server/*.torn"))) == len(trims)
    assert not list(tmp_path.glob("server/*.pending"))
    assert reopened(tmp_path) == found


class FailsAt(FaultyFiles):
    """The nth call of one system call fails, once."""

    def __init__(self, name: str, step: int) -> None:
        super().__init__()
        self._name, self._step = name, step

    def _strikes(self, name: str) -> OSError | str | None:
        self.calls[name] += 1
        if name == self._name and self.calls[name] == self._step:
            return OSError(errno.EIO, f"injected into {name}")
        return None


def test_a_tail_torn_twice_at_one_place(tmp_path: Path) -> None:
    """A crash while the trim was recorded tears the log at the same place again: both tails are kept and recorded."""
    written(tmp_path, intent("a"), outcome("a"))
    path = only_segment(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"first")
    with pytest.raises(LogUnusable):
        opened(tmp_path, files=FailsAt("rename", 2))
    path.write_bytes(whole + b"second")
    found = reopened(tmp_path)
    assert [record["bytes"] for record in found if record["type"] == "log.trim"] == [5, 6]
    assert sorted(each.read_bytes() for each in tmp_path.glob("server/*.torn")) == [b"first", b"second"]


# Damage ----------------------------------------------------------------------------------------------------------


def refused_untouched(directory: Path) -> str:
    """The sentence with which a damaged log is refused; every file is as it was."""
    before = {path: path.read_bytes() for path in directory.rglob("*.jsonl")}
    with pytest.raises(LogDamaged) as refusal:
        opened(directory)
    assert {path: path.read_bytes() for path in directory.rglob("*.jsonl")} == before
    assert not list(directory.rglob("*.torn*"))
    assert "`audit.origin`" in str(refusal.value)
    return str(refusal.value)


def test_a_record_that_is_missing_is_damage(tmp_path: Path) -> None:
    """A record taken out of the middle is found by its index, and nothing is changed."""
    written(tmp_path, *(intent(f"r{number}") for number in range(5)))
    path = only_segment(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert "there should be record 3" in refused_untouched(tmp_path)


def test_a_record_of_another_log_is_damage(tmp_path: Path) -> None:
    """A segment that was copied from another origin is refused."""
    written(tmp_path, intent("a"))
    (tmp_path / "server").rename(tmp_path / "other")
    with pytest.raises(LogDamaged, match="of origin `other`, but it is record 0 of `server`"):
        open_store(tmp_path, "other", signing=SIGNING, segment_bytes=SEGMENT)


def test_more_than_a_crash_can_tear_is_damage(tmp_path: Path) -> None:
    """Bytes that are no records, and more of them than one batch, are not trimmed."""
    written(tmp_path, intent("a"))
    with only_segment(tmp_path).open("ab") as file:
        file.write(b"x" * (scan.TAIL_BYTES + 1))
    assert "more than a crash can leave" in refused_untouched(tmp_path)


def three_segments(directory: Path) -> list[Path]:
    """A log in three segments of a few records each."""
    written(directory, *(intent(f"r{number}") for number in range(9)), segment_bytes=3000)
    paths = sorted(directory.rglob("*.jsonl"))
    assert len(paths) == 3
    return paths


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    """A segment that is gone shows, be it the first or one between."""
    first, second, _ = three_segments(tmp_path)
    kept = second.read_bytes()
    second.unlink()
    assert "should be its last one" in refused_untouched(tmp_path)
    second.write_bytes(kept)
    first.unlink()
    assert "first segment should begin with record 0" in refused_untouched(tmp_path)


@pytest.mark.parametrize("place", [0, 1])
def test_a_shortened_segment_is_damage(tmp_path: Path, place: int) -> None:
    """A segment before the last one that lost its last record shows."""
    path = three_segments(tmp_path)[place]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert "should be its last one" in refused_untouched(tmp_path)


def test_garbage_inside_a_segment_that_is_read_is_damage(tmp_path: Path) -> None:
    """A bad line in the segment before the last one is damage, where that segment must be read."""
    _, second, last = three_segments(tmp_path)
    lines = second.read_bytes().splitlines(keepends=True)
    second.write_bytes(lines[0] + b"x" * (len(lines[1]) - 1) + b"\n" + b"".join(lines[2:]))
    last.write_bytes(last.read_bytes()[:40])
    with pytest.raises(LogDamaged, match="damaged at byte"):
        opened(tmp_path)


def test_a_doubtful_tail_of_an_earlier_segment(tmp_path: Path) -> None:
    """What stands in a segment behind the beginning of the next was never acknowledged: set aside, and recorded."""
    first, second, _ = three_segments(tmp_path)
    before = read(tmp_path)
    with first.open("ab") as file:
        file.write(second.read_bytes().splitlines(keepends=True)[0] + b"torn")
    found = reopened(tmp_path)
    assert found[: len(before)] == before
    assert (found[len(before)]["type"], found[len(before)]["segment"]) == ("log.trim", first.name)


# Open intents ----------------------------------------------------------------------------------------------------


def test_open_intents_are_closed(tmp_path: Path) -> None:
    """Calls without an outcome are closed as `unknown`, once, and those with an outcome or a refusal are not."""
    refused = Records().refusal(head("refused"), PRINCIPAL, None, NoReplica())
    written(tmp_path, *map(intent, ("done", "lost", "refused", "left")), outcome("done"), refused)
    found = reopened(tmp_path)
    closed = [record for record in found if record["type"] == "intent.closed"]
    assert [(each["request_id"], each["intent_index"]) for each in closed] == [("lost", 2), ("left", 4)]
    assert {(each["ending"], each["cause"]) for each in closed} == {("unknown", "restart")}
    assert reopened(tmp_path) == found


def test_open_intents_of_earlier_segments(tmp_path: Path) -> None:
    """A segment lists the intents open when it began, so that only the last one is needed, however long the log is."""
    records = [intent("old"), *(record for n in range(20) for record in (intent(f"r{n}"), outcome(f"r{n}")))]
    written(tmp_path, *records, segment_bytes=3000)
    assert len(list(tmp_path.rglob("*.jsonl"))) > 3
    store = opened(tmp_path, segment_bytes=3000)
    store.commit([intent("new")])
    store.notary.close(0)
    store.abandon()
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2, "a checkpoint covers the rest, which has gone"
    opened(tmp_path).close()
    closed = [record for record in read(tmp_path) if record["type"] == "intent.closed"]
    assert [(each["request_id"], each["intent_index"]) for each in closed][:1] == [("old", 1)]


def thousand_open(directory: Path) -> Path:
    """A log with a thousand open intents, which goes on in a second segment; returns that segment."""
    store = opened(directory, segment_bytes=3000)
    left = [intent(f"request-{number:04d}-{'x' * 40}") for number in range(1000)]
    while left:
        del left[: store.commit(left).taken]
    store.commit([Records().event(RecordType.SERVER_STOP, version="1")])
    store.abandon()
    _, second = sorted(directory.rglob("*.jsonl"))
    return second


@pytest.mark.unmeasured
def test_many_open_intents(tmp_path: Path) -> None:
    """More open intents than one record can list: the segment begins with several, and all are closed."""
    thousand_open(tmp_path)
    begins = [record for record in read(tmp_path) if record["type"] == "segment.begin"]
    assert [(each["part"], each["parts"], len(each["open_intents"])) for each in begins] == [
        (1, 1, 0),
        (1, 3, 400),
        (2, 3, 400),
        (3, 3, 200),
    ]
    assert kinds_after_opening(tmp_path).count("intent.closed") == 1000


@pytest.mark.parametrize("torn", [0, 100])
def test_a_beginning_that_is_not_whole(tmp_path: Path, torn: int) -> None:
    """Where a crash left only some of the records that list open intents, the segment before is read too."""
    last = thousand_open(tmp_path)
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(lines[0] + lines[1][:torn])
    found = kinds_after_opening(tmp_path)
    assert (found.count("intent.closed"), found.count("log.trim")) == (1000, 1 if torn else 0)


def test_a_clock_behind_the_log(tmp_path: Path) -> None:
    """A last record from the future is recorded as a jump of the clock."""
    hand = HandClock()
    store = opened(tmp_path, clock=hand.clock)
    store.commit([Records(clock=hand.clock).event(RecordType.SERVER_STOP, version="1")])
    store.close()
    hand.wall -= 3_600_000_000
    opened(tmp_path, clock=hand.clock).close()
    jump = read(tmp_path)[-1]
    assert (jump["type"], jump["previous"], jump["jump_us"]) == (
        "clock.jump",
        "2001-09-09T01:46:40.000000Z",
        -3_600_000_000,
    )


def test_a_clock_behind_the_log_after_a_crash(tmp_path: Path) -> None:
    """The jump stands before what is written of the crash, whose times it explains."""
    hand = HandClock()
    store = opened(tmp_path, clock=hand.clock)
    store.commit([intent("a", Records(clock=hand.clock))])
    store.abandon()
    with only_segment(tmp_path).open("ab") as file:
        file.write(b'{"torn')
    hand.wall -= 3_600_000_000
    opened(tmp_path, clock=hand.clock).close()
    assert kinds(tmp_path) == ["segment.begin", "intent", "clock.jump", "log.trim", "intent.closed"]


# Records of commands ----------------------------------------------------------------------------------------------


def key_event() -> Record:
    return Records().event(RecordType.KEY_REVOKE, tenant="default", subject="alice", key_id="k1", actor="root")


def append(directory: Path, record: Record, **options: Any) -> None:
    """One record, as a command writes it."""
    append_all(directory, [record], signing=SIGNING, origin="cli", **options)


def test_records_of_a_command(tmp_path: Path) -> None:
    """A command's record stands in a log of its own when the call returns, and the lock is free again."""
    append(tmp_path, key_event())
    append(tmp_path, key_event())
    assert kinds(tmp_path, "cli") == ["segment.begin", "key.revoke", "key.revoke"]


def test_a_command_waits_for_the_lock(tmp_path: Path) -> None:
    """Two commands at once both write: the second waits for the first."""
    store = open_store(tmp_path, "cli", signing=SIGNING, segment_bytes=SEGMENT)
    release = threading.Timer(0.2, store.close)
    release.start()
    append(tmp_path, key_event())
    release.join()
    assert kinds(tmp_path, "cli")[-1] == "key.revoke"


def test_a_command_gives_up(tmp_path: Path) -> None:
    """A log that stays locked is a sentence after the time that was given."""
    store = open_store(tmp_path, "cli", signing=SIGNING, segment_bytes=SEGMENT)
    began = time.monotonic()
    with pytest.raises(LogLocked, match="Another process"):
        append(tmp_path, key_event(), wait_seconds=0.1)
    assert time.monotonic() - began < 10
    store.close()


def test_a_command_on_a_failing_disk(tmp_path: Path) -> None:
    """A record that could not be made durable is a sentence; the next command finds a whole log."""
    append(tmp_path, key_event())
    files = FaultyFiles()
    files.fail("write", errno.ENOSPC)
    with pytest.raises(LogUnusable, match=r"could not be written: .*ENOSPC"):
        append(tmp_path, key_event(), files=files)
    append(tmp_path, key_event())
    assert kinds(tmp_path, "cli") == ["segment.begin", "key.revoke", "log.trim", "key.revoke"]


def test_a_command_of_what_is_no_record(tmp_path: Path) -> None:
    """What cannot be stored raises, and leaves the log as it was."""
    with pytest.raises(NotCanonical):
        append(tmp_path, {"temperature": 0.5})
    append(tmp_path, key_event())
    assert kinds(tmp_path, "cli")[-1] == "key.revoke"


def test_a_closed_store_refuses(tmp_path: Path) -> None:
    """A store that was closed writes nothing more."""
    store = opened(tmp_path, files=Files())
    store.close()
    with pytest.raises(WriteFailed):
        store.commit([intent("a")])
