"""The process that has imported the product, and forks for each program that `forks.py` asks it for.

It has one thread and nothing open but its sockets, so a child has nothing of it but the modules. The child is measured
by coverage if its environment says so, as a Python that is started anew is; it ends as any Python does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
from typing import NamedTuple

import coverage

import vestry
from support.forks import LONGEST

ELSEWHERE = ("vestry.__main__", "vestry.models.inside", "vestry.models.guard", "vestry.adapters.directory.migrations")
"""Not to be imported: a program, and what runs in the engine's environment or in Alembic's."""
HELPERS = ("fakes.audit", "fakes.calls", "support.keys")
"""What programs of the tests themselves import."""


class Asked(NamedTuple):
    """A program, and where it runs."""

    argv: list[str]
    env: dict[str, str]
    cwd: str

    def run(self, files: list[int]) -> None:
        """In the child: take over its files, folder and environment, and run it as `python` does."""
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.setsid()  # what it sends to its own group stays there
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.env)
        coverage.process_startup(force=True)
        kind, *arguments = self.argv
        if kind in {"-m", "-c"}:
            what, *arguments = arguments
        sys.argv = [kind, *arguments]
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(kind, run_name="__main__")


class Forker:
    """Forks for each request until the tests are gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ready = selectors.DefaultSelector()
        self._ready.register(control, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that says that it has ended

    def serve(self) -> tuple[Asked, list[int]] | None:
        """Return twice, as fork does: in each child with its program and its files, here with None in the end."""
        while True:
            for key, _ in self._ready.select():
                if key.fd in self._children:
                    self._ended(key.fd)
                    continue
                message, given, *_ = socket.recv_fds(self._control, LONGEST, 4)
                if not message:
                    self._end()
                    return None
                answer, *files = given
                pid = os.fork()
                if pid == 0:
                    self._forget()
                    os.close(answer)
                    return Asked(**json.loads(message)), files
                self._remember(pid, socket.socket(fileno=answer))
                for file in files:
                    os.close(file)

    def _remember(self, pid: int, answer: socket.socket) -> None:
        _say(answer, pid)
        end = os.pidfd_open(pid)
        self._children[end] = (pid, answer)
        self._ready.register(end, selectors.EVENT_READ)

    def _ended(self, end: int) -> None:
        self._ready.unregister(end)
        os.close(end)
        pid, answer = self._children.pop(end)
        _say(answer, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        answer.close()

    def _forget(self) -> None:
        """Close what is the parent's."""
        self._ready.close()
        self._control.close()
        for end, (_, answer) in self._children.items():
            os.close(end)
            answer.close()

    def _end(self) -> None:
        for end in self._children:
            signal.pidfd_send_signal(end, signal.SIGKILL)


def _say(answer: socket.socket, number: int) -> None:
    """Tell the tests, unless they no longer listen."""
    try:
        answer.send(b"%d" % number)
    except BrokenPipeError:
        return


def _import(name: str, path: list[str]) -> None:
    """Import all that is in a package."""
    for found in pkgutil.iter_modules(path, f"{name}."):
        if found.name not in ELSEWHERE:
            module = importlib.import_module(found.name)
            if found.ispkg:
                _import(found.name, list(module.__path__))


def main() -> None:
    """Import everything, then serve the socket that is named on the command line."""
    _import("vestry", list(vestry.__path__))
    for name in HELPERS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child's collector leaves these pages alone, so they stay shared
    asked = Forker(socket.socket(fileno=int(sys.argv[1]))).serve()
    if asked is not None:
        program, files = asked
        program.run(files)


if __name__ == "__main__":
    main()
