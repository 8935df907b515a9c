"""Every metric that the server has; those of the record are in `record.py`. Names and labels are in
`docs/reference/metrics.md`.

Counting a call is one dictionary look-up and one tuple: what has gathered is added up once there are some hundreds,
or when somebody looks, and becomes Prometheus samples only when it is scraped. Labels are bounded: models and replicas
come from the settings, routes from the route table, codes from `errors`; of tenants, which the directory may have any
number of, so many have a label of their own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import sub
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from vestry import __version__
from vestry.meter.histogram import Histogram
from vestry.meter.identity import IdentityMeter
from vestry.meter.record import Families, RecordMeter
from vestry.types import EJECTIONS, Grant, Head, Outcome, Term

Row = TypeVar("Row")
NONE = "none"
NOBODY, FURTHER = "", "*"
"""Stand for who has shown no valid key, and for tenants without a label of their own. No tenant is called so."""
SHOWN: Mapping[str, str] = MappingProxyType({NOBODY: NONE, FURTHER: "other", "none": "none_", "other": "other_"})
"""Labels that are not the tenant's own name: these two, and those of tenants that would be taken for them."""
TENANTS = 500
"""Tenants beside those of the settings that have a label of their own, whoever calls first. More of them would make a
page that takes long to write."""
PART = 512
"""What is made of the uses of tenants in one piece, by their number."""
GATHERED = 512
"""Calls of one tenant, model and route that wait to be added up."""

# Buckets: OpenTelemetry's GenAI metrics, where it has them.
DURATION = tuple(0.01 * 2**step for step in range(14))
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 60.0,
)  # fmt: skip
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**step) for step in range(14))
OVERHEAD = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Timings:
    """The histograms of one model and route."""

    __slots__ = ("duration", "endings", "first_token", "overhead", "per_token")

    def __init__(self) -> None:
        self.duration = Histogram(DURATION)
        self.first_token = Histogram(FIRST_TOKEN)
        self.per_token = Histogram(PER_TOKEN)
        self.overhead = Histogram(OVERHEAD)
        self.endings: dict[str, int] = {}


_Ended: TypeAlias = tuple[int, str, float, float, float | None, int, int, int]
"""One call: status, ending; seconds in all, of the engine, to its first byte; tokens: prompt, completion, cached."""


class _Use:
    """What one tenant uses of one model through one route. `ended` are calls that are not in its sums yet."""

    __slots__ = ("cached", "codes", "ended", "input", "output", "sizes", "timings")

    def __init__(self, timings: _Timings, sizes: tuple[Histogram, Histogram] | None) -> None:
        self.timings, self.sizes = timings, sizes
        self.codes: dict[int, int] = {}
        self.input = self.output = self.cached = 0
        self.ended: list[_Ended] = []

    def add_up(self) -> None:
        """Take the calls that have gathered into the sums."""
        if not self.ended:
            return
        calls, self.ended = self.ended, []
        statuses, endings, seconds, engine, _, inputs, outputs, cached = zip(*calls, strict=True)
        for status, count in Counter(statuses).items():
            self.codes[status] = self.codes.get(status, 0) + count
        timings = self.timings
        for ending, count in Counter(endings).items():
            timings.endings[ending] = timings.endings.get(ending, 0) + count
        if self.sizes is None:
            return
        timings.duration.add_all(seconds)
        timings.overhead.add_all(list(map(sub, seconds, engine)))
        self.input += sum(inputs)
        self.output += sum(outputs)
        self.cached += sum(cached)
        self._add_up_answered([call for call in calls if call[4] is not None], self.sizes)

    def _add_up_answered(self, calls: list[_Ended], sizes: tuple[Histogram, Histogram]) -> None:
        """Those of which an engine's first byte has come."""
        timings = self.timings
        sizes[0].add_all([call[5] for call in calls])
        sizes[1].add_all([call[6] for call in calls])
        timings.first_token.add_all([first for _, _, _, _, first, _, _, _ in calls if first is not None])
        timings.per_token.add_all(
            [
                (seconds - first) / (output - 1)
                for _, _, seconds, _, first, _, output, _ in calls
                if first is not None and output > 1
            ]
        )


