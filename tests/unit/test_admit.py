"""Admission: places and rates, all or nothing, and a Retry-After that keeps its word."""

from __future__ import annotations

import math
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestry import admit
from vestry.admit import Admission
from vestry.errors import ConcurrencyLimited, Overloaded, RateLimited
from vestry.types import Limits, Principal

FREE = Limits()


def key(name: str = "k", tenant: str = "t", **limits: int) -> Principal:
    """A key with its bounds."""
    return Principal(name, tenant, "alice", limits=Limits(**limits))


def refusal(admission: Admission, who: Principal, now: float, tenant: Limits = FREE) -> float | None:
    """What one short call is told to wait for; None if it is let in."""
    try:
        with admission.place(who, tenant, now):
            return None
    except RateLimited as refused:
        return refused.retry_after


def passes(admission: Admission, who: Principal, now: float, tenant: Limits = FREE) -> bool:
    """Whether one short call is let in."""
    return refusal(admission, who, now, tenant) is None


def test_a_place_is_held_while_the_call_lasts_and_given_back_however_it_ends() -> None:
    """Concurrency of a key: one more than allowed is refused; an exception gives the place back as the end does."""
    admission = Admission(server_concurrency=10)
    who = key(concurrency=2)
    with admission.place(who, FREE, 0.0), ExitStack() as second:
        second.enter_context(admission.place(who, FREE, 0.0))
        assert admission.busy == 2
        with pytest.raises(ConcurrencyLimited) as refused:
            admission.place(who, FREE, 0.0)
        assert refused.value.retry_after is not None
        second.close()
        with pytest.raises(KeyError), admission.place(who, FREE, 0.0):
            raise KeyError
        assert passes(admission, who, 0.0)
    assert admission.busy == 0


def test_a_tenants_places_are_shared_by_its_keys_and_by_nobody_else() -> None:
    """The tenant's bound counts all of its keys; another tenant has its own."""
    admission = Admission(server_concurrency=10)
    bound = Limits(concurrency=1)
    with admission.place(key("a"), bound, 0.0):
        with pytest.raises(ConcurrencyLimited):
            admission.place(key("b"), bound, 0.0)
        assert passes(admission, key("c", tenant="other"), 0.0, bound)


def test_the_server_has_a_bound_of_its_own() -> None:
    """Beyond it the answer is 503, for everybody."""
    admission = Admission(server_concurrency=1)
    with admission.place(key("a"), FREE, 0.0), pytest.raises(Overloaded):
        admission.place(key("b", tenant="other"), FREE, 0.0)


def test_refused_callers_are_told_how_long_calls_usually_take() -> None:
    """The estimate follows what calls have lasted."""
    admission = Admission(server_concurrency=1)
    for _ in range(100):
        admission.lasted(20.0)
    with admission.place(key(), FREE, 0.0), pytest.raises(Overloaded) as refused:
        admission.place(key(), FREE, 0.0)
    assert refused.value.retry_after == pytest.approx(20.0, rel=0.01)


def test_nobody_is_told_to_wait_longer_than_clients_do() -> None:
    """However long calls take: OpenAI's client gives up at once where `Retry-After` is more than two minutes."""
    admission = Admission(server_concurrency=2)
    for _ in range(100):
        admission.lasted(1800.0)
    who = key(concurrency=1)
    with admission.place(who, FREE, 0.0):
        with pytest.raises(ConcurrencyLimited) as limited:
            admission.place(who, FREE, 0.0)
        with admission.place(key("another"), FREE, 0.0), pytest.raises(Overloaded) as full:
            admission.place(key("a third"), FREE, 0.0)
    assert limited.value.retry_after == full.value.retry_after == 60


def test_a_whole_minutes_worth_may_come_at_once_and_no_more() -> None:
    """N a minute: N at once pass, the next does not, and after a minute N pass again."""
    admission = Admission(server_concurrency=10)
    who = key(requests_per_minute=5)
    assert [passes(admission, who, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [passes(admission, who, 60.0) for _ in range(7)] == [True] * 5 + [False] * 2


@settings(max_examples=200, deadline=None)
@given(
    of_key=st.integers(1, 600),
    of_tenant=st.integers(1, 600),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    start=st.floats(0, 1e6),
)
def test_retry_after_keeps_its_word(of_key: int, of_tenant: int, gaps: list[float], start: float) -> None:
    """Whoever waits as long as the refusal said is let in next, whichever of the two rates was used up."""
    admission = Admission(server_concurrency=10)
    who, tenant, now = key(requests_per_minute=of_key), Limits(requests_per_minute=of_tenant), start
    for gap in gaps:
        now += gap
        told = refusal(admission, who, now, tenant)
        if told is not None:
            assert 0 < told <= 60
            assert passes(admission, who, now + max(1, math.ceil(told)), tenant)
            now += max(1, math.ceil(told))


@settings(max_examples=100, deadline=None)
@given(rate=st.integers(1, 60), gaps=st.lists(st.floats(0, 5), max_size=120))
def test_no_minute_sees_more_than_twice_the_rate(rate: int, gaps: list[float]) -> None:
    """The burst of one minute's worth and the even flow behind it: no window of 60 s holds more than both."""
    admission = Admission(server_concurrency=10)
    let_in: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        if passes(admission, key(requests_per_minute=rate), now):
            let_in.append(now)
    for first in let_in:
        assert sum(first <= each < first + 60 for each in let_in) <= 2 * rate


def test_a_refused_call_uses_nothing_up() -> None:
    """All or nothing: a call that the key's rate refuses takes nothing of its tenant's rate or places."""
    admission = Admission(server_concurrency=10)
    bound = Limits(concurrency=2, requests_per_minute=2)
    assert passes(admission, key("a", requests_per_minute=1), 0.0, bound)
    for _ in range(5):
        assert not passes(admission, key("a", requests_per_minute=1), 0.0, bound)
    assert passes(admission, key("b"), 0.0, bound)
    assert not passes(admission, key("b"), 0.0, bound)


def test_holders_that_use_nothing_are_forgotten_and_those_in_use_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; a place held, or a rate used up, survives the forgetting."""
    monkeypatch.setattr(admit, "PRUNE_AT", 8)
    admission = Admission(server_concurrency=100)
    held = key("held", tenant="x", concurrency=1)
    spent = key("spent", tenant="y", requests_per_minute=1)
    with admission.place(held, FREE, 0.0):
        assert passes(admission, spent, 0.0)
        for number in range(100):
            assert passes(admission, key(f"key-{number}", tenant=f"tenant-{number}"), 0.0)
        with pytest.raises(ConcurrencyLimited):
            admission.place(held, FREE, 0.0)
        assert not passes(admission, spent, 0.0)
    assert max(len(admission._keys), len(admission._tenants)) <= 20


def test_a_tenant_is_counted_even_as_others_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making room for a key never drops the count of the tenant that the same call holds."""
    monkeypatch.setattr(admit, "PRUNE_AT", 1)
    admission = Admission(server_concurrency=100)
    bound = Limits(concurrency=1)
    with admission.place(key("a"), bound, 0.0), pytest.raises(ConcurrencyLimited):
        admission.place(key("b"), bound, 0.0)
