"""The metrics of the record: the log, its checkpoints and copies, exports, contents, completeness.

Most of it is told by threads of the record's own. Labels are names from the settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from vestry.audit.completeness import Standing, Work
from vestry.audit.tlog.notes import Checkpoint
from vestry.meter.histogram import Histogram

Families = Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]
COMMIT = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


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


class RecordMeter:
    """Counts what the record does, as its observer, its watcher, and that of its copies and exports."""

    def __init__(self) -> None:
        self._commits = Histogram(COMMIT)
        self._records = self._record_bytes = self._record_failures = 0
        self._checkpoint: tuple[int, float] | None = None
        self._checkpoint_failures = 0
        self._journal_healthy = True
        self._copies: dict[str, _Copy] = {}
        self._content_failures = 0
        self.standing: Callable[[], Sequence[Standing]] = list
        self._export_lock = threading.Lock()
        self._exported: dict[str, int] = {}
        self._export_failed: dict[str, int] = {}
        self.exports: Callable[[], list[tuple[str, int, float]]] = list
        """Of each export its name, how many records wait for it, and the age of the first not known to have arrived."""

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

    # copies.sink.Observer. Each copy has a thread of its own.

    def copy_declared(self, sink: str) -> None:
        self._copies.setdefault(sink, _Copy())

    def copy_known(self, sink: str, size: int, when: float) -> None:
        copy = self._copies.setdefault(sink, _Copy())
        copy.size, copy.when = size, when

    def copy_delivered(self, sink: str, size: int, when: float) -> None:
        self.copy_known(sink, size, when)
        self._copies[sink].delivered += 1

    def copy_failed(self, sink: str) -> None:
        self._copies[sink].failures += 1

    def copies_waiting(self, sink: str, waiting: int, since: float | None) -> None:
        copy = self._copies[sink]
        copy.waiting, copy.waiting_since = waiting, since

    def copies_dropped(self, sink: str, dropped: int) -> None:
        self._copies[sink].dropped += dropped

    def copy_compared(self, sink: str, agrees: bool) -> None:
        self._copies.setdefault(sink, _Copy()).agrees = agrees

    def collect(self) -> Families:
        """The samples, as they stand now."""
        yield from self._collect_record()
        yield from self._collect_copies()
        yield from self._collect_exports()
        yield from self._collect_completeness()

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

    def _collect_exports(self) -> Families:
        sent = CounterMetricFamily("vestry_audit_exported_records", "Records sent on.", labels=["export"])
        failed = CounterMetricFamily(
            "vestry_audit_export_failed_records", "Records that could not be sent on at a try.", labels=["export"]
        )
        lag = GaugeMetricFamily(
            "vestry_audit_export_lag_records", "Records that wait to be sent on.", labels=["export"]
        )
        age = GaugeMetricFamily(
            "vestry_audit_export_lag_seconds", "Age of the first record not known to have arrived.", labels=["export"]
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
