"""The panels of the record, and of its completeness."""

from __future__ import annotations

from deploy.grafana.panel import GREEN, HERE, ORANGE, RED, Panel, Query, quantile, rate

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
        (Query(f"max by (export) (vestry_audit_export_lag_seconds{{{HERE}}})", "{{export}}"),),
        steps=((None, GREEN), (600, ORANGE)),
        width=6,
    ),
    Panel(
        "Records to send on",
        "Records that wait for each export.",
        "short",
        (Query(f"sum by (export) (vestry_audit_export_lag_records{{{HERE}}})", "{{export}}"),),
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
        "Age of the newest checkpoint that each copy has taken; of several servers that of the one furthest behind. It "
        "grows while nothing is recorded, too.",
        "s",
        (
            Query(
                f"max by (copy) (time() - (vestry_audit_copy_timestamp_seconds{{{HERE}}} > 0))",
                "{{copy}}",
            ),
        ),
        width=6,
        empty="no copies",
    ),
    Panel(
        "Records outside, and waiting",
        "Records that the newest checkpoints in each copy cover; items in its spool; 1 if every log was compared with "
        "it at the start.",
        "short",
        (
            Query(f"sum by (copy) (vestry_audit_copy_records{{{HERE}}})", "{{copy}} records"),
            Query(f"sum by (copy) (vestry_audit_copies_waiting{{{HERE}}})", "{{copy}} waiting"),
            Query(f"min by (copy) (vestry_audit_copy_compared{{{HERE}}})", "{{copy}} compared"),
        ),
        width=6,
        empty="no copies",
    ),
)


def _grown(metric: str) -> str:
    """What a counter has risen by in the last hour. One that is younger than that holds it itself: what it began with,
    such as work that was done while the server was down, is no increase to Prometheus. Of an older server there may be
    no figure of an hour ago, too.
    """
    series = f"{metric}{{{HERE}}}"
    young = f"on (instance) time() - process_start_time_seconds{{{HERE}}} < 7200"
    return f"(({series} unless {series} offset 1h and {young}) or increase({metric}{{{HERE}}}[1h]))"


def _both(what: str, of_servers: str = "sum") -> tuple[Query, ...]:
    """Tokens and answers of one side of completeness, by replica, over the last hour. `of_servers` says what several
    servers' figures come to: the records of each are its own, but all read the same counters of an engine.
    """
    return (
        Query(
            f"sum by (replica) ({of_servers} by (replica, kind) {_grown(f'vestry_{what}_tokens_total')})",
            "{{replica}} tokens",
        ),
        Query(f"{of_servers} by (replica) {_grown(f'vestry_{what}_requests_total')}", "{{replica}} requests"),
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
        "Tokens and answers of the last hour by the engines' own counters; their new beginnings; 1 while readable.",
        "short",
        (
            *_both("engine_reported", "max"),
            Query(f"max by (replica) (vestry_engine_restarts_total{{{HERE}}})", "{{replica}} restarts"),
            Query(f"min by (replica) (vestry_engine_counters_readable{{{HERE}}})", "{{replica}} readable"),
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
