"""The meter: what is counted once is sampled once, under the names and labels that dashboards rely on."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from fakes.calls import GRANT, head
from vestry import __version__
from vestry.audit.completeness import Standing, Work
from vestry.audit.tlog.notes import Checkpoint
from vestry.edge.ops import build_ops
from vestry.meter.calls import DURATION, NOBODY, Meter
from vestry.meter.histogram import Histogram
from vestry.types import EJECTIONS, Ending, Outcome, Term, Usage

NAMES = {
    "vestry_build_info": {"version"},
    "vestry_break_glass_active": set(),
    "vestry_requests_total": {"tenant", "model", "route", "code"},
    "vestry_refusals_total": {"tenant", "route", "reason"},
    "vestry_outcomes_total": {"model", "route", "ending"},
    "vestry_requests_in_progress": {"model"},
    "vestry_request_duration_seconds": {"model", "route"},
    "vestry_time_to_first_token_seconds": {"model", "route"},
    "vestry_time_per_output_token_seconds": {"model", "route"},
    "vestry_server_overhead_seconds": {"route"},
    "vestry_tokens_total": {"tenant", "model", "kind"},
    "vestry_request_tokens": {"model", "kind"},
    "vestry_replica_healthy": {"model", "replica"},
    "vestry_replica_outstanding": {"model", "replica"},
    "vestry_replica_ejections_total": {"model", "replica", "cause"},
    "vestry_upstream_retries_total": {"model"},
    "vestry_audit_records_total": set(),
    "vestry_audit_failures_total": set(),
    "vestry_audit_content_failures_total": set(),
    "vestry_audit_healthy": set(),
    "vestry_audit_checkpoint_failures_total": set(),
    "vestry_audit_bytes_total": set(),
    "vestry_audit_commit_seconds": set(),
    "vestry_engine_counters_readable": {"replica"},
    "vestry_engine_restarts_total": {"replica"},
    **{
        f"vestry_{what}_{unit}_total": {"replica", *labels}
        for what in ("engine_reported", "audit_engine", "audit_uncertain", "audit_unexplained", "audit_uncounted")
        for unit, labels in (("tokens", {"kind"}), ("requests", set[str]()))
    },
    "vestry_connections": set(),
    "vestry_door_refusals_total": {"code"},
    "vestry_directory_up": set(),
    "vestry_directory_stale_seconds": set(),
    "vestry_directory_outdated": set(),
    "vestry_directory_lookups_total": {"result"},
    "vestry_tls_certificate_expiry_timestamp_seconds": set(),
    "vestry_tls_certificate_lifetime_seconds": set(),
    "vestry_tls_crl_expiry_timestamp_seconds": set(),
    "vestry_tls_crl_lifetime_seconds": set(),
}
HEAD = head(route="chat.completions")


def outcome(**changes: Any) -> Outcome:
    """A good answer: 10 tokens in, 5 out, first byte after 0.5 s."""
    fields: dict[str, Any] = {
        "ending": Ending.COMPLETE, "status": 200, "usage": Usage(10, 5, 4), "first_byte": 100.5, "engine_seconds": 2.0,
    }  # fmt: skip
    return Outcome(**{**fields, **changes})


class Samples:
    """What Prometheus would scrape."""

    def __init__(self, meter: Meter) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(meter)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)

    def labels(self) -> dict[str, set[str]]:
        """Every metric's labels; a histogram's series are one metric."""
        found: dict[str, set[str]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                name = sample.name
                if family.type == "histogram":
                    name = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
        return found


def busy_meter() -> Meter:
    """A meter that has counted one of everything."""
    meter = Meter()
    meter.began(GRANT)
    meter.ended(HEAD, GRANT, "default", outcome(), 2.1)
    meter.refused(HEAD, "default", "rate_limit_exceeded")
    meter.replicas = lambda: [("small", "a:1", True, 3)]
    meter.certificate_term = meter.lists_term = lambda: Term(2.0, 1.0)
    meter.record.standing = lambda: [
        Standing("a:1", True, Work(9, 8, 7), Work(6, 5, 4), Work(7, 7, 7), Work(2, 1, 0), Work(0, 0, 1), 3)
    ]
    meter.ejected("small", "a:1", "slow")
    meter.retried("small")
    meter.door_refused(400)
    meter.looked_up("found")
    return meter


def test_names_and_labels_are_those_that_were_agreed() -> None:
    """No metric more, none less, and no label beyond the agreed ones."""
    assert Samples(busy_meter()).labels() == NAMES


def test_a_call_is_counted_under_its_tenant_model_route_and_status() -> None:
    """One call: one request, one ending, its tokens by kind, and one observation in each histogram."""
    value = Samples(busy_meter())
    assert value("vestry_requests_total", tenant="default", model="small", route="chat.completions", code="200") == 1
    assert value("vestry_outcomes_total", model="small", route="chat.completions", ending="complete") == 1
    for kind, tokens in (("input", 10), ("output", 5), ("cached", 4)):
        assert value("vestry_tokens_total", tenant="default", model="small", kind=kind) == tokens
    where = {"model": "small", "route": "chat.completions"}
    assert value("vestry_request_duration_seconds_sum", **where) == pytest.approx(2.1)
    assert value("vestry_time_to_first_token_seconds_sum", **where) == pytest.approx(0.5)
    assert value("vestry_time_per_output_token_seconds_sum", **where) == pytest.approx(1.6 / 4)
    assert value("vestry_server_overhead_seconds_sum", route="chat.completions") == pytest.approx(0.1)
    assert value("vestry_request_tokens_sum", model="small", kind="input") == 10
    assert value("vestry_build_info", version=__version__) == 1


def test_calls_in_progress_go_up_and_down() -> None:
    """Began is one more, left is one less."""
    meter = Meter()
    meter.began(GRANT)
    meter.began(GRANT)
    meter.left(GRANT)
    assert Samples(meter)("vestry_requests_in_progress", model="small") == 1


def test_tokens_of_two_routes_are_one_sum() -> None:
    """Tokens are counted by tenant and model, whatever the route."""
    meter = Meter()
    meter.ended(HEAD, GRANT, "default", outcome(), 2.0)
    meter.ended(head(route="completions"), GRANT, "default", outcome(), 2.0)
    value = Samples(meter)
    assert value("vestry_tokens_total", tenant="default", model="small", kind="input") == 20
    assert value("vestry_request_tokens_count", model="small", kind="output") == 2


def test_a_call_without_grant_is_counted_and_nothing_is_timed() -> None:
    """A refusal before a model was granted has no model, so no histogram gets a series for it."""
    meter = Meter()
    meter.ended(HEAD, None, NOBODY, Outcome(Ending.REFUSED, 401, "invalid_api_key"), 0.1)
    value = Samples(meter)
    assert value("vestry_requests_total", tenant="none", model="none", route="chat.completions", code="401") == 1
    assert value("vestry_outcomes_total", model="none", route="chat.completions", ending="refused") == 1
    assert "vestry_request_duration_seconds" not in value.labels()


def test_a_call_that_the_engine_never_answered_has_no_first_token() -> None:
    """No first byte: its duration is observed, its first token is not."""
    meter = Meter()
    failed = outcome(ending=Ending.FAILED, status=502, first_byte=None, usage=Usage(), engine_seconds=9.0)
    meter.ended(HEAD, GRANT, "default", failed, 2.0)
    value = Samples(meter)
    where = {"model": "small", "route": "chat.completions"}
    assert value("vestry_request_duration_seconds_count", **where) == 1
    assert value("vestry_time_to_first_token_seconds_count", **where) == 0
    assert value("vestry_server_overhead_seconds_sum", route="chat.completions") == 0.0


def test_one_token_has_no_time_between_tokens() -> None:
    """Time per output token needs two tokens."""
    meter = Meter()
    meter.ended(HEAD, GRANT, "default", outcome(usage=Usage(3, 1)), 2.0)
    where = {"model": "small", "route": "chat.completions"}
    assert Samples(meter)("vestry_time_per_output_token_seconds_count", **where) == 0


def test_what_other_rooms_report_is_counted() -> None:
    """Retries, ejections, refusals at the door, connections and the record."""
    meter = busy_meter()
    meter.retried("small")
    meter.ejected("small", "a:1", "slow")
    meter.door_refused(400)
    meter.refused(HEAD, "default", "rate_limit_exceeded")
    meter.connections(+1)
    meter.connections(+1)
    meter.connections(-1)
    meter.record.committed(0.01, 3, 500)
    meter.record.failed(2)
    meter.record.health(False)
    meter.looked_up("found")
    meter.looked_up("failed")
    meter.directory = lambda: (False, 2.5)
    meter.outdated = lambda: True
    value = Samples(meter)
    assert value("vestry_directory_lookups_total", result="found") == 2
    assert value("vestry_directory_lookups_total", result="failed") == 1
    assert (value("vestry_directory_up"), value("vestry_directory_stale_seconds")) == (0, 2.5)
    assert value("vestry_directory_outdated") == 1
    assert value("vestry_upstream_retries_total", model="small") == 2
    assert value("vestry_replica_ejections_total", model="small", replica="a:1", cause="slow") == 2
    assert value("vestry_refusals_total", tenant="default", route="chat.completions", reason="rate_limit_exceeded") == 2
    assert value("vestry_door_refusals_total", code="400") == 2
    assert value("vestry_connections") == 1
    assert value("vestry_audit_records_total") == 3
    assert value("vestry_audit_bytes_total") == 500
    assert value("vestry_audit_failures_total") == 2
    assert value("vestry_audit_healthy") == 0
    assert value("vestry_audit_commit_seconds_count") == 1
    assert value("vestry_replica_healthy", model="small", replica="a:1") == 1
    assert value("vestry_replica_outstanding", model="small", replica="a:1") == 3


def test_what_never_happened_is_nothing() -> None:
    """Zeros stand there from the start: without them Prometheus sees no increase where something happens once."""
    meter = Meter()
    meter.replicas = lambda: [("small", "a:1", True, 0), ("small", "a:2", True, 0)]
    value = Samples(meter)
    for replica, cause in itertools.product(("a:1", "a:2"), EJECTIONS):
        assert value("vestry_replica_ejections_total", model="small", replica=replica, cause=cause) == 0
    assert value("vestry_upstream_retries_total", model="small") == 0


def test_exports_are_counted_by_name() -> None:
    """An export of the settings has its series from the start, and its lag is what it says at the scrape."""
    meter = Meter()
    meter.record.exports = lambda: [("siem", 3, 2.5), ("lake", 0, 0.0)]
    meter.record.exported("siem", 10)
    meter.record.exported("siem", 5)
    meter.record.export_failed("siem", 4)
    value = Samples(meter)
    for name, siem, lake in (
        ("vestry_audit_exported_records_total", 15, 0),
        ("vestry_audit_export_failed_records_total", 4, 0),
        ("vestry_audit_export_lag_records", 3, 0),
        ("vestry_audit_export_lag_seconds", 2.5, 0),
    ):
        assert (value(name, export="siem"), value(name, export="lake")) == (siem, lake)


def test_both_sides_of_completeness_are_counted_by_replica() -> None:
    """What the engine says, what the log says at least, what it leaves open, and how the two differ."""
    value = Samples(busy_meter())
    for name, prompt, completion, requests in (
        ("engine_reported", 9, 8, 7),
        ("audit_engine", 6, 5, 4),
        ("audit_uncertain", 1, 2, 3),
        ("audit_unexplained", 2, 1, 0),
        ("audit_uncounted", 0, 0, 1),
    ):
        assert value(f"vestry_{name}_tokens_total", replica="a:1", kind="input") == prompt
        assert value(f"vestry_{name}_tokens_total", replica="a:1", kind="output") == completion
        assert value(f"vestry_{name}_requests_total", replica="a:1") == requests
    assert value("vestry_engine_counters_readable", replica="a:1") == 1
    assert value("vestry_engine_restarts_total", replica="a:1") == 3


def test_checkpoints_are_told() -> None:
    """The size and time of the newest, none before the first; and every try that failed."""
    meter = Meter()
    value = Samples(meter)
    assert value("vestry_audit_checkpoint_size") is None
    assert value("vestry_audit_checkpoint_timestamp_seconds") is None
    assert value("vestry_audit_checkpoint_failures_total") == 0
    began = time.time()
    for size in (5, 7):
        meter.record.checkpointed("", Checkpoint("house.test/vestry/server", size, bytes(32)))
    meter.record.checkpoint_failed()
    assert value("vestry_audit_checkpoint_size") == 7
    assert began <= (value("vestry_audit_checkpoint_timestamp_seconds") or 0) <= time.time()
    assert value("vestry_audit_checkpoint_failures_total") == 1


def test_without_tls_there_is_no_certificate() -> None:
    """A server without TLS has no expiry to warn of."""
    assert "vestry_tls_certificate_expiry_timestamp_seconds" not in Samples(Meter()).labels()


def test_buckets_are_cumulative_and_their_bounds_inclusive() -> None:
    """As Prometheus counts: a value on a bound is at or below it; the last bucket holds everything."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 12.0
    assert list(DURATION) == sorted(DURATION)


