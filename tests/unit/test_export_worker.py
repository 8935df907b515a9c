"""The live export: in order, at least once, nothing lost, whatever the receiver does."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.house import until
from support.logs import LogMaker
from support.receivers import Authority, Collector, SyslogReceiver
from vestry.audit.export import worker as workers
from vestry.audit.export.cursor import Cursor
from vestry.audit.export.worker import Worker
from vestry.audit.finding.walk import Walker
from vestry.composition.exporting import worker_of
from vestry.settings.record import Export


class Counts:
    """Counts as the meter does."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def exported(self, export: str, records: int) -> None:
        self.sent[export] += records

    def export_failed(self, export: str, records: int) -> None:
        self.failed[export] += records


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short here; that they grow is a test of its own."""
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(workers, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(workers, "CONFIRM_SECONDS", 0.3)
    monkeypatch.setattr(workers, "STORE_SECONDS", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    with LogMaker(tmp_path / "audit") as made:
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def running(log: LogMaker, counts: Counts | None = None, **settings: Any) -> Iterator[Worker]:
    """A worker that is told what the log holds at its start."""
    settings = {"name": "siem", "timeout_seconds": 2, "batch_records": 40, **settings}
    worker = worker_of(Export(**settings), log.home, counts or Counts())
    worker.grown(log.store.next_index)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(5)


def leaves(log: LogMaker) -> list[bytes]:
    return [leaf for _, leaf in Walker(log.home).records(0)]


def complete(got: list[bytes], expected: list[bytes]) -> bool:
    """Nothing is lost: everything came, and its first comings are in order."""
    return list(dict.fromkeys(got)) == expected


def test_records_arrive_as_they_are_written(log: LogMaker) -> None:
    """What is in the log, and what comes later, arrives once and in order; the cursor says how far it got."""
    with Collector() as collector, running(log, url=collector.url) as worker:
        log.add_calls(50)
        worker.grown(log.store.next_index)
        until(lambda: collector.lines == leaves(log))
        until(lambda: worker.lag()[0] == 0)  # the collector has them before the worker has its answer
        log.add_calls(30)
        assert worker.lag()[0] == 0
        worker.grown(log.store.next_index)
        until(lambda: collector.lines == leaves(log))
        until(lambda: Cursor(log.home, "siem").load(Walker(log.home)) == log.store.next_index)
    assert max(batch.count(b"\n") for batch in collector.batches) <= 40
    assert collector.headers[0]["Content-Type"] == "application/x-ndjson"


def test_only_durable_records_are_sent(log: LogMaker) -> None:
    """A record that the journal has not called durable, and no checkpoint covers, stays."""
    log.add_calls(5)
    with Collector() as collector, running(log, url=collector.url) as worker:
        until(lambda: len(collector.lines) == log.store.next_index)
        before = log.store.next_index
        log.add_calls(5)
        time.sleep(0.3)
        assert len(collector.lines) == before
        log.checkpoint()
        until(lambda: complete(collector.lines, leaves(log)))
        until(lambda: worker.lag() == (0, 0.0))  # the collector has them before the worker has its answer


@pytest.mark.parametrize("fault", [500, 429, 400, 301, "reset", "garbage", "hang"])
def test_a_collector_that_fails_loses_nothing(log: LogMaker, fault: int | str) -> None:
    """Whatever a collector answers for a while, each record arrives in the end; failures are counted."""
    log.add_calls(60)
    counts = Counts()
    with Collector() as collector:
        collector.answer = lambda _body: fault if collector.asked < 4 else 200
        with running(log, counts, url=collector.url, timeout_seconds=0.3):
            until(lambda: complete(collector.lines, leaves(log)))
    assert counts.failed["siem"] > 0
    assert counts.sent["siem"] >= log.store.next_index


def test_why_it_does_not_work_is_said_whenever_that_changes(log: LogMaker, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each cause, however often it is tried: the log has what is to be mended now, and nothing of what a
    collector sends in place of HTTP."""
    log.add_calls(3)
    with Collector() as collector:
        collector.answer = lambda _body: 500 if collector.asked < 4 else "garbage" if collector.asked < 8 else 401
        with running(log, url=collector.url):
            until(lambda: collector.asked >= 12, what="twelve tries")
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records if "does not work" in record.message]
    answered = "the collector answered "
    assert said == [f"{answered}500", f"{answered}no HTTP (BadStatusLine)", f"{answered}401"]


