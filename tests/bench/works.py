"""The works of the bench: what load each one is, and one measured run of it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import BenchError, Process, get, program

STREAM = "mock:n=128,d=20000"
BURST = "mock:n=128,d=0"


@dataclass(frozen=True)
class Work:
    """One kind of load. `warm` and `seconds` are loadgen's warm-up and measured window."""

    name: str
    says: str
    options: tuple[str, ...]
    warm: float
    seconds: float
    streams: bool = False

    def arguments(self, seconds: float | None, quick: bool) -> list[str]:
        window = seconds if seconds is not None else (min(self.seconds, 1.0) if quick else self.seconds)
        return [*self.options, "-w", f"{self.warm:g}", "-t", f"{window:g}"]

    def duration(self, seconds: float | None, quick: bool) -> float:
        arguments = self.arguments(seconds, quick)
        return float(arguments[-3]) + float(arguments[-1])


WORKS = (
    Work("c1", "one caller at a time", ("-c", "1"), 0.3, 2),
    Work("r50", "open loop, 50 requests/s", ("-c", "32", "-r", "50"), 0.3, 3),
    Work("c64", "64 connections, closed loop", ("-c", "64"), 0.7, 3),
    Work("32k", "the same with a 32 KB prompt", ("-c", "64", "-b", "32000"), 0.5, 2.5),
    Work("s256", "256 streams, a chunk each 20 ms", ("-c", "600", "-r", "100", "-s", "-S", STREAM), 2.8, 3, True),
    Work("smax", "64 streams as fast as they go", ("-c", "64", "-s", "-S", BURST), 0.7, 2.5, True),
)


@dataclass(frozen=True)
class Target:
    """What the load is sent to. `process` is None for the mock engine itself: nothing stands in between."""

    name: str
    port: int
    key: str
    model: str
    process: Process | None = None
    ops_port: int | None = None


@dataclass(frozen=True)
class Result:
    """One run of one work against one target.

    `load` is loadgen's report (times in microseconds). CPU figures are microseconds of user and system time
    of all the target's processes, over everything that was answered, warm-up included. `records` and
    `record_bytes` are what the audit log took in meanwhile; `upstream` is how many connections the mock saw opened.
    """

    work: str
    target: str
    load: dict[str, Any]
    cpu_request: float | None
    cpu_chunk: float | None
    cpu_share: float | None
    memory: int | None
    records: int | None
    record_bytes: int | None
    upstream: int
    posts: int

    def json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Loader:
    """The load generator. `core` is where it runs; None lets the kernel choose."""

    binary: Path
    core: int | None = None

    def run(self, target: Target, arguments: Sequence[str], limit: float) -> dict[str, Any]:
        """Put load on `target`; returns loadgen's report.

        Raises BenchError where a single answer was not a good one, or after `limit` seconds.
        """
        pinned = [program("taskset", "util-linux"), "-c", str(self.core)] if self.core is not None else []
        command = [*pinned, str(self.binary), "-p", str(target.port), "-k", target.key, "-M", target.model, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"The load on {target.name} did not end within {limit:.0f} s.") from None
        if done.returncode:
            raise BenchError(f"The load on {target.name} failed: {done.stderr.strip() or done.returncode}")
        report: dict[str, Any] = json.loads(done.stdout)
        if report["all_bad"] or not report["all_ok"]:
            raise BenchError(
                f"{target.name} did not answer every call: {report['all_ok']} good, {report['all_bad']} bad, "
                f"the first bad one with status {report['bad_status']}: {report['bad_body'] or 'no body'}"
            )
        return report


def measure(work: Work, target: Target, mock: Target, loader: Loader, arguments: Sequence[str]) -> Result:
    """One run: what the load saw, and what it cost the target. `arguments` end with `-w WARM -t SECONDS`."""
    duration = float(arguments[-3]) + float(arguments[-1])
    seen, log = _mock_counts(mock), _record_counts(target)
    before = target.process.cpu_seconds() if target.process else 0.0
    report = loader.run(target, arguments, duration + 30)
    spent = target.process.cpu_seconds() - before if target.process else None
    memory = target.process.memory()[0] if target.process else None
    if target.process:
        target.process.settle()
        target.process.require_alive()
    log_after, seen_after = _record_counts(target), _mock_counts(mock)
    return Result(
        work=work.name,
        target=target.name,
        load=report,
        cpu_request=spent * 1e6 / report["all_ok"] if spent is not None else None,
        cpu_chunk=spent * 1e6 / report["all_chunks"] if spent is not None and work.streams else None,
        cpu_share=spent / duration if spent is not None else None,
        memory=memory,
        records=log_after[0] - log[0] if log and log_after else None,
        record_bytes=log_after[1] - log[1] if log and log_after else None,
        upstream=seen_after[0] - seen[0] - 1,  # one of them asked for the counts
        posts=seen_after[1] - seen[1],
    )


def difference(these: Sequence[float], those: Sequence[float]) -> float:
    """By how much these are more, run for run: the median of the pairs' differences."""
    return statistics.median(one - other for one, other in zip(these, those, strict=True))


def _value(text: str, name: str) -> int | None:
    found = re.search(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else None


def _record_counts(target: Target) -> tuple[int, int] | None:
    """Records and bytes of the audit log so far, for a target that has one."""
    if target.ops_port is None:
        return None
    text = get(target.ops_port, "/metrics")[1]
    records, size = _value(text, "vestry_audit_records_total"), _value(text, "vestry_audit_bytes_total")
    if records is None or size is None:
        raise BenchError(f"{target.name} shows no `vestry_audit_records_total` on its operations port.")
    return records, size


def _mock_counts(mock: Target) -> tuple[int, int]:
    """Connections and POSTs that the mock engine has seen so far."""
    text = get(mock.port, "/metrics")[1]
    return _value(text, "mock_connections_total") or 0, _value(text, "mock_posts_total") or 0
