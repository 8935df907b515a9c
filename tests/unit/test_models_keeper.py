"""The keeper: whatever ends, nothing that was started is left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import alive, eventually, number_in
from vestry.models.children import KEEPER

# Starts a child that leaves its session and ignores SIGTERM, as stubborn as a daemon can be.
DAEMON = "trap '' TERM; echo $$ > {0}; while :; do sleep 0.1; done"


def keeper(grace: float, *program: str, parent: int | None = None) -> subprocess.Popen[str]:
    """A keeper of this program."""
    argv = [sys.executable, "-I", str(KEEPER), str(parent or os.getpid()), str(grace), *program]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)


def with_daemon(path: Path, then: str) -> tuple[str, ...]:
    """A program that leaves a daemon behind it, and then does something else."""
    return ("sh", "-c", f'setsid sh -c "{DAEMON.format(path).replace("$", chr(92) + "$")}" & {then}')


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status and what it said on standard error."""
    _, said = process.communicate(timeout=20)
    return process.returncode, said


@pytest.mark.parametrize("status", [0, 1, 7])
def test_the_status_is_the_programs(status: int) -> None:
    """The keeper ends as its program does."""
    assert finish(keeper(1, "sh", "-c", f"exit {status}"))[0] == status


def test_a_signal_is_told_as_shells_tell_it() -> None:
    """A program killed by a signal gives 128 and the signal's number."""
    assert finish(keeper(1, "sh", "-c", "kill -SEGV $$"))[0] == 128 + signal.SIGSEGV


def test_a_program_that_does_not_exist() -> None:
    """A program that cannot be started gives 127 and a sentence."""
    status, said = finish(keeper(1, "/nonexistent/program"))
    assert status == 127
    assert "/nonexistent/program cannot be started: No such file or directory" in said


def test_no_program_leaves_a_core_dump(tmp_path: Path) -> None:
    """Whatever limit a shell or container sets: an engine's memory holds its key, and what it was asked."""
    path = tmp_path / "limits"
    argv = [sys.executable, "-I", str(KEEPER), "PARENT", "1", "sh", "-c", f"ulimit -c > {path}; ulimit -Hc >> {path}"]
    script = f"ulimit -c unlimited; {shlex.join(argv).replace('PARENT', '$$')}"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
    assert path.read_text() == "0\n0\n"


def test_what_a_program_leaves_behind_is_killed(tmp_path: Path) -> None:
    """A daemon in a session of its own dies when the program ends, and the status is still the program's."""
    path = tmp_path / "pid"
    status, _ = finish(keeper(5, *with_daemon(path, f"until test -s {path}; do sleep 0.05; done; exit 3")))
    assert status == 3
    assert not alive(number_in(path))


def test_sigterm_gives_the_program_time(tmp_path: Path) -> None:
    """A program that finishes its work after SIGTERM is let finish it."""
    done, up = tmp_path / "done", tmp_path / "up"
    script = f"trap 'sleep 0.3; echo 1 > {done}; exit 0' TERM; echo 1 > {up}; while :; do sleep 0.05; done"
    process = keeper(20, "sh", "-c", script)
    number_in(up)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    assert done.is_file()


def test_a_program_that_will_not_end_is_killed(tmp_path: Path) -> None:
    """After its grace a program that ignores SIGTERM is killed, with its daemon."""
    path, up = tmp_path / "pid", tmp_path / "up"
    process = keeper(0.3, *with_daemon(path, DAEMON.format(up)))
    pid, other = number_in(path), number_in(up)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGKILL
    assert not alive(pid)
    assert not alive(other)


def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    """When the parent is killed with SIGKILL, program and daemon are gone at once, without their grace."""
    path, up = tmp_path / "pid", tmp_path / "up"
    program = with_daemon(path, DAEMON.format(up))
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-I', {str(KEEPER)!r}, str(os.getpid()), '600', *{program!r}])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    pid, other = number_in(path), number_in(up)
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(pid) and not alive(other))


def test_a_parent_that_has_gone_already_starts_nothing(tmp_path: Path) -> None:
    """A keeper that comes too late to see its parent die does not start the program."""
    marker = tmp_path / "started"
    assert finish(keeper(1, "touch", str(marker), parent=1))[0] == 128 + signal.SIGKILL
    assert not marker.exists()
