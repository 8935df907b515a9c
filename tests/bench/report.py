"""From runs to figures: medians over the rounds, differences and ratios within a round, and the verdicts.

A difference or ratio is taken inside one round and then the median of the rounds is shown, so that a machine
that gets slower for a while slows both sides of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.works import WORKS, Result

MEGA = 1_000_000


@dataclass(frozen=True)
class Aim:
    """One figure with its target and its goal. `least` is true where more is better.

    `nginx` is what nginx showed on the machine where the targets were set (microseconds); with it the target
    can be read as a ratio, which carries over to another machine.
    """

    name: str
    unit: str
    target: float
    goal: float
    least: bool = False
    nginx: float | None = None


AIMS = {
    "c64": Aim("CPU a request, c64", "µs", 90, 60, nginx=14),
    "32k": Aim("CPU a request, 32k", "µs", 170, 110, nginx=28),
    "s256": Aim("CPU a chunk, s256", "µs", 30, 20, nginx=13),
    "added": Aim("added p50 at r50, beyond nginx", "ms", 1.2, 0.6),
    "memory": Aim("memory after load (RSS)", "MB", 130, 90),
    "real": Aim("real vLLM: tokens/s, through the server ÷ direct", "", 0.98, 0.995, least=True),
}


@dataclass(frozen=True)
class Verdict:
    aim: Aim
    value: float
    nginx: float | None = None
    """What nginx showed in the same run."""

    def met(self, bound: float) -> bool:
        return self.value >= bound if self.aim.least else self.value <= bound

    @property
    def target_met(self) -> bool:
        return self.met(self.aim.target)

    def json(self) -> dict[str, str | float | bool | None]:
        return {
            "figure": self.aim.name,
            "unit": self.aim.unit,
            "value": self.value,
            "nginx": self.nginx,
            "target": self.aim.target,
            "target_met": self.target_met,
            "goal": self.aim.goal,
            "goal_met": self.met(self.aim.goal),
        }

    def row(self) -> list[str]:
        digits = 3 if self.aim.least else 2 if self.aim.unit == "ms" else 0
        ratio = allowed = "-"
        if self.nginx and self.aim.nginx:
            ratio, allowed = f"{self.value / self.nginx:.1f}", f"{self.aim.target / self.aim.nginx:.1f}"
        return [
            f"{self.aim.name}{', ' + self.aim.unit if self.aim.unit else ''}",
            f"{self.value:.{digits}f}",
            f"{self.aim.target:g}",
            "met" if self.target_met else "NOT MET",
            f"{self.aim.goal:g}",
            "met" if self.met(self.aim.goal) else "not met",
            ratio,
            allowed,
        ]


VERDICT_HEAD = ("figure", "Vestry", "target", "", "goal", "", "nginx = 1", "target, nginx = 1")


@dataclass(frozen=True)
class Figures:
    """The runs of a whole bench: one list of results a round."""

    rounds: Sequence[Sequence[Result]]

    def find(self, work: str, target: str) -> list[Result]:
        return [each for one in self.rounds for each in one if (each.work, each.target) == (work, target)]

    def median(self, work: str, target: str, read: Callable[[Result], float | None]) -> float | None:
        """Median over the rounds; None where the work was not run or has no such figure."""
        values = [value for each in self.find(work, target) if (value := read(each)) is not None]
        return statistics.median(values) if values else None

    def added(self, work: str, target: str, beyond: str, percentile: str) -> float | None:
        """Median over the rounds of the latency of `target` minus that of `beyond`, in microseconds."""
        pairs = zip(self.find(work, target), self.find(work, beyond), strict=False)
        values = [each.load[percentile] - other.load[percentile] for each, other in pairs]
        return statistics.median(values) if values else None

    def names(self) -> list[str]:
        seen: list[str] = []
        for each in (result for one in self.rounds for result in one):
            if each.target not in seen:
                seen.append(each.target)
        return sorted(seen, key=("direct", "nginx", "vestry").index)

    def verdicts(self, memory: int | None, real: float | None) -> list[Verdict]:
        """The figures that have a target, as far as they were measured."""
        found = []
        for work in ("c64", "32k", "s256"):
            read = _cpu_chunk if work == "s256" else _cpu_request
            value = self.median(work, "vestry", read)
            if value is not None:
                found.append(Verdict(AIMS[work], value, self.median(work, "nginx", read)))
        added = self.added("r50", "vestry", "nginx", "lat_p50")
        if added is not None:
            found.append(Verdict(AIMS["added"], added / 1000))
        if memory is not None:
            found.append(Verdict(AIMS["memory"], memory / MEGA))
        if real is not None:
            found.append(Verdict(AIMS["real"], real))
        return found


def _cpu_request(result: Result) -> float | None:
    return result.cpu_request


def _cpu_chunk(result: Result) -> float | None:
    return result.cpu_chunk


def _load(name: str) -> Callable[[Result], float | None]:
    return lambda result: float(result.load[name])


CALL_HEAD = (
    "work", "in front", "CPU µs/request", "nginx = 1", "requests/s", "p50 µs", "p99 µs",
    "beyond nothing: p50", "p99", "beyond nginx: p50", "p99",
)  # fmt: skip
STREAM_HEAD = (
    "work", "in front", "CPU µs/chunk", "nginx = 1", "CPU of a core", "chunks/s", "first chunk p50 µs", "p99",
    "chunk age p50 µs", "p99",
)  # fmt: skip


def call_rows(figures: Figures) -> list[list[str]]:
    """One row a work and target, for the works whose answers come in one piece."""
    rows = []
    for work in (each.name for each in WORKS if not each.streams):
        for target in figures.names():
            if not figures.find(work, target):
                continue
            cost = figures.median(work, target, _cpu_request)
            beyond = [
                figures.added(work, target, other, percentile) if other != target else None
                for other in ("direct", "nginx")
                for percentile in ("lat_p50", "lat_p99")
            ]
            if target == "direct":
                beyond = [None] * 4
            rows.append(
                [
                    work,
                    target,
                    _text(cost, 1),
                    _ratio(cost, figures.median(work, "nginx", _cpu_request)),
                    *(_text(figures.median(work, target, _load(name))) for name in ("rps", "lat_p50", "lat_p99")),
                    *(_text(value) for value in beyond),
                ]
            )
    return rows


def stream_rows(figures: Figures) -> list[list[str]]:
    """One row a work and target, for the works that stream."""
    rows = []
    for work in (each.name for each in WORKS if each.streams):
        for target in figures.names():
            if not figures.find(work, target):
                continue
            cost = figures.median(work, target, _cpu_chunk)
            share = figures.median(work, target, lambda result: result.cpu_share)
            names = ("chunks_s", "ttft_p50", "ttft_p99", "relay_p50", "relay_p99")
            rows.append(
                [
                    work,
                    target,
                    _text(cost, 1),
                    _ratio(cost, figures.median(work, "nginx", _cpu_chunk)),
                    f"{share:.0%}" if share is not None else "-",
                    *(_text(figures.median(work, target, _load(name))) for name in names),
                ]
            )
    return rows


RECORD_HEAD = ("work", "records/s", "records a call", "bytes a record", "bytes/s", "calls an upstream connection")


def record_rows(figures: Figures) -> list[list[str]]:
    """What the audit log took in, and how well upstream connections are used again, one row a work."""
    rows = []
    for work in WORKS:
        results = [each for each in figures.find(work.name, "vestry") if each.records]
        if not results:
            continue
        seconds = [work.warm + each.load["secs"] for each in results]
        rows.append(
            [
                work.name,
                _median((each.records or 0) / span for each, span in zip(results, seconds, strict=True)),
                _median(((each.records or 0) / max(1, each.posts) for each in results), 2),
                _median((each.record_bytes or 0) / (each.records or 1) for each in results),
                _median((each.record_bytes or 0) / span for each, span in zip(results, seconds, strict=True)),
                _median(each.posts / max(1, each.upstream) for each in results),
            ]
        )
    return rows


def _text(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _median(values: Iterable[float], digits: int = 0) -> str:
    return _text(statistics.median(values), digits)


def _ratio(value: float | None, reference: float | None) -> str:
    return f"{value / reference:.1f}" if value is not None and reference else "-"


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: first columns to the left, figures to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = 2 if head[0] == "work" else 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
