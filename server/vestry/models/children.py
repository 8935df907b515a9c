"""Short-lived helper programs (pip, the scripts in `inside/`): run one, watch its output, leave nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from vestry.models.catalog import ModelError
from vestry.models.journal import Journal

KEEPER = Path(__file__).with_name("keeper.py")
GRACE_SECONDS = 5.0
REMEMBERED = 15
ROOM = "An engine's environment and a small model take about 5 GiB, and with an NVIDIA GPU 13"


def kept(argv: Sequence[str], grace: float) -> list[str]:
    """The argv that runs a program under the keeper, which ends when this process does."""
    return [sys.executable, "-I", os.fspath(KEEPER), str(os.getpid()), str(grace), *argv]


def run(
    what: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None] | None = None,
    *,
    own_terminal: bool = False,
) -> None:
    """Run a program to its end; its output goes to the log and, line by line, to `on_line`.

    With `own_terminal` its standard error stays this process's own, so that it can draw. Raises ModelError with
    the program's last words if it fails, and stops it if this is interrupted.
    """
    last: deque[str] = deque(maxlen=REMEMBERED)
    errors = None if own_terminal else subprocess.STDOUT
    with Journal(log) as journal, _started(argv, environment, errors) as process:
        _follow(process.stdout, journal, last, on_line)
        status = process.wait()
    if status:
        words = "".join(f"\n    {line}" for line in last)
        where = "what went wrong stands above" if own_terminal else f"all of its output is in {log}"
        raise ModelError(f"{what} failed (exit status {status}; {where}).{words}{_room(log.parent, words)}")


def answer(argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and stop it if this is interrupted; its exit status, and what it said."""
    with _started(argv, environment, subprocess.PIPE) as process:
        said, errors = process.communicate()
    return subprocess.CompletedProcess(argv, process.returncode, said, errors)


@contextlib.contextmanager
def _started(
    argv: Sequence[str], environment: Mapping[str, str], errors: int | None
) -> Iterator[subprocess.Popen[str]]:
    """A program under the keeper; `errors` is where its standard error goes. It ends if what is inside raises."""
    with subprocess.Popen(
        kept(argv, GRACE_SECONDS),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
        text=True,
        errors="replace",
    ) as process:
        try:
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def _room(folder: Path, words: str) -> str:
    """Where a program said that a disk is full: what is left on those that it writes to, and what it takes."""
    if os.strerror(errno.ENOSPC) not in words:
        return ""
    temporary = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - `tempfile` finds none where all disks are full
    folders = [each for each in (folder, temporary) if each.is_dir()]
    left = " and ".join(f"{shutil.disk_usage(each).free / (1 << 30):.1f} GiB at {each}" for each in folders)
    return f"\nThere are {left} left. {ROOM}."


def _follow(output: IO[str] | None, journal: Journal, last: deque[str], on_line: Callable[[str], None] | None) -> None:
    for line in output or ():
        journal.write(line.encode())
        last.append(line.rstrip())
        if on_line is not None:
            on_line(line.rstrip())
