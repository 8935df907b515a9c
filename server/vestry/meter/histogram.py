"""A histogram as Prometheus wants it, in plain numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class Histogram:
    """Counts by bucket; bounds are upper and inclusive."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value; a negative one, which only a clock's rounding makes, is none."""
        self.counts[bisect_left(self.bounds, value)] += 1
        if value > 0.0:
            self.total += value

    def add_all(self, values: Sequence[float]) -> None:
        """Count many at once, each as `add` does. Sorted, they are looked up by the bounds, which are fewer."""
        ordered = sorted(values)
        before = 0
        for place, bound in enumerate(self.bounds):
            until = bisect_right(ordered, bound, before)
            self.counts[place] += until - before
            before = until
        self.counts[-1] += len(ordered) - before
        self.total += sum(ordered[bisect_left(ordered, 0.0) :])

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(seen)))
        return found
