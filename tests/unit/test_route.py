"""Routing decides from what it was told, and from the times that it was given."""

from __future__ import annotations

import pytest

from support.house import served_model
from vestry import route
from vestry.errors import BUSY, NoReplica
from vestry.route import CANCELLED, Router, Trip
from vestry.types import EJECTIONS


class Ejections:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def ejected(self, model: str, replica: str, cause: str) -> None:
        assert cause in EJECTIONS
        self.seen.append((model, replica, cause))


class Bench:
    """A router over replicas 1, 2, … of the model `small`, and a clock set by hand."""

    def __init__(self, replicas: int = 2, budget: float = 0.2) -> None:
        urls = [f"http://127.0.0.1:{number}" for number in range(1, replicas + 1)]
        self.ejections = Ejections()
        self.router = Router([served_model("small", *urls)], retry_budget=budget, observer=self.ejections)
        self.now = 1000.0

    def pick(self, tried: Trip | None = None, *, streamed: bool = True, size: int = 0) -> Trip:
        self.now += 0.001
        name = None if tried is None else tried.seat.replica.name
        return self.router.pick("small", self.now, streamed=streamed, size=size, tried=name)

    def at(self, number: int, *, streamed: bool = True, size: int = 0) -> Trip:
        """A call that goes to this replica; the others that were tried on the way are given up."""
        others = []
        while (trip := self.pick(streamed=streamed, size=size)).seat.replica.name != f"127.0.0.1:{number}":
            others.append(trip)
            assert len(others) < 50, f"replica {number} is not chosen"
        for other in others:
            self.end(other, CANCELLED)
        return trip

    def hear(self, trip: Trip, after: float = 0.0) -> None:
        self.now += after
        self.router.heard(trip, self.now)

    def end(self, trip: Trip, cause: str | None = None) -> None:
        self.router.ended("small", trip, self.now, cause=cause)

    def fail(self, number: int, cause: str = "status", times: int = route.FAILURES_IN_A_ROW) -> None:
        for _ in range(times):
            self.end(self.at(number), cause)

    def probe(self, number: int, *, healthy: bool, times: int = 1) -> None:
        for _ in range(times):
            self.router.probed("small", f"127.0.0.1:{number}", healthy=healthy)

    def look(self) -> None:
        self.router.look(self.now)

    def in_service(self) -> list[int]:
        seats = self.router.seats["small"]
        return [int(seat.replica.name.rsplit(":", 1)[1]) for seat in seats if seat.in_service(self.now)]


def numbers(trips: list[Trip]) -> list[int]:
    """Where they went."""
    return [int(trip.seat.replica.name.rsplit(":", 1)[1]) for trip in trips]


def test_the_least_busy_replica_is_chosen_and_equals_take_turns() -> None:
    """Least calls in progress; among equals the one that was chosen longest ago."""
    bench = Bench(replicas=3)
    trips = [bench.pick() for _ in range(6)]
    assert sorted(numbers(trips)) == [1, 1, 2, 2, 3, 3]
    bench.end(trips[numbers(trips).index(2)])
    assert numbers([bench.pick()]) == [2]


def test_a_model_without_a_replica_in_service_is_refused_at_once() -> None:
    """Never heard from, or all down: readiness knows it; a call gets NoReplica, with a word on when to come back."""
    bench = Bench(replicas=1)
    assert not bench.router.available("small", bench.now)
    bench.router.probed("small", bench.router.seats["small"][0].replica.name, healthy=True)
    assert bench.router.available("small", bench.now)
    bench.end(bench.pick(), "connect")
    assert not bench.router.available("small", bench.now)
    with pytest.raises(NoReplica) as refused:
        bench.pick()
    assert refused.value.retry_after == 1.0


def test_a_replica_that_cannot_be_connected_to_is_down_until_a_check_succeeds() -> None:
    """One refused connection is enough, and one good check brings it back; it is counted once."""
    bench = Bench()
    bench.fail(1, "connect", times=1)
    assert bench.in_service() == [2]
    bench.probe(1, healthy=False, times=3)
    bench.probe(1, healthy=True)
    assert bench.in_service() == [1, 2]
    assert bench.ejections.seen == [("small", "127.0.0.1:1", "down")]


