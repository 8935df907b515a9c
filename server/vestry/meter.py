"""Every metric that the server has, in one file. Names and labels are in `docs/reference/metrics.md`.

Counting a call is one dictionary look-up and a few additions: the numbers live in plain objects and become
Prometheus samples only when they are scraped. Labels are bounded: tenants and models come from the settings, routes
from the route table, replicas from the settings, codes from `errors`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from vestry import __version__
from vestry.audit.completeness import Standing, Work
from vestry.audit.tlog.notes import Checkpoint
from vestry.types import Grant, Head, Outcome

Families = Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]
OTHER = "other"
NONE = "none"

# Buckets: OpenTelemetry's GenAI metrics, where it has them.
DURATION = tuple(0.01 * 2**step for step in range(14))
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 60.0,
)  # fmt: skip
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**step) for step in range(14))
OVERHEAD = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


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

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(seen)))
        return found


class _Timings:
    """The histograms of one model and route."""

    __slots__ = ("duration", "endings", "first_token", "overhead", "per_token")

    def __init__(self) -> None:
        self.duration = Histogram(DURATION)
        self.first_token = Histogram(FIRST_TOKEN)
        self.per_token = Histogram(PER_TOKEN)
        self.overhead = Histogram(OVERHEAD)
        self.endings: dict[str, int] = {}


class _Use:
    """What one tenant uses of one model through one route."""

    __slots__ = ("cached", "codes", "input", "output", "timings")

    def __init__(self, timings: _Timings) -> None:
        self.timings = timings
        self.codes: dict[int, int] = {}
        self.input = self.output = self.cached = 0


class _Copy:
    """What is known of one outside copy."""

    __slots__ = ("agrees", "delivered", "dropped", "failures", "size", "waiting", "waiting_since", "when")

    def __init__(self) -> None:
        self.delivered = self.failures = self.dropped = self.size = self.waiting = 0
        self.when = 0.0
        self.waiting_since: float | None = None
        self.agrees: bool | None = None

    def behind(self, now: float) -> float:
        return 0.0 if self.waiting_since is None else max(0.0, now - self.waiting_since)


class Meter(Collector):
    """Counts everything, and is what Prometheus collects from."""

    def __init__(self) -> None:
        self._uses: dict[tuple[str, str, str], _Use] = {}
        self._timings: dict[tuple[str, str], _Timings] = {}
        self._sizes: dict[str, tuple[Histogram, Histogram]] = {}
        self._refusals: dict[tuple[str, str, str], int] = {}
        self._busy: dict[str, int] = {}
        self._door: dict[int, int] = {}
        self._retries: dict[str, int] = {}
        self._ejections: dict[tuple[str, str, str], int] = {}
        self._connections = 0
        self._commits = Histogram(COMMIT)
        self._records = self._record_bytes = self._record_failures = 0
        self._checkpoint: tuple[int, float] | None = None
        self._checkpoint_failures = 0
        self._journal_healthy = True
        self._copies: dict[str, _Copy] = {}
        self._content_failures = 0
        self.standing: Callable[[], Sequence[Standing]] = list
        self.replicas: Callable[[], list[tuple[str, str, bool, int]]] = list
        self.certificate_expiry: Callable[[], float | None] = _never
        self._export_lock = threading.Lock()
        self._exported: dict[str, int] = {}
        self._export_failed: dict[str, int] = {}
        self.exports: Callable[[], list[tuple[str, int, float]]] = list
        """Of each export its name, how many records wait for it, and for how many seconds the first has."""

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
        status, ending = outcome.status, outcome.ending
        use.codes[status] = use.codes.get(status, 0) + 1
        timings = use.timings
        timings.endings[ending] = timings.endings.get(ending, 0) + 1
        if grant is None:
            return
        timings.duration.add(seconds)
        timings.overhead.add(seconds - outcome.engine_seconds)
        usage = outcome.usage
        use.input += usage.prompt
        use.output += usage.completion
        use.cached += usage.cached
        if outcome.first_byte is None:
            return
        sizes = self._sizes.get(model) or self._new_sizes(model)
        sizes[0].add(usage.prompt)
        sizes[1].add(usage.completion)
        to_first = outcome.first_byte - head.began
        timings.first_token.add(to_first)
        if usage.completion > 1:
            timings.per_token.add((seconds - to_first) / (usage.completion - 1))

    def refused(self, head: Head, tenant: str, reason: str) -> None:
        """Count a refusal by its cause."""
        series = (tenant, head.route, reason)
        self._refusals[series] = self._refusals.get(series, 0) + 1

    def _new_use(self, tenant: str, model: str, route: str) -> _Use:
        timings = self._timings.setdefault((model, route), _Timings())
        return self._uses.setdefault((tenant, model, route), _Use(timings))

    def _new_sizes(self, model: str) -> tuple[Histogram, Histogram]:
        return self._sizes.setdefault(model, (Histogram(TOKENS), Histogram(TOKENS)))

    # Rooms that report here -----------------------------------------------------------------------------------

    def door_refused(self, status: int) -> None:
        """A request was refused before it became a call."""
        self._door[status] = self._door.get(status, 0) + 1

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

    def committed(self, seconds: float, records: int, size: int) -> None:
        """Records were made durable."""
        self._commits.add(seconds)
        self._records += records
        self._record_bytes += size

    def failed(self, records: int) -> None:
        """Records could not be made durable."""
        self._record_failures += records

    def checkpointed(self, _note: str, head: Checkpoint) -> None:
        """A checkpoint of the record was signed. Called in the notary's thread."""
        self._checkpoint = (head.size, time.time())

    def checkpoint_failed(self) -> None:
        """One could not be made. Called in the notary's thread."""
        self._checkpoint_failures += 1

    def exported(self, export: str, records: int) -> None:
        """Records were sent on. Called in the export's threads."""
        with self._export_lock:
            self._exported[export] = self._exported.get(export, 0) + records

    def export_failed(self, export: str, records: int) -> None:
        """Records could not be sent on, and will be sent again. Called in the export's threads."""
        with self._export_lock:
            self._export_failed[export] = self._export_failed.get(export, 0) + records

    def content_failed(self) -> None:
        """A prompt or an answer could not be kept; its call was not served."""
        self._content_failures += 1

    def health(self, healthy: bool) -> None:
        """The record can, or cannot, be written."""
        self._journal_healthy = healthy

    # Outside copies; called from their threads. Each has a single one.

    def copy_declared(self, sink: str) -> None:
        """There is such a copy."""
        self._copies.setdefault(sink, _Copy())

    def copy_known(self, sink: str, size: int, when: float) -> None:
        """An earlier process delivered a checkpoint of this size."""
        copy = self._copies.setdefault(sink, _Copy())
        copy.size, copy.when = size, when

    def copy_delivered(self, sink: str, size: int, when: float) -> None:
        """A checkpoint of this size in records is there."""
        self.copy_known(sink, size, when)
        self._copies[sink].delivered += 1

    def copy_failed(self, sink: str) -> None:
        """One try to deliver failed."""
        self._copies[sink].failures += 1

    def copies_waiting(self, sink: str, waiting: int, since: float | None) -> None:
        """So many items wait, the oldest since then."""
        copy = self._copies[sink]
        copy.waiting, copy.waiting_since = waiting, since

    def copies_dropped(self, sink: str, dropped: int) -> None:
        """So many were given up."""
        self._copies[sink].dropped += dropped

    def copy_compared(self, sink: str, agrees: bool) -> None:
        """The log was compared with the copy at the start, or could not be."""
        self._copies.setdefault(sink, _Copy()).agrees = agrees

    # Prometheus -----------------------------------------------------------------------------------------------

    def collect(self) -> Families:
        """The samples, as they stand now (prometheus_client's Collector)."""
        info = GaugeMetricFamily("vestry_build_info", "Version of the server.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._collect_calls()
        yield from self._collect_timings()
        yield from self._collect_replicas()
        yield from self._collect_record()
        yield from self._collect_copies()
        yield from self._collect_door()
        yield from self._collect_exports()
        yield from self._collect_completeness()

    def _collect_calls(self) -> Families:
        requests = CounterMetricFamily(
            "vestry_requests", "Calls answered.", labels=["tenant", "model", "route", "code"]
        )
        tokens = CounterMetricFamily("vestry_tokens", "Tokens counted.", labels=["tenant", "model", "kind"])
        sums: dict[tuple[str, str], list[int]] = {}
        for (tenant, model, route), use in list(self._uses.items()):
            for code, count in list(use.codes.items()):
                requests.add_metric([tenant, model, route, str(code)], count)
            if model != NONE:
                total = sums.setdefault((tenant, model), [0, 0, 0])
                for place, value in enumerate((use.input, use.output, use.cached)):
                    total[place] += value
        for (tenant, model), values in sums.items():
            for kind, value in zip(("input", "output", "cached"), values, strict=True):
                tokens.add_metric([tenant, model, kind], value)
        refusals = CounterMetricFamily(
            "vestry_refusals", "Calls refused, by cause.", labels=["tenant", "route", "reason"]
        )
        for (tenant, route, reason), count in list(self._refusals.items()):
            refusals.add_metric([tenant, route, reason], count)
        busy = GaugeMetricFamily("vestry_requests_in_progress", "Calls in progress.", labels=["model"])
        for model, value in list(self._busy.items()):
            busy.add_metric([model], value)
        yield from (requests, tokens, refusals, busy)

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
        for model, replica, up, count in self.replicas():
            healthy.add_metric([model, replica], up)
            outstanding.add_metric([model, replica], count)
        ejections = CounterMetricFamily(
            "vestry_replica_ejections", "Times out of service, by cause.", labels=[*labels, "cause"]
        )
        for (model, replica, cause), count in list(self._ejections.items()):
            ejections.add_metric([model, replica, cause], count)
        retries = CounterMetricFamily("vestry_upstream_retries", "Second tries on another replica.", labels=["model"])
        for model, count in list(self._retries.items()):
            retries.add_metric([model], count)
        yield from (healthy, outstanding, ejections, retries)

    def _collect_record(self) -> Families:
        commits = HistogramMetricFamily("vestry_audit_commit_seconds", "Time to make a group of records durable.")
        commits.add_metric([], self._commits.buckets(), self._commits.total)
        yield commits
        for name, text, value in (
            ("vestry_audit_records", "Records made durable.", self._records),
            ("vestry_audit_bytes", "Bytes of records made durable.", self._record_bytes),
            ("vestry_audit_failures", "Records that could not be made durable.", self._record_failures),
            ("vestry_audit_checkpoint_failures", "Checkpoints that could not be made.", self._checkpoint_failures),
            ("vestry_audit_content_failures", "Contents that could not be kept.", self._content_failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        if self._checkpoint is not None:
            for name, text, last in zip(
                ("vestry_audit_checkpoint_size", "vestry_audit_checkpoint_timestamp_seconds"),
                ("Records that the last checkpoint covers.", "When the last checkpoint was signed."),
                self._checkpoint,
                strict=True,
            ):
                yield GaugeMetricFamily(name, text, value=last)
        yield GaugeMetricFamily(
            "vestry_audit_healthy", "1 if the record can be written.", value=int(self._journal_healthy)
        )

    def _collect_copies(self) -> Families:
        now = time.time()
        rows: tuple[tuple[Kind, str, str, Callable[[_Copy], float | None]], ...] = (
            (CounterMetricFamily, "copies", "Checkpoints delivered.", lambda each: each.delivered),
            (CounterMetricFamily, "copy_failures", "Tries to deliver that failed.", lambda each: each.failures),
            (CounterMetricFamily, "copies_dropped", "Checkpoints given up.", lambda each: each.dropped),
            (GaugeMetricFamily, "copy_records", "Size of the newest checkpoint there.", lambda each: each.size),
            (GaugeMetricFamily, "copy_timestamp_seconds", "When that came.", lambda each: each.when),
            (GaugeMetricFamily, "copies_waiting", "Items in the spool.", lambda each: each.waiting),
            (GaugeMetricFamily, "copy_behind_seconds", "Age of the oldest of these.", lambda each: each.behind(now)),
            (GaugeMetricFamily, "copy_compared", "1 if compared at the start.", lambda each: each.agrees),
        )
        for kind, name, text, value in rows:
            family = kind(f"vestry_audit_{name}", text, labels=["copy"])
            for sink, copy in list(self._copies.items()):
                if (figure := value(copy)) is not None:
                    family.add_metric([sink], figure)
            yield family

    def _collect_completeness(self) -> Families:
        standing = self.standing()
        for name, meaning, amount in COMPLETENESS:
            tokens = CounterMetricFamily(f"{name}_tokens", f"Tokens {meaning}.", labels=["replica", "kind"])
            requests = CounterMetricFamily(f"{name}_requests", f"Requests {meaning}.", labels=["replica"])
            for each in standing:
                prompt, completion, count = amount(each)
                tokens.add_metric([each.replica, "input"], prompt)
                tokens.add_metric([each.replica, "output"], completion)
                requests.add_metric([each.replica], count)
            yield from (tokens, requests)
        readable = GaugeMetricFamily(
            "vestry_engine_counters_readable", "1 if the engine's counters can be read.", labels=["replica"]
        )
        restarts = CounterMetricFamily("vestry_engine_restarts", "Times that counters began anew.", labels=["replica"])
        for each in standing:
            readable.add_metric([each.replica], each.readable)
            restarts.add_metric([each.replica], each.restarts)
        yield from (readable, restarts)

    def _collect_door(self) -> Families:
        yield GaugeMetricFamily("vestry_connections", "Open client connections.", value=self._connections)
        refusals = CounterMetricFamily("vestry_door_refusals", "Refused before a call was read.", labels=["code"])
        for status, count in list(self._door.items()):
            refusals.add_metric([str(status)], count)
        yield refusals
        expiry = self.certificate_expiry()
        if expiry is not None:
            yield GaugeMetricFamily(
                "vestry_tls_certificate_expiry_timestamp_seconds", "When the certificate expires.", value=expiry
            )

    def _collect_exports(self) -> Families:
        sent = CounterMetricFamily("vestry_audit_exported_records", "Records sent on.", labels=["export"])
        failed = CounterMetricFamily(
            "vestry_audit_export_failed_records", "Records that could not be sent on at a try.", labels=["export"]
        )
        lag = GaugeMetricFamily(
            "vestry_audit_export_lag_records", "Records that wait to be sent on.", labels=["export"]
        )
        age = GaugeMetricFamily(
            "vestry_audit_export_lag_seconds", "Age of the first record that waits to be sent on.", labels=["export"]
        )
        for name, records, seconds in self.exports():
            sent.add_metric([name], self._exported.get(name, 0))
            failed.add_metric([name], self._export_failed.get(name, 0))
            lag.add_metric([name], records)
            age.add_metric([name], seconds)
        yield from (sent, failed, lag, age)


# What the reconciler says of a replica: metric, meaning, and which amount of it. The first two kinds are tokens.
COMPLETENESS: tuple[tuple[str, str, Callable[[Standing], Work]], ...] = (
    ("vestry_engine_reported", "by the engine's own counters", lambda each: each.reported),
    ("vestry_audit_engine", "of an engine's work in outcomes, at least", lambda each: each.least),
    ("vestry_audit_uncertain", "that outcomes leave open beyond that", lambda each: each.most.less(each.least)),
    ("vestry_audit_unexplained", "of an engine's work that no record explains", lambda each: each.unexplained),
    ("vestry_audit_uncounted", "recorded, and not counted by the engine", lambda each: each.uncounted),
)


def _never() -> float | None:
    return None
