"""Retention and legal hold: what may go, in what order it goes, and what stays provable."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.audit import FaultyFiles
from fakes.journal import MemoryJournal
from support.logs import DAY, THIRTY_DAYS, DayLog
from vestry.audit import pruning, scan
from vestry.audit.files import Files
from vestry.audit.pruning import MARK, Halted, Hold, Policy, prune, remove
from vestry.audit.reading import LogReader, first_bundle
from vestry.audit.records import as_recorded, rfc3339
from vestry.audit.tlog.merkle import (
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    root,
    verify_consistency,
    verify_inclusion,
)
from vestry.audit.tlog.tiles import TileMissing, Tiles
from vestry.audit.tree import Tree
from vestry.composition.retention import Retainer


@pytest.fixture(scope="module")
def forty_days(tmp_path_factory: pytest.TempPathFactory) -> DayLog:
    """Forty days of 300 records each, and the checkpoint of each day: to be copied, never to be used."""
    log = DayLog(tmp_path_factory.mktemp("forty-days"))
    for _ in range(40):
        log.day()
    return log


@pytest.fixture
def log(forty_days: DayLog, tmp_path: Path) -> DayLog:
    """Forty days of 300 records each, and the checkpoint of each day."""
    return forty_days.copied(tmp_path / "audit")


def size_of(log: DayLog) -> int:
    head = LogReader(log.home).head()
    assert head is not None
    return head.size


def test_what_is_older_than_the_policy_goes_and_nothing_else(log: DayLog) -> None:
    """Whole bundles, from the beginning; the record of it stands in the log, signed; what is left is all there."""
    before = log.leaves()
    found = log.prune()
    cutoff = rfc3339(log.clock.wall - 30 * DAY * 1_000_000)
    young = next(each["index"] for each in before if each["time"] >= cutoff)
    assert found.minimum == young // 256 * 256 == found.records > 2000
    assert f"record {young} is from" in found.why
    after = log.leaves()
    assert after[: len(before) - found.minimum] == before[found.minimum :]
    (record,) = [each for each in after if each["type"] == "log.prune"]
    assert record["minimum_index"] == record["records"] == found.minimum
    assert record["cause"] == "records are kept for 30 days"
    assert LogReader(log.home).minimum == found.minimum
    assert size_of(log) > record["index"]


def test_proofs_of_what_is_kept_stay_valid(log: DayLog) -> None:
    """Inclusion of every kept record, and consistency between all sizes from the minimum on, before and after."""
    size = size_of(log)
    tiles = Tiles(log.home, size)
    leaves = dict(LogReader(log.home).leaves(0, size))
    top = root(size, tiles.subtree)
    minimum = log.prune().minimum
    for index in [minimum, minimum + 1, minimum + 255, minimum + 256, *range(minimum, size, 997), size - 1]:
        proof = prove_inclusion(index, size, Tiles(log.home, size).subtree)
        verify_inclusion(index, size, leaf_hash(leaves[index]), proof, top)
    for old in [minimum, minimum + 1, *range(minimum, size, 997), size]:
        fresh = Tiles(log.home, size).subtree
        verify_consistency(old, size, root(old, fresh), top, prove_consistency(old, size, fresh))
    with pytest.raises(TileMissing):
        Tiles(log.home, size).leaf_hash(minimum - 1)


def test_the_log_opens_and_goes_on_after_it(log: DayLog) -> None:
    """Restarted twice, with more days in between; pruned again, from where it was."""
    first = log.prune()
    log.store.close()
    log.open()
    for _ in range(5):
        log.day()
    second = log.prune()
    assert second.start == first.minimum < second.minimum
    log.store.close()
    log.open()
    assert [each["minimum_index"] for each in log.leaves() if each["type"] == "log.prune"] == [
        first.minimum,
        second.minimum,
    ]


@pytest.mark.parametrize(
    ("hold", "held"),
    [
        (Hold("case 7", subject="bob"), True),
        (Hold("case 7", tenant="default"), True),
        (Hold("case 7", tenant="default", subject="bob"), True),
        (Hold("case 7", tenant="other", subject="bob"), False),
        (Hold("case 7", subject="carol"), False),
        (Hold("case 7", subject=r"CORP\dora"), True),
        (Hold("case 7", subject=r"CORP\\dora"), True),
    ],
)
def test_a_hold_keeps_its_records_and_all_behind_them(tmp_path: Path, hold: Hold, held: bool) -> None:
    """The first held record stops it; what holds it, and since when, is said. Once it is lifted all goes. A name with a
    backslash, which records write as two, may be given either way.
    """
    log = DayLog(tmp_path)
    log.day("alice", records=1000)
    log.day("alice", "bob", r"CORP\dora", records=600)
    for _ in range(38):
        log.day("alice", records=50)
    free = log.plan().minimum
    found = log.prune(Policy(30, (hold,)))
    if not held:
        assert found.minimum == free
        return
    first = next(each for each in log.leaves() if hold.holds(each.get("tenant", ""), each.get("subject", "")))
    assert found.minimum == first["index"] // 256 * 256 < free
    assert found.why == f"record {first['index']}, from {first['time']}, is kept by {hold}"
    assert log.prune().minimum == free


def test_a_thousand_holds_cost_a_record_no_more_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each of them covers is found out once, and not for each record: a day's took minutes of processor time."""
    named: list[str] = []

    def seen(subject: str) -> str:
        named.append(subject)
        return as_recorded(subject)

    monkeypatch.setattr(pruning, "as_recorded", seen)
    log = DayLog(tmp_path)
    for _ in range(40):
        log.day("alice", "bob", records=60)
    holds = [Hold("case 7", subject=f"nobody-{number}") for number in range(1000)]
    assert log.plan(Policy(30, tuple(holds))).minimum == log.plan().minimum > 0
    assert len(named) == 1000
    found = log.plan(Policy(30, (*holds, Hold("case 8", subject="bob"))))
    assert (found.minimum, found.why.endswith("the hold on subject `bob` (case 8)")) == (0, True)