def test_one_missed_check_is_no_proof() -> None:
    """Two checks in a row must fail; a good one in between starts the count anew. Others are not touched."""
    bench = Bench()
    bench.probe(1, healthy=False)
    bench.probe(1, healthy=True)
    bench.probe(1, healthy=False)
    assert bench.in_service() == [1, 2]
    bench.probe(1, healthy=False)
    assert bench.in_service() == [2]


def test_failures_in_a_row_eject_for_a_while_and_longer_each_time() -> None:
    """Ejected by outcomes: 2 s, then 4, then 8, to a bound; a success in between starts the count of failures anew."""
    bench = Bench()
    bench.fail(1, times=1)
    bench.end(bench.at(1))
    bench.fail(1, times=1)
    assert bench.in_service() == [1, 2]
    bench.fail(1, times=1)
    assert bench.in_service() == [2]
    for seconds in (2, 4, 8, 16, 30, 30):
        bench.now += seconds - 0.5
        assert bench.in_service() == [2]
        bench.now += 0.6
        assert bench.in_service() == [1, 2]
        bench.fail(1, times=1)
    assert {cause for *_, cause in bench.ejections.seen} == {"status"}


def test_a_long_good_time_forgives_earlier_ejections() -> None:
    """After half a minute of good service an ejection is short again."""
    bench = Bench()
    bench.fail(1)
    bench.now += 3
    bench.end(bench.at(1))
    bench.now += 31
    bench.end(bench.at(1))
    bench.fail(1)
    bench.now += 2.1
    assert bench.in_service() == [1, 2]


def test_the_last_one_in_service_is_never_ejected() -> None:
    """However badly the only replica does, it keeps getting calls: a wrong verdict must not stop a model."""
    bench = Bench()
    bench.fail(1)
    bench.fail(2, times=10)
    assert bench.in_service() == [2]
    alone = Bench(replicas=1)
    alone.fail(1, times=10)
    alone.look()
    assert alone.in_service() == [1]


def test_an_ejected_replica_comes_back_with_one_call() -> None:
    """After its time it gets one call, and no second one before that has shown something."""
    bench = Bench()
    bench.fail(1)
    bench.now += 2.1
    trial = bench.at(1)
    assert set(numbers([bench.pick() for _ in range(5)])) == {2}
    bench.hear(trial)
    assert 1 in numbers([bench.pick() for _ in range(5)])


def test_calls_from_before_an_ejection_have_no_part_in_the_trial() -> None:
    """A long stream of better times does not keep its replica out, and one that ends well during the ejection does not
    bring it back untried."""
    bench = Bench()
    long, short = bench.at(1), bench.at(1)
    for trip in (long, short):
        bench.hear(trip)
    bench.fail(1)
    bench.end(short)
    bench.now += 2.1
    trial = bench.at(1)
    assert set(numbers([bench.pick() for _ in range(5)])) == {2}
    bench.end(trial, CANCELLED)
    trial = bench.at(1)
    bench.hear(trial)
    assert 1 in numbers([bench.pick() for _ in range(5)])
    bench.end(long)


def test_a_failure_of_a_call_from_before_an_ejection_is_no_failed_trial() -> None:
    """It counts as one failure, as it would have before; the trial goes on."""
    bench = Bench()
    long = bench.at(1)
    bench.fail(1)
    bench.now += 2.1
    bench.end(long, "stream")
    assert bench.in_service() == [1, 2]
    bench.fail(1, times=1)
    assert bench.in_service() == [2]


def test_a_trial_that_fails_ejects_again_at_once() -> None:
    """One failure is enough on trial."""
    bench = Bench()
    bench.fail(1)
    bench.now += 2.1
    bench.fail(1, "timeout", times=1)
    assert bench.in_service() == [2]


def test_a_trial_of_an_answer_in_one_piece_ends_with_its_success() -> None:
    """What is not streamed shows itself at its end only."""
    bench = Bench()
    bench.fail(1)
    bench.now += 2.1
    trial = bench.at(1, streamed=False)
    bench.hear(trial)
    assert set(numbers([bench.pick() for _ in range(3)])) == {2}
    bench.end(trial)
    assert 1 in numbers([bench.pick() for _ in range(5)])


def test_a_replica_on_trial_takes_every_call_if_there_is_no_other() -> None:
    """One ejected, then the other down: the one on trial is all there is, and nobody is turned away."""
    bench = Bench()
    bench.fail(1)
    bench.now += 2.1
    bench.fail(2, "connect", times=1)
    assert set(numbers([bench.pick() for _ in range(5)])) == {1}


