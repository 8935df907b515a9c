"""What the dashboard shows: every row and panel, with its words, unit and queries.

A panel says what it tells in a sentence that a platform engineer understands without the source. Metrics are those
of `docs/reference/metrics.md`; a test runs every query against a real Prometheus that scrapes a real server.
"""

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


REQUESTS = "vestry_requests_total"

OVERVIEW = (
    Panel(
        "Calls a second",
        "Calls answered, refusals included.",
        "reqps",
        (Query(rate(REQUESTS, BOTH)),),
        "stat",
        4,
        ((None, BLUE),),
    ),
    Panel(
        "Server errors",
        "Share of the calls that ended with a 5xx status: an engine failed, no replica was there, or the record "
        "could not be written.",
        "percentunit",
        (
            Query(
                f'(sum(rate({REQUESTS}{{{BOTH}, code=~"5.."}}[$__rate_interval])) or vector(0)) '
                f"/ (sum(rate({REQUESTS}{{{BOTH}}}[$__rate_interval])) > 0)"
            ),
        ),
        "stat",
        4,
        ((None, GREEN), (0.001, ORANGE), (0.01, RED)),
        empty="no calls",
        decimals=2,
    ),
    Panel(
        "First token, p95",
        "Time from a call's arrival to the engine's first byte; 19 of 20 calls are faster.",
        "s",
        (Query(quantile(0.95, "vestry_time_to_first_token_seconds", MODEL)),),
        "stat",
        4,
        ((None, GREEN), (1, ORANGE), (5, RED)),
        empty="no calls",
    ),
    Panel(
        "In progress",
        "Calls that were let in and have not ended.",
        "short",
        (Query(f"sum(vestry_requests_in_progress{{{MODEL}}})"),),
        "stat",
        4,
        ((None, BLUE),),
    ),
    Panel(
        "Replicas in service",
        "Share of the engines that get calls: not down, and not ejected.",
        "percentunit",
        (Query(f"avg(vestry_replica_healthy{{{MODEL}}})"),),
        "stat",
        4,
        ((None, RED), (0.5, ORANGE), (1, GREEN)),
        empty="no replicas",
        decimals=0,
    ),
    Panel(
        "Record",
        "Whether the audit log can be written. Where it cannot, no call is served.",
        "short",
        (Query(f"min(vestry_audit_healthy{{{HERE}}})"),),
        "stat",
        4,
        ONE_IS_WELL,
        empty="unknown",
        words=(("0", "failing", RED), ("1", "written", GREEN)),
    ),
)

CALLS = (
    Panel(
        "Calls by status",
        "Answers a second, by HTTP status. 499 is a client that left before its answer.",
        "reqps",
        (Query(rate(REQUESTS, BOTH, "code"), "{{code}}"),),
        stacked=True,
    ),
    Panel(
        "Calls by tenant",
        "Answers a second, by tenant; `none` are calls without a valid key.",
        "reqps",
        (Query(rate(REQUESTS, BOTH, "tenant"), "{{tenant}}"),),
        stacked=True,
    ),
    Panel(
        "How calls ended",
        "complete: as asked. truncated: the stream broke off. cancelled: the client left. refused: answered with an "
        "error. failed: an error after an engine had been asked.",
        "reqps",
        (Query(rate("vestry_outcomes_total", MODEL, "ending"), "{{ending}}"),),
        stacked=True,
    ),
    Panel(
        "Refusals by cause",
        "Refused calls a second, by the code that the client was given.",
        "reqps",
        (Query(rate("vestry_refusals_total", TENANT, "reason"), "{{reason}}"),),
        steps=NONE_IS_WELL,
    ),
    Panel(
        "Refusals by tenant",
        "Refused calls a second: who runs into limits, or uses keys that are not valid.",
        "reqps",
        (Query(rate("vestry_refusals_total", TENANT, "tenant"), "{{tenant}}"),),
        steps=NONE_IS_WELL,
    ),
    Panel(
        "Refused at the door",
        "Requests a second that were turned away before they became a call: malformed, too large, or too slow. Many of "
        "them are a broken client, or a scan.",
        "reqps",
        (Query(rate("vestry_door_refusals_total", HERE, "code"), "{{code}}"),),
        steps=NONE_IS_WELL,
    ),
)