def test_nothing_goes_that_no_checkpoint_covers_or_that_the_journal_still_holds(tmp_path: Path) -> None:
    """A record is gone only where it is gone from every file of the log."""
    log = DayLog(tmp_path)
    log.day(records=2000)
    log.clock.both(100 * DAY)
    assert log.plan().minimum == 0
    assert "journal still holds the records from 0 on" in log.plan().why
    for _ in range(3):
        log.day(records=1)
    found = log.prune()
    assert found.minimum == 2000 // 256 * 256
    marker = f'"index":{found.minimum - 1},'.encode()
    assert not [path for path in log.home.rglob("*") if path.is_file() and marker in path.read_bytes()]


class Server(Retainer):
    """A server's part in it, over a log in this process: what it does at its start and once a day is `once`."""

    def __init__(self, log: DayLog) -> None:
        super().__init__(log.home, THIRTY_DAYS, MemoryJournal(), log.sign, clock=log.clock.clock)
        self.record = log.record  # type: ignore[method-assign]


def test_a_clock_is_believed_once_it_has_stayed_so_for_a_day(log: DayLog, caplog: pytest.LogCaptureFixture) -> None:
    """Ten years ahead at the start, and set right; so again later; ten years ahead, and left so."""
    leap = 3650 * DAY * 1_000_000
    server = Server(log)

    def looked(wrong: int = 0) -> int:
        log.clock.wall += wrong
        server.once()
        log.clock.wall -= wrong
        log.day()
        return LogReader(log.home).minimum

    first = looked(leap)
    assert "the clock is 365" in caplog.text
    assert 2000 < first < 10 * 300
    assert first <= looked() <= looked(leap) <= looked() < 14 * 300
    log.clock.wall += leap
    looked()
    caplog.clear()
    assert looked() > 40 * 300
    assert "the clock is" not in caplog.text


def test_a_clock_that_is_ahead_at_each_start_is_believed_at_none(log: DayLog) -> None:
    """Ten years for a moment at two boots, days apart: segments begin with these times, the journal's first one too."""
    leap = 3650 * DAY * 1_000_000

    def booted() -> int:
        log.store.close()
        log.clock.wall += leap
        log.open()
        log.store.commit([])
        log.sign()
        Server(log).once()
        log.clock.wall -= leap
        return LogReader(log.home).minimum

    assert 2000 < booted() < 10 * 300
    for _ in range(3):
        log.day()
    assert booted() < 14 * 300


def test_without_anything_to_let_go_nothing_is_recorded(tmp_path: Path) -> None:
    """A young log, and one that was pruned a moment ago."""
    log = DayLog(tmp_path)
    log.day()
    assert log.prune().records == 0
    for _ in range(40):
        log.day()
    assert log.prune().records > 0
    count = len(log.leaves())
    assert log.prune().records == 0
    assert len(log.leaves()) == count


class Dies(Exception):  # noqa: N818 - what happens
    """The process dies here."""


