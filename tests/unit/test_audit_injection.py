"""Every system call of the log fails, and dies, in turn, under load: no acknowledged record is lost.

`make audit-faults` tries more places; its table is in docs/audit.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from injection.runs import CALLS, Fault, History, history, run


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A log with a history."""
    return history(tmp_path_factory.mktemp("history") / "log")


@pytest.mark.parametrize("call", CALLS)
def test_no_fault_loses_a_record(tmp_path: Path, before: History, call: str) -> None:
    """The log opens afterwards, holds each acknowledged record once, and its checkpoint covers them all."""
    full = [("ENOSPC", "2+")] if call in {"write", "mkdir"} else []
    for kind, when in [("EIO", "3"), ("killed", "4"), *full]:
        result = run(before, tmp_path / kind, Fault(call, kind, when))
        assert result.lost == [], f"{result.fault}: {len(result.lost)} of {result.acknowledged}"
        assert result.acknowledged >= len(before.acknowledged) > 300