LATENCY = (
    Panel(
        "Time to first token",
        "From a call's arrival to the engine's first byte. It grows when engines queue.",
        "s",
        percentiles("vestry_time_to_first_token_seconds", MODEL, "model", "model"),
    ),
    Panel(
        "Time per output token",
        "Between two tokens of an answer: how fast text appears to a reader.",
        "s",
        percentiles("vestry_time_per_output_token_seconds", MODEL, "model", "model"),
    ),
    Panel(
        "Duration of calls",
        "From arrival to the last byte. It depends on how long the answers are.",
        "s",
        percentiles("vestry_request_duration_seconds", MODEL, "model", "model"),
    ),
    Panel(
        "Server overhead",
        "Time of a call in the server that was not the engine: checks, limits and two durable records.",
        "s",
        percentiles("vestry_server_overhead_seconds", HERE, "route", "route"),
        steps=((None, GREEN), (0.05, ORANGE)),
        line=True,
    ),
    Panel(
        "In progress by model",
        "Calls that were let in and have not ended.",
        "short",
        (Query(f"sum by (model) (vestry_requests_in_progress{{{MODEL}}})", "{{model}}"),),
    ),
    Panel(
        "Calls by route",
        "Answers a second, by route of the API.",
        "reqps",
        (Query(rate(REQUESTS, BOTH, "route"), "{{route}}"),),
        stacked=True,
    ),
)

TOKENS = (
    Panel(
        "Tokens by model",
        "Tokens a second, read (input) and written (output), as the engines counted them.",
        "short",
        (Query(rate("vestry_tokens_total", f'{BOTH}, kind=~"input|output"', "model, kind"), "{{model}} {{kind}}"),),
    ),
    Panel(
        "Output tokens by tenant",
        "Tokens a second that the engines wrote for each tenant.",
        "short",
        (Query(rate("vestry_tokens_total", OUTPUT, "tenant"), "{{tenant}}"),),
        stacked=True,
    ),
    Panel(
        "Input tokens by tenant",
        "Tokens a second that the engines read for each tenant, those in the prefix cache included.",
        "short",
        (Query(rate("vestry_tokens_total", INPUT, "tenant"), "{{tenant}}"),),
        stacked=True,
    ),
    Panel(
        "Input from the prefix cache",
        "Share of the input tokens that an engine did not have to compute again.",
        "percentunit",
        (
            Query(
                f"{rate('vestry_tokens_total', CACHED, 'model')} / ({rate('vestry_tokens_total', INPUT, 'model')} > 0)",
                "{{model}}",
            ),
        ),
        highest=1,
    ),
    Panel(
        "Input tokens of a call",
        "How long prompts are.",
        "short",
        percentiles("vestry_request_tokens", f'{MODEL}, kind="input"', "model", "model"),
    ),
    Panel(
        "Output tokens of a call",
        "How long answers are.",
        "short",
        percentiles("vestry_request_tokens", f'{MODEL}, kind="output"', "model", "model"),
    ),
)

ENGINES = (
    Panel(
        "Replicas, one by one",
        "1 while a replica gets calls; 0 while it is down or ejected.",
        "short",
        (Query(f"vestry_replica_healthy{{{MODEL}}}", "{{model}} {{replica}}"),),
        steps=ONE_IS_WELL,
        width=6,
        highest=1,
        decimals=0,
    ),
    Panel(
        "Calls at each replica",
        "Calls that a replica works on. The next one goes where there are fewest.",
        "short",
        (Query(f"vestry_replica_outstanding{{{MODEL}}}", "{{model}} {{replica}}"),),
        width=6,
    ),
    Panel(
        "Ejections",
        "How often, in the last five minutes, a replica was taken out of service, and why.",
        "short",
        (
            Query(
                f"sum by (replica, cause) (increase(vestry_replica_ejections_total{{{MODEL}}}[5m]))",
                "{{replica}}: {{cause}}",
            ),
        ),
        steps=NONE_IS_WELL,
        width=6,
    ),
    Panel(
        "Second tries",
        "Calls a second that were tried on another replica because the first one failed before its first byte.",
        "reqps",
        (Query(rate("vestry_upstream_retries_total", MODEL, "model"), "{{model}}"),),
        steps=NONE_IS_WELL,
        width=6,
    ),
)

