"""Looking at processes: which are alive, and waiting until they are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process runs: it exists and is no zombie."""
    try:
        state = (Path("/proc") / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in {b"Z", b"X"}


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until the condition holds. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true in {seconds} s"
        time.sleep(0.02)


def number_in(path: Path) -> int:
    """The number that a program writes into this file, once it is whole."""
    eventually(lambda: path.is_file() and path.read_text().endswith("\n"))
    return int(path.read_text())
