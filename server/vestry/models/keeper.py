"""Runs one program and answers for everything that it starts: when the keeper ends, nothing of it is left.

    python -I keeper.py PARENT GRACE PROGRAM [ARGUMENT ...]

A program that is killed cannot stop its children, and vLLM's live on. So the keeper stands between Vestry and
the program: it adopts orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), asks the kernel for a signal should the
process PARENT die, and ends with the program's exit status (128 + number for a signal, as shells say it).

- SIGTERM or SIGINT: SIGTERM to the program, GRACE seconds to finish, then SIGKILL to all that is left.
- PARENT dies: SIGKILL to all at once.
- The program ends: SIGKILL to all that it left behind.

None of them leaves a core dump: it would hold keys, and what was asked.

It needs nothing but the standard library and Linux, and imports nothing of vestry.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHANED = signal.SIGUSR1
WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, ORPHANED}
LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """prctl(2). Raises OSError."""
    if LIBC.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def parent_of(process: Path) -> int:
    """The parent's id, from /proc/PID/stat (proc(5)); its second field, in brackets, may hold anything."""
    return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])


def descendants(root: int) -> Iterator[int]:
    """Every process below this one, as it stands now."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                children.setdefault(parent_of(process), []).append(int(process.name))
            except OSError:
                continue  # it has gone meanwhile
    waiting = children.get(root, [])
    while waiting:
        each = waiting.pop()
        yield each
        waiting += children.get(each, [])


def start(program: list[str]) -> int:
    """Start the program; returns its id. It dies with the keeper."""
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        if os.getppid() == keeper:
            os.execvp(program[0], program)  # noqa: S606 - starting a program is what this is for
    except OSError as fault:
        os.write(2, f"keeper: {program[0]} cannot be started: {fault.strerror}\n".encode())
    os._exit(127)


def reap(program: int) -> int | None:
    """Collect what has ended. The program's exit status if it is among that."""
    ended = None
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if child == 0:
            return ended
        if child == program:
            code = os.waitstatus_to_exitcode(status)
            ended = code if code >= 0 else 128 - code


def clear(program: int) -> int | None:
    """Kill everything below the keeper, and wait until it has gone. The program's status, as in `reap`."""
    ended = None
    while True:
        for each in descendants(os.getpid()):
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
        found = reap(program)
        ended = found if found is not None else ended
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return ended
        signal.sigtimedwait(WATCHED, 0.02)


def keep(program: int, grace: float) -> int:
    """Watch the program until nothing of it is left. Returns its exit status."""
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        told = signal.sigwaitinfo(WATCHED) if left is None else signal.sigtimedwait(WATCHED, left)
        ended = reap(program)
        if ended is not None:
            clear(program)
            return ended
        if told is None or told.si_signo == ORPHANED:
            return clear(program) or 128 + signal.SIGKILL
        if told.si_signo != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + grace
            os.kill(program, signal.SIGTERM)


def main(arguments: list[str]) -> int:
    parent, grace, program = int(arguments[0]), float(arguments[1]), arguments[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, ORPHANED)
    if os.getppid() != parent:
        return 128 + signal.SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return keep(start(program), grace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
