"""Finding records: filters, the walk through a log that is written to, and the index that is never the truth."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.audit import SIGNING, FaultyFiles
from support.logs import TENANTS, LogMaker
from vestry.audit import reading
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.finding import index as indexes
from vestry.audit.finding.filters import FIELDS, Filter, Row, moment_of, row_of
from vestry.audit.finding.index import IndexUnusable, opened
from vestry.audit.finding.search import Found, Search, merged
from vestry.audit.finding.walk import Walker
from vestry.audit.notary import Signing
from vestry.audit.pruning import remove
from vestry.audit.reading import NoLog
from vestry.audit.scan import LogDamaged
from vestry.audit.store import WriteFailed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of some thousand records, most of them under a checkpoint."""
    with LogMaker(tmp_path_factory.mktemp("finished")) as log:
        log.add_calls(3000)
        log.checkpoint()
        log.add_calls(200)
        log.store.notary.grow = lambda: None  # type: ignore[method-assign]  # its end comes without a checkpoint
        return log.home


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    with LogMaker(tmp_path / "audit") as made:
        yield made


def wanted(**values: str) -> Filter:
    return Filter({name: frozenset({value}) for name, value in values.items()})


def found(home: Path, what: Filter, index: Path | None, **options: Any) -> list[int]:
    """Places of what fits, oldest first, and the same newest first."""
    search = Search(home, "server", what, index=index, **options)
    forward = [each.index for each in search.forward()]
    backward = [each.index for each in Search(home, "server", what, index=index, **options).backward()]
    assert backward == forward[::-1]
    return forward


def by_hand(home: Path, what: Filter) -> list[int]:
    return [index for index, leaf in Walker(home).records(0) if what.fits(*row_of(leaf, "it"))]


# Filters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", "2026-01-30T12:00:00"), ("90m", "2026-01-31T10:30:00"), ("30s", "2026-01-31T11:59:30"),
        ("7d", "2026-01-24T12:00:00"), ("2w", "2026-01-17T12:00:00"), ("2026-01-02", "2026-01-02T00:00:00"),
        ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05"), ("2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.500000"),
        ("0027-01-31", "0027-01-31T00:00:00"),
    ],
)  # fmt: skip
def test_times(text: str, expected: str) -> None:
    """A span before now, a day, a time."""
    moment = moment_of(text, datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert datetime.fromtimestamp(moment / 1_000_000, UTC).replace(tzinfo=None) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000001Z"])
def test_the_ends_of_the_calendar_are_times(text: str) -> None:
    """What other programs write for "never" and "always": to the microsecond, as the record of the reading has it."""
    moment = moment_of(text, datetime.now(UTC))
    assert str(Filter(since=moment, until=moment)) == f"since={text} until={text}"


@pytest.mark.parametrize(
    "text",
    [
        "", "24", "h", "-1h", "yesterday", "2026-13-01", "2026-01-02T03:04:05", "999999999w", "\u0661h",
        "0001-01-01T00:00+01:00",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    """Everything else is refused, a time without its offset included."""
    with pytest.raises(ValueError):
        moment_of(text, datetime.now(UTC))


@given(
    st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=5)),
    st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=5)),
)
def test_fields_narrow_and_values_are_alternatives(held: dict[str, str], asked: dict[str, str]) -> None:
    """A record fits if each field that is asked for has one of its values."""
    row = Row(**{"time": "2026-01-01T00:00:00.000000Z", "type": "intent", **held})
    what = Filter({name: frozenset({value, "another"}) for name, value in asked.items()})
    assert what.fits(row, 5) == all(getattr(row, name) in {value, "another"} for name, value in asked.items())


def test_a_filter_says_what_it_asks() -> None:
    """The record of a reading says in full what was asked for."""
    assert str(Filter()) == "all"
    what = Filter({"tenant": frozenset({"b", "a"})}, frozenset({"cli"}), since=0, until=1_000_000)
    assert str(what) == "tenant=a,b origin=cli since=1970-01-01T00:00:00.000000Z until=1970-01-01T00:00:01.000000Z"


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"\xff", b'{"type":1,"time":"x"}', b'{"type":"x","time":"yesterday"}']
)
def test_a_line_that_is_no_record_is_damage(line: bytes) -> None:
    """It is said with its place."""
    with pytest.raises(LogDamaged, match="record 7 of it is damaged"):
        row_of(line, "record 7 of it")


# The walk


def test_records_come_in_order_from_any_place(finished: Path) -> None:
    """From bundles and from the journal, each once."""
    walker = Walker(finished)
    end = walker.end()
    everything = list(walker.records(0))
    assert [index for index, _ in everything] == list(range(end))
    assert all(json.loads(leaf)["index"] == index for index, leaf in everything)
    for start, stop in ((0, 1), (255, 257), (end - 300, end - 290), (end - 1, end), (end, None), (5000, end)):
        assert list(walker.records(start, stop)) == everything[start:stop]


