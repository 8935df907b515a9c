"""Keep a program running: start it, wait until it answers, start it again after a crash, stop it without remains.

The program runs under a keeper (`keeper.py`) in a session of its own: whatever ends - the program, the keeper or
this process, by whatever signal - nothing that the program started is left. A program counts as ready when it answers
200 at its health address, and as hung when it has not done so for `hang_seconds`; a hung one is started anew.

    starting -> ready -> backing off -> starting ...        and from each of them -> stopped

After each crash the wait doubles, with some chance in it so that many do not start at once, and a program that
stayed ready for a while begins again with the shortest wait. A program that ends several times without ever
having been ready is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from vestry.models.catalog import ModelError
from vestry.models.children import kept
from vestry.models.journal import Journal

POLL_SECONDS = 0.25
WATCH_SECONDS = 2.0
ANSWER_SECONDS = 5.0
SPARE_SECONDS = 5.0
VMSTAT = Path("/proc/vmstat")
STARVED = re.compile(r"^oom_kill ([0-9]+)$", re.MULTILINE)
LISTENING = "0A"
"""As the kernel writes the state of a socket."""
REMEMBERED = 300  # lines: a start of vLLM, with its tracebacks
SHOWN = 20
ERRORS = 5
RAISED = re.compile(r"(?:^|\] )([A-Za-z_][\w.]*(?:Error|Exception)(?:: .*)?)$")
"""What was raised, as a traceback ends with it; vLLM puts `(Core pid=7) ERROR 11-26 [core.py:9] ` before lines."""


class State(StrEnum):
    """What a supervised program is doing."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    STOPPED = "stopped"