class Meter(Collector):
    """Counts everything, and is what Prometheus collects from. `tenants` always have a label of their own."""

    def __init__(self, tenants: Iterable[str] = ()) -> None:
        self._labelled = {NOBODY, *tenants}
        self._labels = len(self._labelled) + TENANTS
        self.record = RecordMeter()
        self.identity = IdentityMeter()
        self._uses: dict[tuple[str, str, str], _Use] = {}
        self._timings: dict[tuple[str, str], _Timings] = {}
        self._sizes: dict[str, tuple[Histogram, Histogram]] = {}
        self._refusals: dict[tuple[str, str, str], int] = {}
        self._busy: dict[str, int] = {}
        self._door: dict[int, int] = {}
        self._retries: dict[str, int] = {}
        self._ejections: dict[tuple[str, str, str], int] = {}
        self._connections = 0
        self.replicas: Callable[[], list[tuple[str, str, bool, int]]] = list
        self._lookups: dict[str, int] = {}
        self.broken_glass: Callable[[], int] = int
        self.certificate_term: Callable[[], Term | None] = _never
        self.lists_term: Callable[[], Term | None] = _never
        self.directory: Callable[[], tuple[bool, float]] = _well
        self.outdated: Callable[[], bool] = bool

    # Calls ----------------------------------------------------------------------------------------------------

    def began(self, grant: Grant) -> None:
        """A call was let in."""
        self._busy[grant.model.name] = self._busy.get(grant.model.name, 0) + 1

    def left(self, grant: Grant) -> None:
        """A call that was let in is over."""
        self._busy[grant.model.name] -= 1

    def ended(self, head: Head, grant: Grant | None, tenant: str, outcome: Outcome, seconds: float) -> None:
        """Count one call: after its outcome is known, before it is recorded."""
        model = grant.model.name if grant is not None else NONE
        use = self._uses.get((tenant, model, head.route)) or self._new_use(tenant, model, head.route)
        usage, first = outcome.usage, outcome.first_byte
        ended = use.ended
        ended.append(
            (
                outcome.status,
                outcome.ending,
                seconds,
                outcome.engine_seconds,
                None if first is None else first - head.began,
                usage.prompt,
                usage.completion,
                usage.cached,
            )
        )
        if len(ended) >= GATHERED:
            use.add_up()

    def refused(self, head: Head, tenant: str, reason: str) -> None:
        """Count a refusal by its cause."""
        series = (self._label(tenant), head.route, reason)
        self._refusals[series] = self._refusals.get(series, 0) + 1

    def _label(self, tenant: str) -> str:
        """The tenant's own name, while there is room."""
        if tenant not in self._labelled:
            if len(self._labelled) >= self._labels:
                return FURTHER
            self._labelled.add(tenant)
        return tenant

    def _new_use(self, tenant: str, model: str, route: str) -> _Use:
        tenant = self._label(tenant)
        timings = self._timings.setdefault((model, route), _Timings())
        sizes = None if model == NONE else self._sizes.get(model) or self._new_sizes(model)
        return self._uses.setdefault((tenant, model, route), _Use(timings, sizes))

    def _new_sizes(self, model: str) -> tuple[Histogram, Histogram]:
        return self._sizes.setdefault(model, (Histogram(TOKENS), Histogram(TOKENS)))

    # Rooms that report here -----------------------------------------------------------------------------------

    def door_refused(self, status: int) -> None:
        """A request was refused before it became a call."""
        self._door[status] = self._door.get(status, 0) + 1

    def looked_up(self, result: str) -> None:
        """The directory was asked for a key that was not in memory."""
        self._lookups[result] = self._lookups.get(result, 0) + 1

    def connections(self, change: int) -> None:
        """A connection was opened or closed."""
        self._connections += change

    def retried(self, model: str) -> None:
        """A call is tried on a second replica."""
        self._retries[model] = self._retries.get(model, 0) + 1

    def ejected(self, model: str, replica: str, cause: str) -> None:
        """A replica was taken out of service."""
        series = (model, replica, cause)
        self._ejections[series] = self._ejections.get(series, 0) + 1

    # Prometheus -----------------------------------------------------------------------------------------------

    def collect(self) -> Families:
        """The samples, as they stand now (prometheus_client's Collector). A large family comes in parts, one after the
        other.
        """
        info = GaugeMetricFamily("vestry_build_info", "Version of the server.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._collect_uses()
        yield from self._collect_calls()
        yield from self._collect_timings()
        yield from self._collect_replicas()
        yield from self.record.collect()
        yield from self.identity.collect()
        yield from self._collect_directory()
        yield from self._collect_door()

    def _collect_uses(self) -> Families:
        sums: dict[tuple[str, str], list[int]] = {}
        for uses in _parts(self._uses.items()):
            requests = CounterMetricFamily(
                "vestry_requests", "Calls answered.", labels=["tenant", "model", "route", "code"]
            )
            for (tenant, model, route), use in uses:
                use.add_up()
                for code, count in list(use.codes.items()):
                    requests.add_metric([SHOWN.get(tenant, tenant), model, route, str(code)], count)
                if model != NONE:
                    total = sums.setdefault((tenant, model), [0, 0, 0])
                    for place, value in enumerate((use.input, use.output, use.cached)):
                        total[place] += value
            yield requests
        for totals in _parts(sums.items()):
            tokens = CounterMetricFamily("vestry_tokens", "Tokens counted.", labels=["tenant", "model", "kind"])
            for (tenant, model), values in totals:
                for kind, value in zip(("input", "output", "cached"), values, strict=True):
                    tokens.add_metric([SHOWN.get(tenant, tenant), model, kind], value)
            yield tokens

    def _collect_calls(self) -> Families:
        refusals = CounterMetricFamily(
            "vestry_refusals", "Calls refused, by cause.", labels=["tenant", "route", "reason"]
        )
        for (tenant, route, reason), count in list(self._refusals.items()):
            refusals.add_metric([SHOWN.get(tenant, tenant), route, reason], count)
        busy = GaugeMetricFamily("vestry_requests_in_progress", "Calls in progress.", labels=["model"])
        for model, value in list(self._busy.items()):
            busy.add_metric([model], value)
        yield from (refusals, busy)

    def _collect_timings(self) -> Families:
        labels = ["model", "route"]
        duration = HistogramMetricFamily("vestry_request_duration_seconds", "From arrival to outcome.", labels=labels)
        first = HistogramMetricFamily(
            "vestry_time_to_first_token_seconds", "From arrival to the engine's first byte.", labels=labels
        )
        per_token = HistogramMetricFamily(
            "vestry_time_per_output_token_seconds", "Between output tokens.", labels=labels
        )
        overhead = HistogramMetricFamily(
            "vestry_server_overhead_seconds", "Time in the server that was not the engine.", labels=["route"]
        )
        outcomes = CounterMetricFamily("vestry_outcomes", "How calls ended.", labels=["model", "route", "ending"])
        by_route: dict[str, Histogram] = {}
        for (model, route), timings in list(self._timings.items()):
            for ending, count in list(timings.endings.items()):
                outcomes.add_metric([model, route, ending], count)
            if model == NONE:
                continue
            for family, histogram in (
                (duration, timings.duration),
                (first, timings.first_token),
                (per_token, timings.per_token),
            ):
                family.add_metric([model, route], histogram.buckets(), histogram.total)
            merged = by_route.setdefault(route, Histogram(OVERHEAD))
            merged.counts = [one + two for one, two in zip(merged.counts, timings.overhead.counts, strict=True)]
            merged.total += timings.overhead.total
        for route, histogram in by_route.items():
            overhead.add_metric([route], histogram.buckets(), histogram.total)
        sizes = HistogramMetricFamily("vestry_request_tokens", "Tokens of a call.", labels=["model", "kind"])
        for model, (prompt, completion) in list(self._sizes.items()):
            sizes.add_metric([model, "input"], prompt.buckets(), prompt.total)
            sizes.add_metric([model, "output"], completion.buckets(), completion.total)
        yield from (duration, first, per_token, overhead, outcomes, sizes)

    def _collect_replicas(self) -> Families:
        labels = ["model", "replica"]
        healthy = GaugeMetricFamily("vestry_replica_healthy", "1 if the replica gets calls.", labels=labels)
        outstanding = GaugeMetricFamily("vestry_replica_outstanding", "Calls at the replica.", labels=labels)
        replicas = self.replicas()
        seats = [(model, replica) for model, replica, _, _ in replicas]
        for model, replica, up, count in replicas:
            healthy.add_metric([model, replica], up)
            outstanding.add_metric([model, replica], count)
        ejections = CounterMetricFamily(
            "vestry_replica_ejections", "Times out of service, by cause.", labels=[*labels, "cause"]
        )
        for (model, replica), cause in itertools.product(seats, EJECTIONS):  # zeros too: the first one is an increase
            ejections.add_metric([model, replica, cause], self._ejections.get((model, replica, cause), 0))
        retries = CounterMetricFamily("vestry_upstream_retries", "Second tries on another replica.", labels=["model"])
        for model in dict.fromkeys(model for model, _ in seats):
            retries.add_metric([model], self._retries.get(model, 0))
        yield from (healthy, outstanding, ejections, retries)

    def _collect_directory(self) -> Families:
        up, stale = self.directory()
        yield GaugeMetricFamily("vestry_directory_up", "1 if tenants and keys can be read.", value=up)
        yield GaugeMetricFamily(
            "vestry_directory_stale_seconds", "For how long changes may have been missed.", value=stale
        )
        yield GaugeMetricFamily(
            "vestry_directory_outdated",
            "1 if its tenants and policy cannot be used, and older ones are in force.",
            value=self.outdated(),
        )
        lookups = CounterMetricFamily("vestry_directory_lookups", "Keys that memory did not have.", labels=["result"])
        for result, count in list(self._lookups.items()):
            lookups.add_metric([result], count)
        yield lookups

    def _collect_door(self) -> Families:
        yield GaugeMetricFamily("vestry_connections", "Open client connections.", value=self._connections)
        refusals = CounterMetricFamily("vestry_door_refusals", "Refused before a call was read.", labels=["code"])
        for status, count in list(self._door.items()):
            refusals.add_metric([str(status)], count)
        yield refusals
        yield GaugeMetricFamily(
            "vestry_break_glass_active", "Break-glass grants that lend a role now.", value=self.broken_glass()
        )
        for name, said, term in (
            ("certificate", "certificate", self.certificate_term()),
            ("crl", "list of revoked client certificates that ends first", self.lists_term()),
        ):
            if term is not None:
                yield GaugeMetricFamily(
                    f"vestry_tls_{name}_expiry_timestamp_seconds", f"When the {said} expires.", value=term.ends
                )
                yield GaugeMetricFamily(
                    f"vestry_tls_{name}_lifetime_seconds", f"How long the {said} is good in all.", value=term.lifetime
                )


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """So many at a time; one part at least."""
    every = list(rows)
    for begin in range(0, max(1, len(every)), PART):
        yield every[begin : begin + PART]


def _never() -> Term | None:
    return None


def _well() -> tuple[bool, float]:
    return True, 0.0