@pytest.mark.parametrize("values", [[], [9.0], [0.5, 1.0, 1.5, 9.0, 2.0, 1.0], [-1.0, 0.0, 3.0], [1, 2, 0, 7], [-0.5]])
def test_many_at_once_count_as_one_by_one(values: list[float]) -> None:
    """Calls are counted by the hundred; what comes of it is the same."""
    one, many = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for value in values:
        one.add(value)
    many.add_all(values)
    assert (many.counts, many.total) == (one.counts, one.total)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_calls_go_on_while_a_large_page_is_written(accept: str) -> None:
    """Hundreds of tenants with many models make tens of thousands of samples: others have their turn meanwhile, and the
    page is the one that it would be in one piece.
    """
    meter = Meter()
    for tenant, model in itertools.product(range(150), range(20)):
        grant = replace(GRANT, model=replace(GRANT.model, name=f"model-{model}"))
        meter.ended(HEAD, grant, f"tenant-{tenant}", outcome(), 2.1)

    async def work() -> str:
        transport = httpx.ASGITransport(build_ops(meter, dict))
        async with httpx.AsyncClient(transport=transport, base_url="http://ops") as client:
            getting, turns = asyncio.create_task(client.get("/metrics", headers={"accept": accept})), 0
            while not getting.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 8
            return getting.result().text

    lines = asyncio.run(work()).splitlines()
    assert len(set(lines)) == len(lines)
    assert (lines[-1] == "# EOF") == ("openmetrics" in accept)
    families = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)
    found = [line for line in lines if not line.startswith("#")]
    assert sum(line.startswith("vestry_requests_total{") for line in found) == 3000
    assert sum(line.startswith("vestry_tokens_total{") for line in found) == 9000
    names = [line.partition("{")[0].partition(" ")[0] for line in found]
    assert [name for name, _ in itertools.groupby(names) if name.startswith("vestry_requests")] == [
        "vestry_requests_total"
    ]
