"""Where a server that was killed goes on from: its last `log.reconciled` record, wherever that is by then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.calls import GRANT, PRINCIPAL, call, head
from support.logs import LogMaker
from vestry.audit import reconciling, scan
from vestry.audit.completeness import Bounds, Reading, Work
from vestry.audit.condition import condition
from vestry.audit.fields import RecordType
from vestry.audit.reading import LogReader
from vestry.audit.reconciling import Past, past, sums
from vestry.audit.records import rfc3339
from vestry.types import Ending, Outcome, Usage

BEGAN = head("any").began_wall
READ = rfc3339(BEGAN - 1_000_000)


def row(replica: str, counted: int, unexplained: int = 0, *, after: float = 0) -> dict[str, Any]:
    """One replica of a `log.reconciled` record."""
    amounts = {"engine": [0] * 3, "least": [0] * 3, "most": [0] * 3, "uncounted": [0] * 3}
    return {
        "replica": replica, "readable": True, **amounts, "unexplained": [unexplained] * 3, "restarts": 0,
        "counters": [counted] * 3, "read": rfc3339(BEGAN + round((after - 1) * 1_000_000)),
    }  # fmt: skip


def reconciled(log: LogMaker, *rows: dict[str, Any]) -> None:
    kind, since = RecordType.LOG_RECONCILED, READ
    log.add(log.records.event(kind, cause="interval", since=since, in_progress=0, replicas=list(rows)))


def start(log: LogMaker) -> None:
    log.add(log.records.event(RecordType.SERVER_START, version="1", origins=["server"]))


def answered(log: LogMaker, number: int, *, began: int = BEGAN) -> None:
    """Calls that the replica `a` has answered, of ten and five tokens."""
    done = Outcome(Ending.COMPLETE, 200, usage=Usage(10, 5), finish_reasons=("stop",), replica="a")
    heads = [head(f"req-{n}", began_wall=began) for n in range(number)]
    log.add(*[log.records.outcome(each, PRINCIPAL, call(), GRANT, done) for each in heads])


def busy(log: LogMaker) -> None:
    """So many calls that no segment holds what there was before."""
    before = log.store.next_index
    for _ in range(4):
        log.add_calls(300)
        log.checkpoint()
    assert scan.first_index(scan.segments(log.home)[0]) > before


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    """A log whose segments are short, so that its journal soon holds only what came last."""
    with LogMaker(tmp_path, segment_bytes=1 << 16) as made:
        yield made


@pytest.fixture
def reconciled_once(log: LogMaker) -> LogMaker:
    """One that was reconciled when it began, and has been busy since."""
    reconciled(log, row("a", 1))
    busy(log)
    return log


@pytest.mark.parametrize("calls", [0, 100, 300])
def test_a_busy_server_that_was_killed_goes_on_from_where_it_was(log: LogMaker, calls: int) -> None:
    """The last reconciliation is found in the bundles where the journal holds none, wherever in its bundle it stands;
    each outcome since counts once, and none of this life's."""
    start(log)
    log.add_calls(calls)
    reconciled(log, row("a", 1), row("b", 2))
    reconciled(log, row("a", 3, unexplained=4))
    answered(log, 7)
    busy(log)
    answered(log, 2)
    start(log)
    answered(log, 5)
    exact = Bounds(Work(90, 45, 9), Work(90, 45, 9))
    assert past(log.home) == {
        "a": Past(Reading(Work(3, 3, 3)), exact),
        "b": Past(Reading(Work(2, 2, 2)), Bounds()),
    }
    found = condition(log.home, "server")
    assert [each.replica for each in found.engines] == ["a", "b"]
    assert any("4 prompt tokens" in fault for fault in found.faults)


def test_of_a_call_that_began_before_the_last_look_only_bounds_are_known(log: LogMaker) -> None:
    """The engine may have counted it by then, in part or as a whole, or not."""
    reconciled(log, row("a", 1))
    answered(log, 2)
    answered(log, 3, began=BEGAN - 2_000_000)
    start(log)
    assert past(log.home)["a"].recorded == Bounds(Work(20, 10, 2), Work(50, 25, 5))


def test_it_is_looked_for_only_so_far_back(reconciled_once: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log that was never reconciled is not read from its beginning."""
    log = reconciled_once
    start(log)
    assert past(log.home)
    monkeypatch.setattr(reconciling, "BACK_BUNDLES", 2)
    assert past(log.home) == {}
    assert condition(log.home, "server").engines == []


def test_two_servers_that_look_at_once_see_no_restart(tmp_path: Path) -> None:
    """Which look came first their clocks do not tell: counters that are back for a moment are an earlier look; for
    good, they are an engine that was started anew.
    """
    with LogMaker(tmp_path, "one") as one, LogMaker(tmp_path, "two") as two:
        for log, counted, after in ((one, 100, 0), (two, 110, 10), (one, 105, 10.1), (one, 120, 30)):
            reconciled(log, row("a", counted, after=after))
        (found,) = sums([one.home, two.home])
        assert (found.engine, found.restarts) == (Work(20, 20, 20), 0)
        reconciled(two, row("a", 3, after=45))
        (found,) = sums([one.home, two.home])
        assert (found.engine, found.restarts) == (Work(23, 23, 23), 1)


def test_what_was_pruned_is_no_damage(reconciled_once: LogMaker) -> None:
    """Where the last reconciliation went with the records of its time, there is nothing to go on from."""
    log = reconciled_once
    start(log)
    (log.home / "tile" / "entries" / "000").unlink()
    assert LogReader(log.home).minimum == 256
    assert past(log.home) == {}
    assert condition(log.home, "server").faults == []


def test_what_is_missing_is_told(reconciled_once: LogMaker) -> None:
    """A bundle that is gone between others is a fault of the log, in a sentence."""
    home = reconciled_once.home
    (home / "tile" / "entries" / "001").unlink()
    assert any("entries/001 is missing" in fault for fault in condition(home, "server").faults)
