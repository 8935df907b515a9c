"""Every system call of the log fails, and dies, in turn, under load: no acknowledged record is lost.

`make audit-faults` tries more places; its table is in docs/audit.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from injection.runs import CALLS, SHORT, Fault, History, NotStruck, history, run


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A log with a history."""
    return history(tmp_path_factory.mktemp("history") / "log")


@pytest.mark.parametrize("call", CALLS)
def test_no_fault_loses_a_record(tmp_path: Path, before: History, call: str) -> None:
    """The log opens afterwards, holds each acknowledged record once, and its checkpoint covers them all. That each
    fault has struck is seen in strace's trace, and by the exit status of whoever was killed.
    """
    full = [("ENOSPC", "2+")] if call in {"write", "writev", "mkdir"} else []
    for kind, when in [("EIO", "3"), ("killed", "4"), *full]:
        result = run(before, tmp_path / kind, Fault(call, kind, when), SHORT)
        assert result.struck >= 1
        assert (result.status in {-9, 137}) == (kind == "killed")
        assert result.lost == [], f"{result.fault}: {len(result.lost)} of {result.acknowledged}"
        assert result.acknowledged >= len(before.acknowledged) > 300


@pytest.mark.parametrize("kind", ["EIO", "killed"])
def test_a_fault_that_does_not_strike_is_no_pass(tmp_path: Path, before: History, kind: str) -> None:
    """A call that is not made so often proves nothing, and the run says so."""
    with pytest.raises(NotStruck, match=r"flock .* none was struck; exit status 0"):
        run(before, tmp_path / kind, Fault("flock", kind, "1000"), SHORT)
