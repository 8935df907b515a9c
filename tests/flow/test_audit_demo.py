"""`make audit-demo`: the honest log is accepted, and each tampering is caught by both verifiers, with the place."""

from __future__ import annotations

import pytest

from demo import tampering
from demo.__main__ import main


def test_every_tampering_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    """As somebody sees it who runs it."""
    assert main() == 0
    shown = capsys.readouterr().out
    assert shown.count("exit status 0") == 2
    assert shown.count("exit status 1") == 2 * len(tampering.ALL)
    assert f"{len(tampering.ALL)} of {len(tampering.ALL)} caught." in shown