def test_an_ejected_replica_takes_every_call_while_all_others_are_down() -> None:
    """Before its time, as the second try of the call that has found the other down: it is better than nobody. Once
    another is back it waits for its time, and then for its one call; what it was sent meanwhile is no trial.
    """
    bench = Bench()
    bench.router.probed("small", "127.0.0.1:1", healthy=True)
    bench.fail(1)
    first = bench.at(2)
    bench.end(first, "connect")
    meanwhile = [bench.pick(first), *(bench.pick(streamed=False) for _ in range(4))]
    assert set(numbers(meanwhile)) == {1}
    assert bench.router.available("small", bench.now)
    bench.probe(2, healthy=True)
    assert set(numbers([bench.pick() for _ in range(5)])) == {2}
    bench.now += 2.1
    assert bench.in_service() == [1, 2]
    trial = bench.at(1)
    assert set(numbers([bench.pick() for _ in range(5)])) == {2}
    bench.end(trial)
    assert 1 in numbers([bench.pick() for _ in range(8)])


def test_a_call_that_its_client_gave_up_says_nothing() -> None:
    """It neither counts against a replica nor clears it."""
    bench = Bench()
    bench.fail(1, times=1)
    bench.fail(1, CANCELLED, times=5)
    assert bench.in_service() == [1, 2]
    bench.fail(1, times=1)
    assert bench.in_service() == [2]


def test_a_replica_whose_first_bytes_come_late_is_ejected() -> None:
    """Five times later than its peers' median, and more than half a second: slow, whatever its health says."""
    bench = Bench(replicas=3)
    for number in (2, 3):
        bench.hear(bench.at(number), after=0.05)
    bench.hear(bench.at(1), after=1.0)
    bench.look()
    assert bench.in_service() == [2, 3]
    assert bench.ejections.seen == [("small", "127.0.0.1:1", "slow")]


def test_calls_that_still_wait_are_evidence() -> None:
    """Two calls that have waited too long eject a replica before either has ended; one alone does not."""
    bench = Bench()
    bench.hear(bench.at(2), after=0.01)
    bench.at(1)
    bench.now += 1
    bench.look()
    assert bench.in_service() == [1, 2]
    bench.at(1)
    bench.now += 1
    bench.look()
    assert bench.in_service() == [2]


def test_calls_that_wait_from_before_an_ejection_are_no_evidence_after_it() -> None:
    """A replica that has come back is judged by what it does now."""
    bench = Bench()
    bench.hear(bench.at(2), after=0.01)
    waiting = [bench.at(1), bench.at(1)]
    bench.now += 1
    bench.look()
    bench.now += 2.1
    bench.look()
    assert bench.in_service() == [1, 2]
    bench.hear(waiting[0])
    bench.end(waiting[0])
    bench.look()
    assert bench.in_service() == [1, 2]


def test_what_a_busy_replica_did_not_take_is_tried_elsewhere_beyond_the_budget() -> None:
    """It is no load; the others are asked first for a second, and where no call is to be tried twice none is."""
    bench = Bench(replicas=3, budget=0.01)
    for _ in range(20):
        bench.now += 2
        first = bench.at(1)
        bench.end(first, BUSY)
        second = bench.pick(tried=first)
        bench.end(second, BUSY)
        third = bench.pick()
        bench.end(third)
        assert sorted(numbers([first, second, third])) == [1, 2, 3]
    bench = Bench(budget=0.0)
    first = bench.pick()
    bench.end(first, BUSY)
    with pytest.raises(NoReplica):
        bench.pick(tried=first)