class Mortal(Files):
    """Dies at a removal, the first or a later one, or where the mark is written."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Dies

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


@pytest.mark.unmeasured
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 8, 9, 16, 21, 22])
def test_a_crash_at_any_step_leaves_a_log_that_verifies_and_the_next_run_finishes(log: DayLog, at: int) -> None:
    """Whatever is missing then is below a recorded, signed minimum; afterwards it is as if nothing had happened."""
    wanted = log.plan().minimum
    with pytest.raises(Dies):
        log.prune(files=Mortal(at))
    _check(log)
    log.store.close()
    log.open()
    _check(log)
    assert log.prune().minimum == wanted
    _check(log)
    assert LogReader(log.home).minimum == wanted
    assert not [each for each in log.home.glob("tile/0/*") if each.name.isdecimal() and int(each.name) < wanted // 256]
    assert len([each for each in log.leaves() if each["type"] == "log.prune"]) <= 2


def _check(log: DayLog) -> None:
    """Every bundle and tile is there, or ends at or below a minimum that the log records."""
    reader = LogReader(log.home)
    size = size_of(log)
    records = log.leaves()
    recorded = max([each["minimum_index"] for each in records if each["type"] == "log.prune"], default=0)
    assert reader.minimum <= recorded
    tiles = Tiles(log.home, size)
    for index, leaf in reader.leaves(0, size):
        assert tiles.leaf_hash(index) == leaf_hash(leaf)
    assert [each["index"] for each in records] == list(range(reader.minimum, records[-1]["index"] + 1))


def test_what_a_crash_left_to_do_waits_for_a_new_hold(log: DayLog) -> None:
    """A removal that was recorded is finished only as far as the policy allows by then."""
    with pytest.raises(Dies):
        log.prune(files=Mortal(4))
    start = LogReader(log.home).minimum
    assert log.prune(Policy(30, (Hold("case 8", tenant="default"),))).records == 0
    assert LogReader(log.home).minimum == start


def test_a_hole_below_a_recorded_minimum_is_no_damage_and_elsewhere_it_is(log: DayLog) -> None:
    """A power cut may lose removals in any order. The mark counts only where the log itself says the same."""
    with pytest.raises(Dies):
        log.prune(files=Mortal(4))
    hole = log.home / "tile" / "entries" / "004"
    aside = hole.read_bytes()
    hole.unlink()
    mark = (log.home / MARK).read_bytes()
    (log.home / MARK).write_bytes(mark.replace(b'"record":', b'"record":1'))
    with pytest.raises(TileMissing):
        log.prune()
    hole.write_bytes(aside)
    (log.home / MARK).write_bytes(mark)
    hole.unlink()
    log.prune()
    _check(log)


def test_without_a_signature_nothing_is_removed(log: DayLog) -> None:
    """The record of it may be there; the files are too, and the next run makes up for it."""
    log.sign = lambda: None  # type: ignore[method-assign]
    before = sorted(path for path in log.home.rglob("*") if "tile" in path.parts)
    with pytest.raises(TimeoutError, match="nothing was removed"):
        prune(log.home, THIRTY_DAYS, log, clock=log.clock.clock, signing_seconds=0.2)
    assert before == sorted(path for path in log.home.rglob("*") if "tile" in path.parts)


def test_a_disk_that_fails_is_told_and_the_next_run_goes_on(log: DayLog) -> None:
    """OSError from any call; nothing is lost."""
    wanted = log.plan().minimum
    for name in ("create", "rename", "remove", "sync_directory"):
        files = FaultyFiles()
        files.fail(name)
        if log.plan().records:
            with pytest.raises(OSError, match="injected"):
                log.prune(files=files)
            _check(log)
    assert log.prune().minimum == wanted


def test_it_stops_when_the_server_does(log: DayLog) -> None:
    """At the next bundle."""
    with pytest.raises(Halted):
        log.prune(halted=lambda: True)
    assert LogReader(log.home).minimum == 0


def test_a_long_log_loses_higher_tiles_too(tmp_path: Path) -> None:
    """70,000 records: behind 65,536 the tile of level 1 goes as well, behind 66,000 nothing that is still needed."""
    tree = Tree(tmp_path, Files())
    leaves = [b'{"index":%d}' % index for index in range(70_000)]
    tree.add(leaves)
    tree.settle()
    top = tree.root()
    for minimum, level_one in ((65_280, True), (65_536, False), (65_792, False)):
        remove(tmp_path, (first_bundle(tmp_path) or 0) * 256, minimum, Files())
        assert first_bundle(tmp_path) == minimum // 256
        assert (tmp_path / "tile" / "1" / "000").exists() is level_one
        for index in (minimum, minimum + 300, 69_999):
            proof = prove_inclusion(index, 70_000, Tiles(tmp_path, 70_000).subtree)
            verify_inclusion(index, 70_000, leaf_hash(leaves[index]), proof, top)
        assert Tree.load(tmp_path, Files(), 70_000).root() == top


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([], None),
        (["007"], 7),
        (["x001/005", "x002/000"], 1005),
        (["x001/x234/067", "x002/005"], 2005),
        (["x001/x234/067.p/3"], 1_234_067),
        (["999", "x001/000"], 999),
        (["junk", "x12", "x001/y"], None),
    ],
)
def test_the_first_bundle_is_found_by_its_number(tmp_path: Path, names: list[str], first: int | None) -> None:
    """Numbers with fewer path elements are smaller; what is no number is nothing."""
    for name in names:
        path = tmp_path / "tile" / "entries" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert first_bundle(tmp_path) == first


def test_a_segment_ends_after_a_day_also_across_restarts(tmp_path: Path) -> None:
    """However small it is, so that records do not stay in the journal for years."""
    log = DayLog(tmp_path)
    log.day(records=3)
    log.day(records=3)
    assert len(scan.segments(log.home)) == 2
    log.clock.both(-DAY / 2)
    log.day(records=3)
    assert len(scan.segments(log.home)) == 2
    log.clock.both(-DAY / 2 - 60)
    log.store.close()
    log.open()
    log.day(records=1)
    assert len(scan.segments(log.home)) == 2
    log.store.close()
    log.open()
    log.day(records=1)
    assert scan.first_index(scan.segments(log.home)[-1]) > 9
