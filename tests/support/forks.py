"""Python programs of the tests that need not import the product anew: a process that has imported it forks for each.

What comes out (`forking.py`) is a process like any other, with memory, signals and an exit status of its own; it is
spared only the start of Python and its imports, which cost several times what most commands do. A test of that start,
of memory, of what `ps` shows, or one that reads a pipe while the program runs, takes `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LONGEST = 1 << 17
"""Bytes of a request: arguments and environment."""


class Child:
    """What is used of `subprocess.Popen`, of a process that is forked.

    `argv` is what follows `python`: `-m` and a module, `-c` and code, or a file; then arguments. Its standard input is
    empty. Without a file for its standard output, that is the pipe `stdout`.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str],
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> None:
        self.args = [os.fspath(each) for each in argv]
        self.returncode: int | None = None
        self._said, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # two numbers, each by itself
        asked = {"argv": self.args, "env": dict(env), "cwd": os.fspath(Path.cwd())}
        with contextlib.ExitStack() as given:
            given.enter_context(theirs)
            nothing = given.enter_context(Path(os.devnull).open("rb"))
            if stdout is None:
                ours, end = os.pipe()
                self.stdout = os.fdopen(ours)  # the caller closes it
                stdout = given.enter_context(os.fdopen(end, "wb"))
            files = [theirs.fileno(), nothing.fileno(), stdout.fileno(), 2 if stderr is None else stderr.fileno()]
            _parent().ask(json.dumps(asked).encode(), files)
        self.pid = self._heard()

    def _heard(self) -> int:
        said = self._said.recv(16)
        assert said, "the process that forks is gone"
        return int(said)

    def poll(self) -> int | None:
        """The exit status, if it has ended; minus the signal's number, if a signal ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            with selectors.DefaultSelector() as ready:
                ready.register(self._said, selectors.EVENT_READ)
                if not ready.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._heard()
            self._said.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


def run(
    argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with nothing on standard input; what it said. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = Child(argv, env=env, stdout=out, stderr=err)
        try:
            status = child.wait(timeout)
        finally:
            child.kill()
        for each in (out, err):
            each.seek(0)
        return subprocess.CompletedProcess(child.args, status, out.read(), err.read())


class _Parent:
    """The process that forks, as the tests see it. The children are measured, it is not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.forking", str(theirs.fileno())],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def ask(self, request: bytes, files: list[int]) -> None:
        """Have it fork. The first of the files is the socket that it answers to, the others are the child's own."""
        assert len(request) <= LONGEST
        with self._lock:
            socket.send_fds(self._control, [request], files)

    def close(self) -> None:
        """End it, and what it has forked."""
        self._control.close()
        self._process.wait(20)


@functools.cache
def _parent() -> _Parent:
    """The one of this process."""
    parent = _Parent()
    atexit.register(parent.close)
    return parent
