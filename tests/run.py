"""Run every test, and hold the coverage to its mark: what `make test` does once the environment is there.

Two workers; a file's tests stay together on one of them, so that an engine is started once, and the files come in the
order of `conftest.py`. The engine's environment, its model and the server's image take minutes: they are begun with at
once, and made in the time that tests with clocks leave idle. Extra arguments go to pytest; with any, coverage is not
judged, and each of these is made when a test asks for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / ".vestry" / "logs" / "tests-preparation.log"
WORKERS = "2"


def main(extra: list[str]) -> int:
    """The exit status."""
    began = time.monotonic()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes start here: none compiles the product anew
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    workers = ["-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder"]
    pytest = ["-m", "pytest", *workers, "--durations", "15", "--timeout", "600"]
    with contextlib.nullcontext() if extra else _preparing():
        status = _run("-m", "coverage", "run", *pytest, *extra)
    if status == 0 and not extra:
        _run("-m", "coverage", "combine", "--quiet")
        status = _run("-m", "coverage", "report", "--format", "text", "--sort", "cover")
    print(f"{'passed' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return status


@contextlib.contextmanager
def _preparing() -> Iterator[None]:
    """What takes minutes is made meanwhile. What failed of it is shown; the tests of it will have tried it anew."""
    LOG.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = (sys.executable, "-m", "support.preparation")
    environ = {**os.environ, "PYTHONPATH": "tests"}
    with LOG.open("w") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
        elif process.returncode:
            print(f"Preparing engine and image beside the tests FAILED:\n{LOG.read_text()}", flush=True)


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