class Program(Struct, frozen=True):
    """A program to be kept running.

    `health` is an http URL that answers 200 once the program is ready; `live` one that answers 200 as long as it
    works at all (left out: `health`); one that answers there waits for others, and is not started anew for it.
    `start_seconds` is its time to get ready (`told`: the setting of it), `stop_seconds` that to finish after SIGTERM.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    health: str
    live: str = ""
    start_seconds: float = 900
    told: str = ""
    stop_seconds: float = 30
    hang_seconds: float = 60


class Patience(Struct, frozen=True):
    """Waits between starts, in seconds; `stable_seconds` of readiness forget earlier crashes; `attempts` is how
    often a program that was never ready is started before it is given up."""

    shortest: float = 1
    longest: float = 30
    stable_seconds: float = 60
    attempts: int = 3

    def wait(self, crashes: int) -> float:
        """How long to wait after so many crashes in a row: doubled each time, within a fifth of chance."""
        chance = 0.8 + secrets.randbelow(401) / 1000
        return float(min(self.longest, self.shortest * 2 ** min(crashes - 1, 16))) * chance


class NeverReadyError(ModelError):
    """The program never got ready. The message holds its last words."""


Observer = Callable[[State, str], None]


def _unobserved(_state: State, _detail: str) -> None:
    """The default observer: looks away."""


class Supervisor:
    """Runs one program. `run` is the whole life; the other methods may be called from anywhere in the same loop."""

    def __init__(
        self,
        program: Program,
        *,
        patience: Patience | None = None,
        observer: Observer = _unobserved,
        echo: Callable[[bytes], None] | None = None,
    ):
        self.program = program
        self.state = State.STARTING
        self.restarts = 0
        self.pid: int | None = None
        """The keeper's process id, which is also the session's; None while nothing runs."""
        self._patience = patience or Patience()
        self._observer = observer
        self._echo = echo
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._ever_ready = False
        self._ready_since = 0.0
        self._last: deque[str] = deque(maxlen=REMEMBERED)

    async def run(self) -> None:
        """Keep the program running until `stop` is called. Raises NeverReadyError."""
        crashes = 0
        try:
            while not self._stop.is_set():
                self._become(State.STARTING)
                why, stable = await self._started()
                if self._stop.is_set():
                    break
                crashes = 1 if stable else crashes + 1
                if not self._ever_ready and crashes >= self._patience.attempts:
                    raise NeverReadyError(self._last_words(why, crashes))
                wait = self._patience.wait(crashes)
                self.restarts += 1
                self._become(State.BACKING_OFF, f"{why}; starting it again in {wait:.1f} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), wait)
        finally:
            self._become(State.STOPPED)

    def stop(self) -> None:
        """Ask the program to end; `run` returns when it has."""
        self._stop.set()

    async def ready(self) -> None:
        """Wait until the program answers."""
        await self._ready.wait()

    def _become(self, state: State, detail: str = "") -> None:
        self.state = state
        if state is State.READY:
            self._ever_ready = True
            self._ready_since = time.monotonic()
            self._ready.set()
        else:
            self._ready.clear()
        self._observer(state, detail)

    async def _started(self) -> tuple[str, bool]:
        """As `_once`; what keeps it from being started, such as memory that is short or a full disk, may pass."""
        try:
            return await self._once()
        except OSError as fault:
            return f"it cannot be started: {fault.strerror or fault}", False

    async def _once(self) -> tuple[str, bool]:
        """One life of the program: why it ended, and whether it had been ready for long."""
        program = self.program
        before = starved()
        with Journal(program.log) as journal:
            reading, writing = os.pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *kept(program.argv, program.stop_seconds),
                    env=program.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            except BaseException:
                os.close(reading)
                raise
            finally:
                os.close(writing)
            self.pid = process.pid
            output = asyncio.create_task(self._carry(reading, journal))
            watch = asyncio.create_task(self._watch())
            stop = asyncio.create_task(self._stop.wait())
            ended = asyncio.create_task(process.wait())
            try:
                await asyncio.wait({watch, stop, ended}, return_when=asyncio.FIRST_COMPLETED)
                why = self._why(ended, watch)
            finally:
                calm = time.monotonic() - self._ready_since
                stable = self.state is State.READY and calm >= self._patience.stable_seconds
                watch.cancel()
                stop.cancel()
                await self._end(process, gently=not watch.done() and self._stop.is_set())
                self.pid = None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(output, SPARE_SECONDS)
        if starved() > before:
            why += "; since it began the kernel has killed a process here for want of memory (`dmesg` tells which)"
        return why, stable

    @staticmethod
    def _why(ended: asyncio.Task[int], watch: asyncio.Task[str]) -> str:
        if ended.done():
            status = ended.result()
            if status > 128:
                name = signal.strsignal(status - 128) or str(status - 128)
                return f"it was ended by a signal ({name.lower()})"
            return f"it ended with exit status {status}"
        return watch.result() if watch.done() else "it was told to stop"

    async def _end(self, process: asyncio.subprocess.Process, *, gently: bool) -> None:
        """End the program and all that it started. `gently` gives it its time; otherwise it is killed."""
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM if gently else signal.SIGUSR1)
        patience = self.program.stop_seconds + SPARE_SECONDS if gently else SPARE_SECONDS
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            sweep(process.pid)

    async def _watch(self) -> str:
        """Wait until the program is ready, then until it hangs. Returns why it is to be started anew."""
        program = self.program
        deadline = time.monotonic() + program.start_seconds
        while not (await answers(program.health) and self._own(program.health)):
            if program.live and await answers(program.live):
                deadline = time.monotonic() + program.start_seconds
            if time.monotonic() > deadline:
                told = f", see `{program.told}`" if program.told else ""
                return f"it was not ready within {program.start_seconds:g} s{told}"
            await asyncio.sleep(POLL_SECONDS)
        self._become(State.READY)
        answered = time.monotonic()
        while time.monotonic() - answered < program.hang_seconds:
            await asyncio.sleep(WATCH_SECONDS)
            if await answers(program.live or program.health):
                answered = time.monotonic()
        return f"it has not answered for {program.hang_seconds:.0f} s"

    def _own(self, url: str) -> bool:
        """Whether it is this program that listens there: another's, which took the port first, answers just so."""
        return self.pid is not None and listens(self.pid, urlsplit(url).port or 80)

    async def _carry(self, reading: int, journal: Journal) -> None:
        """Carry the program's output to its log, and to `echo`.

        The pipe is our own: asyncio's would keep `process.wait` waiting for as long as an orphan holds its end.
        """
        reader = asyncio.StreamReader()
        pipe = os.fdopen(reading, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while piece := await reader.read(65_536):
                journal.write(piece)
                self._last.extend(piece.decode(errors="replace").splitlines())
                if self._echo is not None:
                    self._echo(piece)
        finally:
            transport.close()

    def _last_words(self, why: str, attempts: int) -> str:
        """What it raised of late, the cause first; where that was nothing, the end of what it said."""
        raised = dict.fromkeys(found[1] for line in self._last if (found := RAISED.search(line)))
        lines = list(raised)[:ERRORS] or list(self._last)[-SHOWN:]
        words = "".join(f"\n    {line}" for line in lines)
        return f"{self.program.name} did not start ({attempts} attempts; {why}). Its log is {self.program.log}.{words}"


def members(session: int) -> Iterator[Path]:
    """The folders in /proc of a session's processes. (Field 6 of /proc/PID/stat, proc(5).)"""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session:
                    yield entry


def sweep(session: int) -> None:
    """Kill what is left of a session whose keeper has gone."""
    for entry in members(session):
        with contextlib.suppress(OSError):
            os.kill(int(entry.name), signal.SIGKILL)


def listens(session: int, port: int) -> bool:
    """Whether a process of this session listens on this TCP port (/proc/net/tcp and /proc/PID/fd, proc(5))."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for entry in members(session):
        with contextlib.suppress(OSError):
            for file in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):  # it was closed meanwhile
                    if str(file.readlink()) in sockets:
                        return True
    return False


def starved() -> int:
    """How many processes the kernel has killed for want of memory, a container's or the machine's, since it came up."""
    with contextlib.suppress(OSError):
        if found := STARVED.search(VMSTAT.read_text()):
            return int(found[1])
    return 0


async def answers(url: str) -> bool:
    """Whether a GET of this http URL is answered with 200 in time."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode("ascii"))
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    return status.split(b" ")[1:2] == [b"200"]