RECORD = (
    Panel(
        "Time to make records durable",
        "From a group of records to the end of its fdatasync. A call waits for two of them, and fails at the deadline "
        "of the settings (2 s unless changed).",
        "s",
        tuple(
            Query(quantile(share, "vestry_audit_commit_seconds", HERE), f"p{share * 100:.0f}")
            for share in (0.5, 0.95, 0.99)
        ),
        steps=((None, GREEN), (2, RED)),
        width=6,
    ),
    Panel(
        "Records",
        "Records a second that became durable: two for a served call, one for a refused one.",
        "short",
        (Query(rate("vestry_audit_records_total", HERE, "instance"), "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Growth of the log",
        "Bytes a second. Plan the disk with it.",
        "Bps",
        (Query(rate("vestry_audit_bytes_total", HERE, "instance"), "{{instance}}"),),
        width=4,
    ),
    Panel(
        "Records that failed",
        "Records a second, and contents, that could not be made durable; their calls were answered with 503 "
        "`audit_unavailable`.",
        "short",
        (
            Query(rate("vestry_audit_failures_total", HERE, "instance"), "{{instance}}"),
            Query(rate("vestry_audit_content_failures_total", HERE, "instance"), "{{instance}} content"),
        ),
        steps=((None, GREEN), (1e-9, RED)),
        width=4,
    ),
    Panel(
        "Age of the last checkpoint",
        "Since the log was last signed. With traffic it stays near `audit.checkpoint_seconds` (60 s unless changed); "
        "without any it grows, since there is nothing new to sign.",
        "s",
        (Query(f"time() - vestry_audit_checkpoint_timestamp_seconds{{{HERE}}}", "{{instance}}"),),
        steps=((None, GREEN), (300, ORANGE)),
        width=4,
    ),
    Panel(
        "Records under a checkpoint",
        "Records that the last checkpoint covers; tries to write one that failed, a second.",
        "short",
        (
            Query(f"vestry_audit_checkpoint_size{{{HERE}}}", "{{instance}}"),
            Query(rate("vestry_audit_checkpoint_failures_total", HERE, "instance"), "{{instance}} failed"),
        ),
        width=6,
    ),
    Panel(
        "Records sent on",
        "Records a second that each export has taken, and that it refused.",
        "short",
        (
            Query(rate("vestry_audit_exported_records_total", HERE, "export"), "{{export}}"),
            Query(rate("vestry_audit_export_failed_records_total", HERE, "export"), "{{export}} refused"),
        ),
        width=6,
    ),
    Panel(
        "Exports behind",
        "Age of the oldest record that an export has not taken.",
        "s",
        (Query(f"vestry_audit_export_lag_seconds{{{HERE}}}", "{{export}}"),),
        steps=((None, GREEN), (600, ORANGE)),
        width=6,
    ),
    Panel(
        "Records to send on",
        "Records that wait for each export.",
        "short",
        (Query(f"vestry_audit_export_lag_records{{{HERE}}}", "{{export}}"),),
        width=6,
    ),
    Panel(
        "Outside copies behind",
        "For how long the oldest undelivered checkpoint has waited, by copy. Above 10 minutes there is an alert.",
        "s",
        (Query(f"max by (copy) (vestry_audit_copy_behind_seconds{{{HERE}}})", "{{copy}}"),),
        steps=((None, GREEN), (600, RED)),
        line=True,
        width=6,
        empty="no copies",
    ),
    Panel(
        "Outside copies taken",
        "Checkpoints a second that each copy took, tries that failed, and checkpoints given up.",
        "short",
        (
            Query(rate("vestry_audit_copies_total", HERE, "copy"), "{{copy}}"),
            Query(rate("vestry_audit_copy_failures_total", HERE, "copy"), "{{copy}} failed"),
            Query(rate("vestry_audit_copies_dropped_total", HERE, "copy"), "{{copy}} given up"),
        ),
        width=6,
        empty="no copies",
    ),
    Panel(
        "Newest outside",
        "Age of the newest checkpoint that each copy has taken. It grows while nothing is recorded, too.",
        "s",
        (
            Query(
                f"time() - max by (copy) (vestry_audit_copy_timestamp_seconds{{{HERE}}} > 0)",
                "{{copy}}",
            ),
        ),
        width=6,
        empty="no copies",
    ),
    Panel(
        "Records outside, and waiting",
        "Records that the newest checkpoint of each copy covers; items in its spool; 1 if the log was compared with it "
        "at the start.",
        "short",
        (
            Query(f"vestry_audit_copy_records{{{HERE}}}", "{{copy}} records"),
            Query(f"vestry_audit_copies_waiting{{{HERE}}}", "{{copy}} waiting"),
            Query(f"vestry_audit_copy_compared{{{HERE}}}", "{{copy}} compared"),
        ),
        width=6,
        empty="no copies",
    ),
)

PROCESS = (
    Panel(
        "Connections",
        "Open connections of clients.",
        "short",
        (Query(f"vestry_connections{{{HERE}}}", "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Processor",
        "Cores that the server uses. One process uses hardly more than one.",
        "short",
        (Query(rate("process_cpu_seconds_total", HERE, "instance"), "{{instance}}"),),
        steps=((None, GREEN), (0.9, ORANGE)),
        line=True,
        width=6,
        decimals=2,
    ),
    Panel(
        "Memory",
        "Resident memory of the server.",
        "bytes",
        (Query(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Open files",
        "Share of the file descriptors that the server may have. A connection is one.",
        "percentunit",
        (Query(f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}", "{{instance}}"),),
        steps=((None, GREEN), (0.8, RED)),
        line=True,
        width=6,
        highest=1,
    ),
    Panel(
        "Certificate expires in",
        "Time until the API's certificate is no longer valid. A renewed file is taken up without a restart.",
        "s",
        (Query(f"vestry_tls_certificate_expiry_timestamp_seconds{{{HERE}}} - time()", "{{instance}}"),),
        "stat",
        12,
        ((None, RED), (7 * 86400, ORANGE), (21 * 86400, GREEN)),
        empty="no TLS",
        lowest=None,
    ),
    Panel(
        "Version and uptime",
        "How long each server has been up, under its version.",
        "s",
        (
            Query(
                f"time() - (process_start_time_seconds{{{HERE}}} "
                f"* on (instance) group_left (version) vestry_build_info{{{HERE}}})",
                "{{version}}, {{instance}}",
            ),
        ),
        "stat",
        12,
        ((None, BLUE),),
        empty="not running",
    ),
)


def _both(what: str) -> tuple[Query, ...]:
    """Tokens and answers of one side of completeness, by replica, over the last hour."""
    return tuple(
        Query(f"sum by (replica) (increase(vestry_{what}_{unit}_total{{{HERE}}}[1h]))", f"{{{{replica}}}} {unit}")
        for unit in ("tokens", "requests")
    )


COMPLETENESS = (
    Panel(
        "Engine work without a record",
        "Tokens and answers of the last hour that an engine counted and no record explains. Anything but 0 is a call "
        "that did not come through the server.",
        "short",
        _both("audit_unexplained"),
        steps=((None, GREEN), (1e-9, RED)),
        width=6,
    ),
    Panel(
        "Recorded work that no engine counted",
        "Tokens and answers of the last hour that are recorded, though an idle engine had not counted them, or forgot "
        "them at a restart.",
        "short",
        _both("audit_uncounted"),
        width=6,
    ),
    Panel(
        "Work as the engines count it",
        "Tokens and answers of the last hour by the engines' own counters; how often these began anew; 1 while readable.",
        "short",
        (
            *_both("engine_reported"),
            Query(f"vestry_engine_restarts_total{{{HERE}}}", "{{replica}} restarts"),
            Query(f"vestry_engine_counters_readable{{{HERE}}}", "{{replica}} readable"),
        ),
        width=6,
    ),
    Panel(
        "Work as the record has it",
        "Tokens and answers of the last hour in outcomes; and what cancelled and failed calls may add at most.",
        "short",
        (*_both("audit_engine"), *_both("audit_uncertain")),
        width=6,
    ),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Overview", OVERVIEW),
    ("Calls", CALLS),
    ("Latency", LATENCY),
    ("Tokens", TOKENS),
    ("Engines", ENGINES),
    ("Record", RECORD),
    ("Completeness", COMPLETENESS),
    ("Server", PROCESS),
)
