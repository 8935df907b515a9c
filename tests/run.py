"""Run every test, and hold the coverage to its mark: what `make test` does once the environment is there.

Two workers; a file's tests stay together on one of them, so that an engine is started once, and the files come in the
order of `conftest.py`. Nothing of them outlives this, by whatever signal it ends. The engine's environment, its model
and the server's image take minutes: they are begun with at once, and made in the time that tests with clocks leave
idle. What tests write lies in memory where there is room for it, and goes when they end. Extra arguments go to pytest;
with any, coverage is not judged, what tests write stays where pytest puts it, and each of the long things is made when
a test asks for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / ".vestry" / "logs" / "tests-preparation.log"
WORKERS = "2"
GRACE_SECONDS = 30
MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""Three times what a run leaves there; beside it engines and browsers need as much again."""


def main(extra: list[str]) -> int:
    """The exit status."""
    began = time.monotonic()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes start here: none compiles the product anew
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    workers = ["-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder"]
    pytest = ["-m", "pytest", *workers, "--durations", "15", "--timeout", "600"]
    with contextlib.ExitStack() as stack:
        if not extra:
            pytest += ["--basetemp", str(stack.enter_context(_in_memory()) / "t")]
            stack.enter_context(_preparing())
        status = _run("-m", "coverage", "run", *pytest, *extra)
    if status == 0 and not extra:
        _run("-m", "coverage", "combine", "--quiet")
        status = _run("-m", "coverage", "report", "--format", "text", "--sort", "cover")
    print(f"{'passed' if status == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return status


@contextlib.contextmanager
def _in_memory() -> Iterator[Path]:
    """A folder for all temporary files of this run: no disk that stands still then makes a test wait, and what programs
    leave behind (engines' sockets, pip's folders) goes with it. Those of runs that were killed go too. Its name is
    short, since sockets lie there.
    """
    name, elsewhere = f"vestry-{os.getpid()}", Path(tempfile.gettempdir())
    for left in (*MEMORY.glob("vestry-[0-9]*"), *elsewhere.glob("vestry-[0-9]*")):
        number = left.name.removeprefix("vestry-")
        if left.name == name or (number.isdecimal() and not Path("/proc", number).exists()):  # a release has dots
            shutil.rmtree(left, ignore_errors=True)
    folder = (MEMORY if _has_room() else elsewhere) / name
    folder.mkdir()
    folder.chmod(0o711)  # PostgreSQL, which root may not run, passes through it
    os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room() -> bool:
    """Whether there is enough memory, and programs may be run from there, as tests do."""
    try:
        place = os.statvfs(MEMORY)
        [free] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return False
    if place.f_flag & os.ST_NOEXEC or not os.access(MEMORY, os.W_OK):
        return False
    return place.f_bavail * place.f_frsize >= ROOM_BYTES and int(free.split()[1]) * 1024 >= 2 * ROOM_BYTES


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
    """Its exit status. It has a session of its own, where a terminal's Ctrl-C does not come: that is passed on, so that
    tests put away what they have started. What has not ended then is killed; so is it all where this is killed.
    """
    argv = ("setpriv", "--pdeathsig", "TERM", sys.executable, *arguments)
    process = subprocess.Popen(argv, cwd=ROOT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end this as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(each, _interrupted)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