def test_a_long_segment_is_not_read_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record far inside of the journal is found by halving, wherever it is."""
    monkeypatch.setattr(reading, "LINEAR_BYTES", 4096)
    with LogMaker(tmp_path, segment_bytes=1 << 26) as log:
        log.add_calls(2000)
        everything = list(Walker(log.home).records(0))
        for start in (0, 1, 1999, 2000, 3998, log.store.next_index - 1):
            index, offset = reading._place(next(log.home.glob("*.jsonl")), start)
            assert index <= start
            assert offset == sum(len(leaf) + 1 for _, leaf in everything[:index])
            assert start - index < 20
            assert list(Walker(log.home).records(start)) == everything[start:]


@pytest.mark.unmeasured
def test_reading_while_it_is_written(tmp_path: Path) -> None:
    """Segments that go and tiles that are replaced under a reader cost it no record and give it none twice."""
    often = Signing(SIGNING.signer, records=1, seconds=0.001)
    with LogMaker(tmp_path, signing=often, segment_bytes=1 << 16) as log:
        log.add_calls(1)
        done = threading.Event()

        def write() -> None:
            for _ in range(100):
                log.add_calls(20)
                log.checkpoint()
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        rounds = 0
        while not done.is_set():
            slow = []
            for index, _ in Walker(log.home).records(0):
                slow.append(index)
                if index % 500 == 0:
                    time.sleep(0.001)
            assert slow == list(range(len(slow)))
            rounds += 1
        writer.join()
        assert rounds > 1
        assert len(list(Walker(log.home).records(0))) == log.store.next_index


def test_pruned_records_are_the_first_ones(log: LogMaker) -> None:
    """The first record that is kept is found; a search goes from there, with the index and without."""
    log.add_calls(800)
    log.checkpoint()
    for number in (0, 1, 2):
        (log.home / f"tile/entries/00{number}").unlink()
    assert Walker(log.home).first() == 768
    index = log.home / "index.sqlite"
    assert found(log.home, Filter(), index)[0] == 768
    assert found(log.home, wanted(tenant="surgery"), index) == found(log.home, wanted(tenant="surgery"), None)
    assert Search(log.home, "server", Filter(), index=None).count() == log.store.next_index - 768


@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("indexed", [False, True], ids=["read", "indexed"])
def test_records_that_are_pruned_while_they_are_read(log: LogMaker, *, indexed: bool, backwards: bool) -> None:
    """What is left is found, and that some is not is said once; before, the search ended in a missing file."""
    log.add_calls(3000)
    log.checkpoint()
    said: list[str] = []
    index = log.home / "index.sqlite" if indexed else None
    what = wanted(tenant="surgery")
    every = found(log.home, what, index)
    search = Search(log.home, "server", what, index=index, told=said.append)
    reading = search.backward() if backwards else search.forward()
    begun = next(reading).index
    remove(log.home, 0, 3072, Files())
    seen = [begun, *(each.index for each in reading)]
    left = [each for each in every if each >= 3072]
    assert [each for each in sorted(seen) if each >= 3072] == left
    assert len(seen) == len(set(seen)) < len(every)
    [sentence] = said
    assert "Records before 3072 of `server` were pruned while it was read" in sentence


def test_records_that_are_pruned_while_they_are_indexed(log: LogMaker) -> None:
    """The index begins where the log does by then, and finds what reading finds."""
    log.add_calls(20_000)
    log.checkpoint()
    path = log.home / "index.sqlite"
    pruned: list[int] = []

    def prune(_done: int) -> None:
        if not pruned:
            pruned.append(25_600)
            remove(log.home, 0, 25_600, Files())

    with opened(Walker(log.home), path) as index:
        index.grow(prune)
        assert (index.first, pruned) == (25_600, [25_600])
    assert found(log.home, wanted(tenant="surgery"), path) == found(log.home, wanted(tenant="surgery"), None)


def test_a_hole_is_damage(log: LogMaker) -> None:
    """A bundle that is missing between others is no pruning."""
    log.add_calls(800)
    log.checkpoint()
    (log.home / "tile/entries/003").unlink()
    assert Walker(log.home).first() == 0
    for index in (None, log.home / "index.sqlite"):
        with pytest.raises(LogDamaged, match="entries/003 is missing"):
            found(log.home, wanted(tenant="surgery"), index)


def test_no_log(tmp_path: Path) -> None:
    """What is no log is said to be none."""
    with pytest.raises(NoLog):
        Walker(tmp_path)


# The index


FILTERS = [
    wanted(tenant="surgery"), wanted(subject="user7"), wanted(request_id="req-1234"), wanted(request_id="req-3199"),
    wanted(ending="failed"), wanted(status="502", tenant="radiology"), wanted(key_id="key3", type="outcome"),
    wanted(code="engine_failed"), wanted(subject="nobody"), wanted(model="small"), wanted(type="segment.begin"),
    Filter({"tenant": frozenset(TENANTS)}), Filter({"request_id": frozenset({"req-1", "req-2999", "req-3000"})}),
]  # fmt: skip


@pytest.mark.unmeasured
@pytest.mark.parametrize("what", FILTERS, ids=str)
def test_the_index_finds_what_reading_finds(finished: Path, what: Filter) -> None:
    """With and without the index the answer is the same, and the right one."""
    expected = by_hand(finished, what)
    assert found(finished, what, finished / "index.sqlite") == expected
    assert found(finished, what, None) == expected


@pytest.mark.unmeasured
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 6402), st.integers(0, 6402))
def test_times_in_the_index(finished: Path, one: int, other: int) -> None:
    """A span of time gives the records of it."""
    moments = [row_of(leaf, "it")[1] for _, leaf in Walker(finished).records(0)]
    what = Filter(since=moments[one], until=moments[other])
    expected = [index for index, moment in enumerate(moments) if moments[one] <= moment < moments[other]]
    assert found(finished, what, finished / "index.sqlite") == expected


def test_one_call_is_found_in_one_block(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search by request id reads the blocks that have it, and what is not settled yet, not the log."""
    index = finished / "index.sqlite"
    found(finished, wanted(tenant="x"), index)
    read: list[int] = []
    records = Walker.records

    def counted(self: Walker, start: int, stop: int | None = None, **more: Any) -> Iterator[tuple[int, bytes]]:
        for each in records(self, start, stop, **more):
            read.append(each[0])
            yield each

    monkeypatch.setattr(Walker, "records", counted)
    assert len(list(Search(finished, "server", wanted(request_id="req-17"), index=index).forward())) == 2
    assert len(set(read)) < 1100  # of 6401: its block, the last block's digest, and the rest


