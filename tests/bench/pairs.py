"""Two servers under the same load, in pairs of short runs: what the one costs more than the other.

Such a difference is less than by what a machine's speed moves from one second to the next. So there are many short
runs, each of the two first in turn, and what counts is the median of the pairs' differences. A bare nginx runs beside
each pair: by it the difference is also told as on the machine where the targets were set.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import works
from bench.report import AIMS
from bench.works import WORKS, Loader, Result, Target

SECONDS = 1.2
NGINX = "nginx"
Read = Callable[[Result], float]


@dataclass(frozen=True)
class Pairs:
    """All runs: those of `one` and of `other` in pairs, and nginx's."""

    results: list[Result]
    one: str
    other: str

    def cpu_rows(self, bound: float) -> list[list[str]]:
        """The CPU of a call, with the difference, and the same by nginx's; `bound` is in microseconds."""

        def cpu(result: Result) -> float:
            return result.cpu_request or 0.0

        nginx = statistics.median(self._read(NGINX, cpu))
        there = AIMS["c64"].nginx or nginx
        return [
            self.row(f"CPU a call, c64, µs (nginx: {nginx:.1f})", cpu, f"{bound:g}"),
            self.row(f"the same where nginx takes {there:g}", lambda run: cpu(run) * there / nginx, f"{bound:g}"),
        ]

    def row(self, name: str, read: Read, bound: str) -> list[str]:
        """The medians of both, and of the differences."""
        one, other = self._read(self.one, read), self._read(self.other, read)
        difference = works.difference(one, other)
        return [name, f"{statistics.median(one):,.2f}", f"{statistics.median(other):,.2f}", f"{difference:,.2f}", bound]

    def _read(self, target: str, read: Read) -> list[float]:
        return [read(each) for each in self.results if each.target == target]

    def json(self) -> list[dict[str, Any]]:
        return [each.json() for each in self.results]


def measure(
    one: Target, other: Target, nginx: Target, mock: Target, loader: Loader, *, pairs: int, seconds: float = SECONDS
) -> Pairs:
    """So many pairs of runs at 64 connections. Raises BenchError."""
    (work,) = [each for each in WORKS if each.name == "c64"]
    line, targets = work.arguments(seconds, False), (one, other, nginx)
    results: list[Result] = []
    for number in range(pairs):
        results += [works.measure(work, each, mock, loader, line) for each in _turned(targets, number)]
    return Pairs(results, one.name, other.name)


def _turned(targets: Sequence[Target], number: int) -> Sequence[Target]:
    return targets[:: -1 if number % 2 else 1]
