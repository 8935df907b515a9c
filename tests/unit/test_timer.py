"""The timer that does not count a standstill."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from vestry import timer
from vestry.timer import Timer


@pytest.mark.parametrize(("late", "times"), [(0.0, 1), (0.04, 1), (0.06, 2), (30.0, 2), (-0.3, 2)])
def test_the_time_is_given_once_more_after_a_standstill(
    late: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, however late it is then; and where a busy loop's timer comes too early, as libuv's may."""
    now, timers, told = [100.0], [], []
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def call_later(*given: Any) -> None:
        timers.append(given)

    Timer(cast("Any", SimpleNamespace(call_later=call_later)), 8.0, lambda: told.append(now[0]))
    while not told:
        seconds, call, *arguments = timers[-1]
        now[0] += seconds + late
        call(*arguments)
    assert len(timers) == times
