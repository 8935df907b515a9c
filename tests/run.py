"""Run every test, and hold the coverage to its mark: what `make test` does once the environment is there.

Two workers; a file's tests stay together on one of them, so that an engine or an image is made once. Extra
arguments go to pytest; with any, coverage is not judged.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = "2"


def main(extra: list[str]) -> int:
    """The exit status."""
    began = time.monotonic()
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    pytest = ["-m", "pytest", "-n", WORKERS, "--dist", "loadfile", "--durations", "15", "--timeout", "600"]
    status = _run("-m", "coverage", "run", *pytest, *extra)
    if status == 0 and not extra:
        _run("-m", "coverage", "combine", "--quiet")
        status = _run("-m", "coverage", "report", "--format", "text", "--sort", "cover")
    print(f"{'passed' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return status


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
