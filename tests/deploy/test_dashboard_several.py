"""The dashboard's figures where several servers are one house: each is added up, or not, as what it counts is theirs.

Prometheus itself works the queries out (`promtool test rules`), of series that two servers would show.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "vestry.json"
CHOSEN = {"instance": "(a|b)", "tenant": ".*", "model": ".*", "__rate_interval": "5m"}
AT = 7200
"""Seconds from the first minute of the series on when the panels are looked at."""

Series = dict[str, str]


def queries(title: str) -> list[str]:
    """Those of a panel, with everything chosen."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    [panel] = [each for each in panels if each["title"] == title]
    found = [target["expr"] for target in panel["targets"]]
    return [re.sub(r"\$(\w+)", lambda name: CHOSEN[name[1]], each) for each in found]


def wrong(title: str, series: Series, expected: list[dict[str, float]], folder: Path) -> str:
    """What promtool has against these figures; empty if nothing. `expected` are labels and value, query by query."""
    binary = shutil.which("promtool")
    assert binary, "promtool is not installed: apt-get install the packages of deploy/test-packages.txt"
    asked = [
        {
            "expr": expression,
            "eval_time": f"{AT}s",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in figures.items()],
        }
        for expression, figures in zip(queries(title), expected, strict=False)
    ]
    shown = [{"series": name, "values": values} for name, values in series.items()]
    test: Any = {"interval": "1m", "input_series": shown, "promql_expr_test": asked}
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        [binary, "test", "rules", str(folder / "test.yaml")], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def both(name: str, labels: str, one: str, other: str) -> Series:
    """A metric of two servers."""
    return {f'{name}{{{labels}, instance="{server}"}}': values for server, values in (("a", one), ("b", other))}


TOKENS = "vestry_engine_reported_tokens_total"
CASES: list[tuple[str, Series, list[dict[str, float]]]] = [
    (
        "First token, p95",  # where nobody has called for a while
        {
            **both("vestry_time_to_first_token_seconds_bucket", 'model="m", le="1"', "5x200", "7x200"),
            **both("vestry_time_to_first_token_seconds_bucket", 'model="m", le="+Inf"', "5x200", "7x200"),
        },
        [{}],
    ),
    ("Break-glass", both("vestry_break_glass_active", 'x="y"', "1x200", "1x200"), [{"{}": 1}]),
    (
        "Replicas, one by one",
        both("vestry_replica_healthy", 'model="m", replica="r"', "1x200", "0x200"),
        [{'{model="m", replica="r"}': 0}],
    ),
    (
        "Calls at each replica",
        both("vestry_replica_outstanding", 'model="m", replica="r"', "3x200", "4x200"),
        [{'{model="m", replica="r"}': 7}],
    ),
    (
        "Age of issuers' keys",
        both("vestry_issuer_keys_age_seconds", 'issuer="i"', "30x200", "900x200"),
        [{'{issuer="i"}': 900}],
    ),
    (
        "Exports behind",
        both("vestry_audit_export_lag_seconds", 'export="e"', "0x200", "70x200"),
        [{'{export="e"}': 70}],
    ),
    (
        "Records to send on",
        both("vestry_audit_export_lag_records", 'export="e"', "5x200", "7x200"),
        [{'{export="e"}': 12}],
    ),
    (
        "Newest outside",
        both("vestry_audit_copy_timestamp_seconds", 'copy="c"', "7190x200", "3600x200"),
        [{'{copy="c"}': 3600}],
    ),
    (
        "Records outside, and waiting",
        {
            **both("vestry_audit_copy_records", 'copy="c"', "10x200", "20x200"),
            **both("vestry_audit_copies_waiting", 'copy="c"', "1x200", "2x200"),
            **both("vestry_audit_copy_compared", 'copy="c"', "1x200", "0x200"),
        },
        [{'{copy="c"}': 30}, {'{copy="c"}': 3}, {'{copy="c"}': 0}],
    ),
    (
        "Work as the engines count it",
        {
            **both(TOKENS, 'replica="r", kind="input"', "0+4x200", "0+4x200"),
            **both(TOKENS, 'replica="r", kind="output"', "0+6x200", "0+6x200"),
            **both("vestry_engine_reported_requests_total", 'replica="r"', "0+2x200", "0+2x200"),
            **both("vestry_engine_restarts_total", 'replica="r"', "1x200", "1x200"),
            **both("vestry_engine_counters_readable", 'replica="r"', "1x200", "0x200"),
        },
        [{'{replica="r"}': 600}, {'{replica="r"}': 120}, {'{replica="r"}': 1}, {'{replica="r"}': 0}],
    ),
    (
        "Work as the record has it",
        both("vestry_audit_engine_tokens_total", 'replica="r", kind="input"', "0+4x200", "0+6x200"),
        [{'{replica="r"}': 600}],
    ),
    (
        "Engine work without a record",
        {
            **both("vestry_audit_unexplained_tokens_total", 'replica="r", kind="input"', "9x200", "_x100 24x100"),
            **both("process_start_time_seconds", 'job="vestry"', "-9000x200", "_x100 5990x100"),
        },
        [{'{replica="r"}': 24}],
    ),
    (
        "Engine work without a record",  # where Prometheus did not look an hour ago
        {
            **both("vestry_audit_unexplained_tokens_total", 'replica="r", kind="input"', *["9x50 _x20 9x130"] * 2),
            **both("process_start_time_seconds", 'job="vestry"', *["-9000x50 _x20 -9000x130"] * 2),
        },
        [{'{replica="r"}': 0}],
    ),
]


@pytest.mark.parametrize(("title", "series", "expected"), CASES, ids=[each[0] for each in CASES])
def test_figures_of_several_servers(
    title: str, series: Series, expected: list[dict[str, float]], tmp_path: Path
) -> None:
    """What all of them see of one thing counts once, the worst of it shows, and what each has is added up. Work that
    was done while a server was down stands on its first page, and shows as well.
    """
    assert wrong(title, series, expected, tmp_path) == ""