@pytest.mark.unmeasured
def test_it_grows_as_the_log_does(log: LogMaker) -> None:
    """What has come since the last use is added, a block once it is settled; the rest is read."""
    index = log.home / "index.sqlite"
    for number in range(1, 6):
        log.add_calls(500)
        log.checkpoint()
        assert found(log.home, wanted(type="outcome"), index) == by_hand(log.home, wanted(type="outcome"))
        with opened(Walker(log.home), index) as held:
            assert held.end == log.store.next_index // 256 * 256
            assert held.due() == 0
        assert log.store.next_index >= number * 1000


@pytest.mark.unmeasured
def test_progress_is_told(log: LogMaker) -> None:
    """Whoever waits hears how much there is to do, and of each part that is done."""
    log.add_calls(10_000)
    log.checkpoint()
    told: list[tuple[str, int]] = []
    done: list[int] = []

    def progress(what: str, records: int) -> Callable[[int], None]:
        told.append((what, records))
        return done.append

    found(log.home, wanted(subject="x"), log.home / "index.sqlite", progress=progress)
    assert told == [("indexing server", 20_000 // 256 * 256)] or told[0][1] == sum(done)
    assert sum(done) == told[0][1]
    assert len(done) > 1


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"x" * 5000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "torn pages": lambda path: path.write_bytes(path.read_bytes()[:8192] + b"\xff" * 8192 + path.read_bytes()[16384:]),
    "too new": lambda path: run(path, "UPDATE about SET value = 99 WHERE name = 'version'"),
    "no version": lambda path: run(path, "DELETE FROM about"),
    "strange values": lambda path: run(path, "UPDATE about SET value = 'soon' WHERE name = 'next'"),
    "no tables": lambda path: run(path, "DROP TABLE terms"),
    "beyond the log": lambda path: run(path, "UPDATE about SET value = 5000 WHERE name = 'next'"),
    "of another log": lambda path: run(path, "UPDATE about SET value = x'00' WHERE name = 'digest'"),
}


def run(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_does_not_fit_is_made_anew(log: LogMaker, damage: str) -> None:
    """Damaged, of another program's version or of another log: the answer is right all the same."""
    log.add_calls(1000)
    log.checkpoint()
    index = log.home / "index.sqlite"
    expected = by_hand(log.home, wanted(tenant="surgery"))
    assert found(log.home, wanted(tenant="surgery"), index) == expected
    DAMAGES[damage](index)
    assert found(log.home, wanted(tenant="surgery"), index) == expected
    with opened(Walker(log.home), index) as held:
        assert held.due() == 0


def test_a_log_that_was_rolled_back_is_indexed_anew(tmp_path: Path) -> None:
    """The same place, another history: nothing of the old index is used."""
    index = tmp_path / "index.sqlite"
    for number in (900, 700):
        with LogMaker(tmp_path / str(number)) as log:
            log.calls = number
            log.add_calls(number)
            log.checkpoint()
            assert found(log.home, wanted(subject="user3"), index) == by_hand(log.home, wanted(subject="user3"))


def test_the_index_is_never_the_truth(log: LogMaker) -> None:
    """Blocks that the index names wrongly show nothing that does not fit."""
    log.add_calls(1000)
    log.checkpoint()
    index = log.home / "index.sqlite"
    found(log.home, wanted(subject="user3"), index)
    run(index, f"INSERT OR IGNORE INTO terms SELECT {indexes.term('subject', 'nobody')}, block FROM blocks")
    assert found(log.home, wanted(subject="nobody"), index) == []


@pytest.mark.unmeasured
def test_records_that_were_taken_back_are_not_missed(tmp_path: Path) -> None:
    """What an index could read of a batch whose fdatasync then failed is not taken as settled."""
    files = FaultyFiles()
    with LogMaker(tmp_path, files=files, segment_bytes=1 << 26) as log:
        log.add_calls(3000)
        index = log.home / "index.sqlite"
        files.fail("sync", times=1)
        with pytest.raises(WriteFailed):
            log.add_calls(500)
        assert Walker(log.home).end() > log.store.next_index
        found(log.home, wanted(subject="user3"), index)
        report = log.records.event(
            RecordType.LOG_RECOVERED, cause="EIO", failures=1, lost=1000, outage_us=1, discarded_bytes=0
        )
        log.store.recover(report)
        log.add_calls(3000)
        log.checkpoint()
        assert found(log.home, wanted(subject="user3"), index) == by_hand(log.home, wanted(subject="user3"))


@pytest.mark.unmeasured
def test_two_at_once(log: LogMaker) -> None:
    """Several commands that build the same index at the same time all give the right answer."""
    log.add_calls(3000)
    log.checkpoint()
    index = log.home / "index.sqlite"
    expected = by_hand(log.home, wanted(tenant="surgery"))
    answers: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(found(log.home, wanted(tenant="surgery"), index)))
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert answers == [expected] * 4


def test_where_no_index_can_be_kept_the_log_is_read(log: LogMaker) -> None:
    """A place that cannot be written to, or that another command holds on to, is said, and the log is read."""
    log.add_calls(300)
    expected = by_hand(log.home, wanted(tenant="surgery"))
    said: list[str] = []
    nowhere = log.home / "lock" / "index.sqlite"
    assert found(log.home, wanted(tenant="surgery"), nowhere, told=said.append) == expected
    assert said[0].startswith("The whole log `server` is read: no index can be kept in ")
    walker = Walker(log.home)
    index = log.home / "index.sqlite"
    with opened(walker, index), pytest.raises(IndexUnusable, match="too long"), opened(walker, index, wait=0.1):
        pass


def test_damage_is_told_while_indexing(log: LogMaker) -> None:
    """A record that is none is named with its place, and ends the search."""
    log.add_calls(800)
    log.checkpoint()
    path = log.home / "tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b'"type"', b'"tyqe"', 1))
    with pytest.raises(LogDamaged, match=r"record 256 of .* is damaged"):
        found(log.home, wanted(tenant="x"), log.home / "index.sqlite")


def test_nobody_else_may_read_an_index(finished: Path) -> None:
    """It says who called when, as the log does."""
    found(finished, wanted(tenant="x"), finished / "index.sqlite")
    assert (finished / "index.sqlite").stat().st_mode & 0o777 == 0o600


def test_logs_are_merged_by_time() -> None:
    """Oldest or newest first; what one log says in its order stays in it."""
    one = [Found(moment, "a", index, b"") for index, moment in enumerate((1, 5, 9))]
    two = [Found(moment, "b", index, b"") for index, moment in enumerate((2, 3, 10))]
    assert [each.moment for each in merged([iter(one), iter(two)])] == [1, 2, 3, 5, 9, 10]
    newest = merged([iter(one[::-1]), iter(two[::-1])], newest_first=True)
    assert [each.moment for each in newest] == [10, 9, 5, 3, 2, 1]


def test_what_leaves_nothing_out_is_counted_unread(finished: Path) -> None:
    """An unfiltered search knows how much there is without reading it."""
    search = Search(finished, "server", Filter(), index=None)
    assert search.count() == Walker(finished).end()
    assert Search(finished, "server", wanted(tenant="x"), index=None).count() is None