def test_a_batch_that_was_taken_but_not_answered_comes_again(log: LogMaker) -> None:
    """At least once: a collector that dies between taking and answering gets the batch again."""
    log.add_calls(10)
    with Collector() as collector:

        def answer(body: bytes) -> int | str:
            if collector.asked > 2:
                return 200
            collector.batches.append(body)
            return "reset"

        collector.answer = answer
        with running(log, url=collector.url):
            until(lambda: collector.asked > 2 and complete(collector.lines, leaves(log)))
    assert len(collector.lines) > log.store.next_index


def test_too_large_batches_are_halved(log: LogMaker) -> None:
    """A collector that takes ten records at most gets them all."""
    log.add_calls(40)
    with Collector() as collector:
        collector.answer = lambda body: 200 if body.count(b"\n") <= 10 else 413
        with running(log, url=collector.url):
            until(lambda: complete(collector.lines, leaves(log)))


def test_a_collector_that_is_down_and_comes_back(log: LogMaker) -> None:
    """While nobody listens the lag grows, and no record is lost; the server's side never waits."""
    log.add_calls(30)
    collector = Collector()
    port, counts = collector.port, Counts()
    collector.close()
    with running(log, counts, url=f"http://localhost:{port}/records") as worker:
        until(lambda: counts.failed["siem"] > 0)
        began = time.monotonic()
        for _ in range(1000):
            worker.grown(log.store.next_index)
        assert time.monotonic() - began < 5
        assert worker.lag()[0] == log.store.next_index
        until(lambda: worker.lag()[1] > 0)
        with Collector(port) as back:
            until(lambda: complete(back.lines, leaves(log)))


def test_a_restart_goes_on_behind_the_cursor(log: LogMaker) -> None:
    """A second worker sends what the first did not, and nothing that had arrived."""
    log.add_calls(20)
    with Collector() as collector:
        with running(log, url=collector.url):
            until(lambda: complete(collector.lines, leaves(log)))
        log.add_calls(20)
        with running(log, url=collector.url):
            until(lambda: complete(collector.lines, leaves(log)))
        assert len(collector.lines) == log.store.next_index


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"next":-1,"sha256":""}', b'{"next":7,"sha256":"00"}', b"\xff\xfe", b"[]"]
)
def test_a_cursor_that_is_not_of_this_log_begins_anew(log: LogMaker, content: bytes) -> None:
    """A damaged cursor, or one of another log, means that everything is sent again."""
    log.add_calls(20)
    (log.home / "export").mkdir()
    (log.home / "export" / "siem.cursor").write_bytes(content)
    with Collector() as collector, running(log, url=collector.url):
        until(lambda: complete(collector.lines, leaves(log)))


def test_a_cursor_beyond_the_end_begins_anew(log: LogMaker) -> None:
    """The log was rolled back to an older copy: everything is sent again."""
    log.add_calls(5)
    (log.home / "export").mkdir()
    (log.home / "export" / "siem.cursor").write_bytes(b'{"next":100000,"sha256":"00"}')
    with Collector() as collector, running(log, url=collector.url):
        until(lambda: complete(collector.lines, leaves(log)))


def test_what_was_pruned_is_passed_over(log: LogMaker) -> None:
    """An export that was away for longer than records are kept goes on with the first that there is."""
    log.add_calls(400)
    log.checkpoint()
    for path in sorted((log.home / "tile/entries").rglob("00[01]")):
        path.unlink()
    with Collector() as collector, running(log, url=collector.url):
        until(lambda: len(collector.lines) >= log.store.next_index - 512)
    assert json.loads(collector.lines[0])["index"] == 512


def test_records_that_cannot_be_looked_at_were_not_pruned(log: LogMaker) -> None:
    """While a volume does not answer, nothing is passed over: all of it is sent once it does."""
    log.add_calls(400)
    log.checkpoint()
    entries = log.home / "tile/entries"
    away = entries.rename(log.home / "away")
    entries.symlink_to(entries)  # ELOOP, as EIO and ESTALE would be
    counts = Counts()
    with Collector() as collector, running(log, counts, url=collector.url):
        until(lambda: counts.failed["siem"] > 2)
        assert collector.lines == []
        entries.unlink()
        away.rename(entries)
        until(lambda: complete(collector.lines, leaves(log)))


