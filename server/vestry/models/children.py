"""Short-lived helper programs (pip, the scripts in `inside/`): run one, watch its output, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from vestry.models.catalog import ModelError

KEEPER = Path(__file__).with_name("keeper.py")
GRACE_SECONDS = 5.0
REMEMBERED = 15


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
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=REMEMBERED)
    with (
        log.open("a", encoding="utf-8") as journal,
        subprocess.Popen(
            kept(argv, GRACE_SECONDS),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if own_terminal else subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            _follow(process.stdout, journal, last, on_line)
            status = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if status:
        words = "".join(f"\n    {line}" for line in last)
        raise ModelError(f"{what} failed (exit status {status}; all of its output is in {log}).{words}")


def _follow(output: IO[str] | None, journal: IO[str], last: deque[str], on_line: Callable[[str], None] | None) -> None:
    for line in output or ():
        journal.write(line)
        last.append(line.rstrip())
        if on_line is not None:
            on_line(line.rstrip())
