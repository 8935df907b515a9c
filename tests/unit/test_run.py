"""The run of all tests (`run.py`): whatever ends it, nothing of it is left. A small suite stands in for the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import alive, eventually, number_in

RUN = Path(__file__).resolve().parents[1] / "run.py"
SUITE = """
import os, subprocess, threading
from pathlib import Path
import pytest
HERE = Path(__file__).parent
@pytest.fixture(scope="session")
def server():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process.pid
    process.kill()
def test_that_goes_on(server, tmp_path):
    (HERE / "place").write_text(str(tmp_path))
    for name, number in ("server", server), ("worker", os.getpid()), ("tests", os.getppid()):
        (HERE / name).write_text(f"{number}\\n")
    threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_it_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, a job that is told to end, and kill -9: tests, workers and what they have started end. Where it can,
    it removes what they have written, and no more. `make` passes SIGTERM on to it alone."""
    tests = tmp_path / "tests"
    (tests / "support").mkdir(parents=True)
    shutil.copy(RUN, tests)
    (tests / "test_it.py").write_text(SUITE)
    (tests / "support" / "__init__.py").touch()
    (tests / "support" / "preparation.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    release = tmp_path / "vestry-0.9.0"
    release.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "PYTEST_"))}
    environ["TMPDIR"] = str(tmp_path)
    with (tmp_path / "said").open("w") as said:
        argv = [sys.executable, str(tests / "run.py")]
        run = subprocess.Popen(argv, env=environ, stdout=said, stderr=said, start_new_session=True)
        try:
            eventually(lambda: (tests / "tests").exists() or run.poll() is not None, 90)
            started = [number_in(tests / name) for name in ("server", "worker", "tests")]
        finally:
            run.send_signal(number)
        assert run.wait(60) == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    eventually(lambda: not any(map(alive, started)), 60)
    written = next(each for each in Path((tests / "place").read_text()).parents if each.name == f"vestry-{run.pid}")
    if number == signal.SIGKILL:
        shutil.rmtree(written)  # the next run would
    assert not written.exists()
    assert release.exists()