def test_damage_stops_an_export(log: LogMaker) -> None:
    """A record that is no record any more is not passed over: nothing from there on is sent."""
    log.add_calls(400)
    log.checkpoint()
    path = log.home / "tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b'"type"', b'"tyqe"', 1))
    counts = Counts()
    with Collector() as collector, running(log, counts, url=collector.url, format="ocsf"):
        until(lambda: counts.failed["siem"] > 2)
    assert 0 < len(collector.lines) <= 256


def test_a_journal_that_is_put_back_is_sent(log: LogMaker) -> None:
    """Acknowledged records that are missing for a while end no export: it tries again until they are back."""
    log.add_calls(10)
    (segment,) = log.home.glob("*.jsonl")
    whole, counts = segment.read_bytes(), Counts()
    os.truncate(segment, 0)
    with Collector() as collector, running(log, counts, url=collector.url):
        until(lambda: counts.failed["siem"] > 1)
        segment.write_bytes(whole)
        until(lambda: collector.lines == leaves(log))


# Syslog


def texts(receiver: SyslogReceiver) -> list[bytes]:
    return [each.text.encode() for each in receiver.messages]


@pytest.mark.parametrize("polite", [True, False])
def test_syslog_over_tls(log: LogMaker, authority: Authority, *, polite: bool) -> None:
    """A strict receiver gets every record, and the cursor moves once it has ended the connection as RFC 5425 says, or
    plainly."""
    log.add_calls(100)
    with SyslogReceiver(authority) as receiver:
        receiver.polite = polite
        with running(log, url=receiver.url, ca=authority.ca) as worker:
            until(lambda: complete(texts(receiver), leaves(log)))
            cursor = Cursor(log.home, "siem")
            until(lambda: cursor.load(Walker(log.home)) == log.store.next_index, what="confirmation")
            log.add_calls(10)
            worker.grown(log.store.next_index)
            until(lambda: texts(receiver) == leaves(log))
    assert {each.facility for each in receiver.messages} == {13}
    assert {each.kind for each in receiver.messages} == {"segment.begin", "intent", "outcome"}
    assert {each.severity for each in receiver.messages} == {4, 6}


@pytest.mark.parametrize("cut", [1, 5_000, 30_000])
def test_a_syslog_receiver_that_resets_loses_nothing(log: LogMaker, authority: Authority, cut: int) -> None:
    """What was written into a connection that was reset is sent again, for nobody knows what was read of it."""
    log.add_calls(100)
    counts = Counts()
    with SyslogReceiver(authority) as receiver:
        receiver.cut_after = cut
        with running(log, counts, url=receiver.url, ca=authority.ca):
            until(lambda: receiver.connections > 1 and complete(texts(receiver), leaves(log)))
    assert counts.failed["siem"] > 0


def test_what_a_receiver_never_confirms_lags(log: LogMaker, authority: Authority) -> None:
    """It takes all there is again and again, and resets each time: how long it was not known to have arrived shows."""
    log.add_calls(20)
    counts = Counts()
    with SyslogReceiver(authority) as receiver:
        receiver.forgets = True
        with running(log, counts, url=receiver.url, ca=authority.ca) as worker:
            until(lambda: receiver.connections > 2 and counts.sent["siem"] > 2 * log.store.next_index)
            for _ in range(50):
                time.sleep(0.01)
                assert worker.lag()[1] > 0.5
            receiver.forgets = False
            until(lambda: worker.lag() == (0, 0.0))


def test_a_syslog_receiver_that_dies_and_comes_back(log: LogMaker, authority: Authority) -> None:
    """Records that a receiver took into its memory and died with, before it ended the connection, come again."""
    log.add_calls(20)
    receiver = SyslogReceiver(authority)
    with running(log, url=receiver.url, ca=authority.ca, timeout_seconds=0.5) as worker:
        until(lambda: receiver.messages)
        receiver.close()
        log.add_calls(20)
        worker.grown(log.store.next_index)
        with SyslogReceiver(authority, receiver.port) as back:
            until(lambda: complete(texts(back), leaves(log)))


@pytest.mark.parametrize("wrong", ["another authority", "another name"])
def test_a_receiver_that_is_not_who_it_should_be_gets_nothing(
    log: LogMaker, tmp_path: Path, authority: Authority, wrong: str
) -> None:
    """Neither a certificate of another authority nor one for another name is talked to."""
    (tmp_path / "other").mkdir()
    impostor = Authority(tmp_path / "other", "localhost" if wrong == "another authority" else "elsewhere.test")
    log.add_calls(5)
    counts = Counts()
    trusted = authority.ca if wrong == "another authority" else impostor.ca
    with SyslogReceiver(impostor) as receiver, running(log, counts, url=receiver.url, ca=trusted):
        until(lambda: counts.failed["siem"] > 1)
    assert receiver.messages == []


