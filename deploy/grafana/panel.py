"""What a panel is made of: its words, unit, queries and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HERE = 'instance=~"$instance"'
MODEL = f'{HERE}, model=~"$model"'
TENANT = f'{HERE}, tenant=~"$tenant"'
BOTH = f'{TENANT}, model=~"$model"'
INPUT, OUTPUT, CACHED = (f'{BOTH}, kind="{kind}"' for kind in ("input", "output", "cached"))

GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on; the first value is None, for "from the lowest"."""

PLAIN: Steps = ((None, GREEN),)
NONE_IS_WELL: Steps = ((None, GREEN), (1e-9, ORANGE))
ONE_IS_WELL: Steps = ((None, RED), (1, GREEN))


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel. `unit` is Grafana's name of it; `empty` is shown where no series exists (yet)."""

    title: str
    tells: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    steps: Steps = PLAIN
    line: bool = False
    """Draw the threshold as a line."""
    stacked: bool = False
    empty: str = "0"
    lowest: float | None = 0
    highest: float | None = None
    decimals: int | None = None
    words: tuple[tuple[str, str, str], ...] = ()
    """Value, text and colour, for figures that mean a word."""


def rate(metric: str, labels: str, by: str = "") -> str:
    """Sum of the rates of a counter, by labels."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram over the time of one step."""
    return f"histogram_quantile({share}, {rate(metric + '_bucket', labels, 'le' + (', ' + by if by else ''))})"


def percentiles(metric: str, labels: str, by: str, name: str) -> tuple[Query, ...]:
    """Median, 95th and 99th percentile."""
    return tuple(
        Query(quantile(share, metric, labels, by), f"p{share * 100:.0f} {{{{{name}}}}}") for share in (0.5, 0.95, 0.99)
    )