def test_a_long_prompt_makes_no_replica_slow() -> None:
    """An engine needs seconds for one of 100 KB, and calls that come behind it wait for it: healthy all the same."""
    bench = Bench()
    for number in (1, 2):
        bench.hear(bench.at(number), after=0.05)
    long, behind = bench.at(1, size=100_000), [bench.at(1, size=300), bench.at(1, size=300, streamed=False)]
    bench.now += 2
    bench.look()
    for trip in (long, *behind):
        bench.hear(trip)
        bench.end(trip)
    bench.look()
    assert bench.in_service() == [1, 2]
    for after in (1.0, 1.0):
        bench.hear(bench.at(1, size=300), after=after)
    bench.look()
    assert bench.in_service() == [2]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_long_prompt_that_is_over_excuses_nobody(streamed: bool) -> None:
    """Heard, failed or given up: those that come afterwards wait for nothing."""
    bench = Bench()
    bench.hear(bench.at(2), after=0.05)
    for cause in (None, CANCELLED, "status"):
        bench.end(bench.at(1, size=100_000, streamed=streamed), cause)
    heard = bench.at(1, size=100_000)
    bench.hear(heard, after=0.05)
    bench.end(heard)
    assert [seat.heavy for seat in bench.router.seats["small"]] == [0, 0]
    waiting = [bench.at(1, size=300), bench.at(1, size=300)]
    bench.now += 0.7
    bench.look()
    assert len(waiting) == 2
    assert bench.in_service() == [2]


def test_long_prompts_keep_no_engine_that_hangs_in_service() -> None:
    """Whole documents wait there, answers in one piece too, which tell their first byte at their end: out in 8 s."""
    bench = Bench()
    bench.hear(bench.at(2), after=0.05)
    waiting = [bench.at(1, size=100_000, streamed=False) for _ in range(10)]
    waiting += [bench.at(1, size=300), bench.at(1, size=300)]
    for seconds, there in ((7.0, [1, 2]), (1.5, [2])):
        bench.now += seconds
        bench.look()
        assert bench.in_service() == there
    assert len(waiting) == 12


def test_long_prompts_at_one_replica_make_no_other_slow() -> None:
    """First bytes come as late with short prompts as with long ones where calls queue, or a long one's beginning is
    cached: the replica that had the long ones is not the faster for it. One that is slow is found all the same.
    """
    bench = Bench()
    for number, size in ((1, 30_000), (2, 300), (1, 100_000), (2, 300)):
        trip = bench.at(number, size=size)
        bench.hear(trip, after=0.8)
        bench.end(trip)
        bench.look()
    waiting = [bench.at(2, size=300), bench.at(2, size=300)]
    bench.now += 0.8
    bench.look()
    assert len(waiting) == 2
    assert bench.in_service() == [1, 2]
    bench.now += 5
    bench.look()
    assert bench.in_service() == [1]


def test_slowness_needs_peers_to_compare_with() -> None:
    """Nothing is known of the others, or there are none: nobody is slow."""
    for bench in (Bench(), Bench(replicas=1)):
        bench.hear(bench.at(1), after=5.0)
        bench.look()
        assert 1 in bench.in_service()


def test_all_being_slow_alike_ejects_nobody() -> None:
    """Slow is a comparison: under a common load all stay."""
    bench = Bench(replicas=3)
    for number in (1, 2, 3):
        bench.hear(bench.at(number), after=3.0)
    bench.look()
    assert bench.in_service() == [1, 2, 3]


def test_a_second_try_goes_elsewhere() -> None:
    """Never to the replica that has just failed."""
    bench = Bench()
    first = bench.at(1)
    bench.end(first, "status")
    assert numbers([bench.pick(tried=first)]) == [2]
    alone = Bench(replicas=1)
    first = alone.pick()
    alone.end(first, "status")
    with pytest.raises(NoReplica):
        alone.pick(tried=first)


def test_second_tries_are_a_share_of_the_calls() -> None:
    """Ten in hand, then one for every five calls: a failing model is not sent double the load."""
    bench = Bench(budget=0.2)

    def tries(calls: int) -> int:
        done = 0
        for _ in range(calls):
            first = bench.pick()
            bench.end(first, CANCELLED)
            try:
                bench.end(bench.pick(tried=first), CANCELLED)
            except NoReplica:
                continue
            done += 1
        return done

    assert 10 <= tries(10) <= 12
    tries(50)
    assert 19 <= tries(100) <= 21


def test_a_budget_of_nothing_allows_no_second_try() -> None:
    """`retry_budget: 0` turns second tries off."""
    bench = Bench(budget=0.0)
    first = bench.pick()
    with pytest.raises(NoReplica):
        bench.pick(tried=first)


def test_a_second_try_that_finds_nobody_costs_nothing() -> None:
    """The budget is not spent on replicas that are not there."""
    bench = Bench(replicas=1)
    first = bench.pick()
    for _ in range(50):
        with pytest.raises(NoReplica):
            bench.pick(tried=first)
    assert bench.router._budget["small"] == route.BUDGET_CAP