def test_https_with_a_token(log: LogMaker, tmp_path: Path, authority: Authority) -> None:
    """A collector over TLS is asked with the token of the file."""
    token = tmp_path / "token"
    token.write_text("s3cret-of-the-siem\n")
    token.chmod(0o600)
    log.add_calls(5)
    settings: dict[str, Any] = {"ca": authority.ca, "token": token, "token_scheme": "Splunk", "format": "cef"}
    with Collector(context=authority.context) as collector, running(log, url=collector.url, **settings):
        until(lambda: len(collector.lines) == log.store.next_index)
    assert collector.headers[0]["Authorization"] == "Splunk s3cret-of-the-siem"
    assert all(line.startswith(b"CEF:0|Vestry|") for line in collector.lines)


def test_a_token_that_is_exposed_is_not_sent(log: LogMaker, tmp_path: Path) -> None:
    """A token that others may read is a failure of the export, told without the token."""
    token = tmp_path / "token"
    token.write_text("s3cret-of-the-siem\n")
    token.chmod(0o644)
    log.add_calls(5)
    counts = Counts()
    with Collector() as collector, running(log, counts, url=collector.url, token=token):
        until(lambda: counts.failed["siem"] > 0)
    assert collector.asked == 0


def test_stopping_sends_what_is_there(log: LogMaker) -> None:
    """The end is a last flush: what was durable by then arrives without another look."""
    with Collector() as collector:
        with running(log, url=collector.url) as worker:
            log.add_calls(100)
            worker.grown(log.store.next_index)
        assert collector.lines == leaves(log)


@pytest.mark.parametrize("answer", ["hang", 500])
def test_stopping_takes_no_longer_than_it_may(log: LogMaker, answer: int | str) -> None:
    """A collector that hangs, or refuses, does not hold up the end."""
    log.add_calls(20)
    with Collector() as collector:
        collector.answer = lambda _body: answer
        worker = worker_of(Export(name="siem", url=collector.url, timeout_seconds=30), log.home, Counts())
        worker.grown(log.store.next_index)
        worker.start()
        until(lambda: collector.asked)
        began = time.monotonic()
        worker.stop(0.5)
        assert time.monotonic() - began < 15


def test_pauses_grow(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that stays down is tried more and more seldom."""
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 60.0)
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.05)
    log.add_calls(5)
    tries: list[float] = []

    def answer(_body: bytes) -> int:
        tries.append(time.monotonic())
        return 500

    with Collector() as collector:
        collector.answer = answer
        with running(log, url=collector.url):
            until(lambda: len(tries) >= 6)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[4] > 4 * 0.05


def test_a_collector_is_left_alone_for_as_long_as_it_asks(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After counts where it is longer than the pause, up to a bound, and for that one try."""
    monkeypatch.setattr(workers, "LONGEST_WAIT", 1.0)
    log.add_calls(5)
    tries: list[float] = []

    def answer(_body: bytes) -> int:
        tries.append(time.monotonic())
        return 429 if len(tries) == 1 else 200

    with Collector() as collector:
        collector.answer, collector.retry_after = answer, "120"
        with running(log, url=collector.url) as worker:
            until(lambda: complete(collector.lines, leaves(log)))
            assert worker._sender.wait == 0
    assert tries[1] - tries[0] >= 1.0, "the longest pause is a tenth of that here"


def test_a_log_that_begins_later_is_waited_for(tmp_path: Path) -> None:
    """The log of commands may not be there yet when the server starts."""
    home = tmp_path / "audit" / "cli"
    with Collector() as collector:
        worker = worker_of(Export(name="siem", url=collector.url), home, Counts())
        worker.start()
        time.sleep(0.1)
        with LogMaker(tmp_path / "audit", "cli") as log:
            log.add_calls(3)
        until(lambda: len(collector.lines) == log.store.next_index)
        worker.stop(5)


def test_waiting_costs_nothing(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with nothing to do looks once in a while, not in a busy loop."""
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.5)
    looks: list[float] = []
    signed: Callable[[Walker], int] = Walker.signed

    def counted(self: Walker) -> int:
        looks.append(time.monotonic())
        return signed(self)

    monkeypatch.setattr(Walker, "signed", counted)
    with Collector() as collector, running(log, url=collector.url):
        time.sleep(1.5)
    assert len(looks) < 30
