"""What the dashboard shows: every row and panel, with its words, unit and queries.

A panel says what it tells in a sentence that a platform engineer understands without the source. Metrics are those
of `docs/reference/metrics.md`; a test runs every query against a real Prometheus that scrapes a real server.
"""

from __future__ import annotations

from deploy.grafana.panel import (
    BLUE,
    BOTH,
    CACHED,
    GREEN,
    HERE,
    INPUT,
    MODEL,
    NONE_IS_WELL,
    ONE_IS_WELL,
    ORANGE,
    OUTPUT,
    RED,
    TENANT,
    Panel,
    Query,
    percentiles,
    quantile,
    rate,
)
from deploy.grafana.panels_record import COMPLETENESS, RECORD

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
        (Query(f"{quantile(0.95, 'vestry_time_to_first_token_seconds', MODEL)} >= 0"),),  # not a number without calls
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
        "1 while a replica gets calls; 0 while it is down or ejected, be it at one of several servers.",
        "short",
        (Query(f"min by (model, replica) (vestry_replica_healthy{{{MODEL}}})", "{{model}} {{replica}}"),),
        steps=ONE_IS_WELL,
        width=6,
        highest=1,
        decimals=0,
    ),
    Panel(
        "Calls at each replica",
        "Calls that a replica works on, for all servers. Each server sends its next one where it has fewest.",
        "short",
        (Query(f"sum by (model, replica) (vestry_replica_outstanding{{{MODEL}}})", "{{model}} {{replica}}"),),
        width=6,
    ),
    Panel(
        "Ejections",
        "How often, from one point to the next, a replica was taken out of service, and why.",
        "short",
        (
            Query(
                f"sum by (replica, cause) (increase(vestry_replica_ejections_total{{{MODEL}}}[$__rate_interval]))",
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

DIRECTORY = (
    Panel(
        "Directory",
        "Whether tenants and keys can be read. Where they cannot, keys that were used lately work for a while.",
        "short",
        (Query(f"min(vestry_directory_up{{{HERE}}})"),),
        "stat",
        4,
        ONE_IS_WELL,
        empty="unknown",
        words=(("0", "unreadable", RED), ("1", "readable", GREEN)),
    ),
    Panel(
        "Tenants and policy",
        "Whether the directory's newest state is in force. Where a document in it cannot be used, an older one is.",
        "short",
        (Query(f"max(vestry_directory_outdated{{{HERE}}})"),),
        "stat",
        4,
        NONE_IS_WELL,
        empty="unknown",
        words=(("0", "in force", GREEN), ("1", "older ones in force", RED)),
    ),
    Panel(
        "Changes unheard",
        "For how long a server may have missed what others changed, such as a revocation. With SQLite always 0.",
        "s",
        (Query(f"vestry_directory_stale_seconds{{{HERE}}}", "{{instance}}"),),
        steps=((None, GREEN), (3, RED)),
        line=True,
        width=8,
    ),
    Panel(
        "Look-ups",
        "Keys a second that were not in memory. unknown: no such key, or one that works no more. failed: the directory "
        "could not be read.",
        "ops",
        (Query(f"sum by (result) (rate(vestry_directory_lookups_total{{{HERE}}}[$__rate_interval]))", "{{result}}"),),
        width=8,
    ),
)

IDENTITY = (
    Panel(
        "Tokens",
        "Tokens a second that were not in memory, by issuer. refused: no good token. failed: its issuer's keys could "
        "not be had.",
        "ops",
        (
            Query(
                f"sum by (issuer, result) (rate(vestry_tokens_verified_total{{{HERE}}}[$__rate_interval]))",
                "{{issuer}}: {{result}}",
            ),
        ),
        width=9,
    ),
    Panel(
        "Age of issuers' keys",
        "Since they were last read. They hold for `stale_seconds` of the issuer, then its tokens are refused with 503.",
        "s",
        (Query(f"max by (issuer) (vestry_issuer_keys_age_seconds{{{HERE}}})", "{{issuer}}"),),
        width=6,
    ),
    Panel(
        "Keys not read",
        "Times that an issuer's keys could not be read, from one point to the next.",
        "short",
        (
            Query(
                f"sum by (issuer) (increase(vestry_issuer_key_failures_total{{{HERE}}}[$__rate_interval]))",
                "{{issuer}}",
            ),
        ),
        steps=NONE_IS_WELL,
        width=6,
    ),
    Panel(
        "Break-glass",
        "Grants that lend somebody a role now.",
        "short",
        (Query(f"max(vestry_break_glass_active{{{HERE}}})"),),
        "stat",
        3,
        NONE_IS_WELL,
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
        (
            Query(f"vestry_tls_certificate_expiry_timestamp_seconds{{{HERE}}} - time()", "{{instance}}"),
            Query(f"vestry_tls_certificate_lifetime_seconds{{{HERE}}}", "{{instance}}: of in all"),
        ),
        "stat",
        6,
        ((None, RED), (7 * 86400, ORANGE), (21 * 86400, GREEN)),
        empty="no TLS",
        lowest=None,
    ),
    Panel(
        "Revocation list ends in",
        "Time until the first list of revoked client certificates ends: then its authority's clients are refused.",
        "s",
        (
            Query(f"vestry_tls_crl_expiry_timestamp_seconds{{{HERE}}} - time()", "{{instance}}"),
            Query(f"vestry_tls_crl_lifetime_seconds{{{HERE}}}", "{{instance}}: of in all"),
        ),
        "stat",
        6,
        ((None, RED), (6 * 3600, GREEN)),
        empty="no list",
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


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Overview", OVERVIEW),
    ("Calls", CALLS),
    ("Latency", LATENCY),
    ("Tokens", TOKENS),
    ("Engines", ENGINES),
    ("Directory", DIRECTORY),
    ("Identity", IDENTITY),
    ("Record", RECORD),
    ("Completeness", COMPLETENESS),
    ("Server", PROCESS),
)
