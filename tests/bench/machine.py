"""What the bench needs of the machine: cores, programs, processes and their figures from `/proc`.

Every failure is a `BenchError` whose text is a sentence for the person who ran the bench. Times are
seconds, sizes bytes, unless a name says otherwise.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestry.diagnosis.machine import optimized

SOURCES = Path(__file__).resolve().parent
REPOSITORY = SOURCES.parent.parent
CPU_CLOCK = 2
"""As clock_getcpuclockid(3) makes a process's clock of its id: its CPU time to the nanosecond."""
TICKS = os.sysconf("SC_CLK_TCK")
VOLATILE = {"tmpfs", "ramfs"}


class BenchError(Exception):
    """The bench cannot go on; the text says why and what would mend it."""


@dataclass(frozen=True)
class Cores:
    """Which core runs the server under test, and which one the mock engine and the load."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """The first two cores that this process may use. Raises BenchError where there is one only."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise BenchError("The bench needs two cores: one for the server under test, one for the load.")
        return cls(server=usable[0], load=usable[1])


def program(name: str, package: str) -> str:
    """Path of a program; `package` is Debian's package that has it."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise BenchError(f"`{name}` is not installed: run `apt-get install {package}` and start the bench again.")
    return found


def nginx() -> str:
    """Path of nginx, installed with apt-get where it is missing and this is root."""
    found = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # RUNLEVEL=1: do not start it
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "nginx"]):
            subprocess.run(["apt-get", "-qq", *arguments], env=quiet, capture_output=True, check=False)
    return program("nginx", "nginx")


def build(folder: Path) -> tuple[Path, Path]:
    """Compile the load generator and the mock engine into `folder`; returns their paths."""
    compiler = program("gcc", "gcc libc6-dev")
    built = []
    for name in ("loadgen", "mockvllm"):
        target = folder / name
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(SOURCES / f"{name}.c"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"gcc could not build {name}.c:\n{done.stderr.strip()}")
        built.append(target)
    return built[0], built[1]


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody uses at the moment."""
    held = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()


@dataclass
class Process:
    """A program started by the bench, stopped by its own process id and never by name."""

    name: str
    command: Sequence[str]
    log: Path
    core: int | None = None
    environment: Mapping[str, str] | None = None
    patience: float = 15
    """How long `stop` waits after SIGTERM."""
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Process:
        pinned = [program("taskset", "util-linux"), "-c", str(self.core)] if self.core is not None else []
        with self.log.open("wb") as sink:
            self.child = subprocess.Popen(
                [*pinned, *self.command], stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=self.environment
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self.child is None:
            raise BenchError(f"{self.name} has not been started.")
        return self.child.pid

    def stop(self) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its tree after `patience`."""
        child = self.child
        if child is None or child.poll() is not None:
            return
        tree = list(self.tree())
        child.terminate()
        try:
            child.wait(self.patience)
        except subprocess.TimeoutExpired:
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait()
            deadline = time.monotonic() + 5
            while any(runs(pid) for pid in tree) and time.monotonic() < deadline:
                time.sleep(0.01)

    def tree(self) -> Iterator[int]:
        """Process ids of the program and of all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (stat := _stat(int(entry.name))):
                children.setdefault(int(stat[1]), []).append(int(entry.name))
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            waiting.extend(children.get(pid, ()))

    def cpu_seconds(self) -> float:
        """User and system time of all processes and threads so far, reaped children included (these in whole ticks)."""
        total = 0.0
        for pid in self.tree():
            if stat := _stat(pid):
                with contextlib.suppress(OSError):
                    total += time.clock_gettime(~pid << 3 | CPU_CLOCK) + sum(map(int, stat[13:15])) / TICKS
        return total

    def memory(self) -> tuple[int, int]:
        """Resident size now and its peak, in bytes, summed over the processes."""
        now = peak = 0
        for pid in self.tree():
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.startswith("Vm")}
            now += int(sizes.get("VmRSS", 0)) * 1024
            peak += int(sizes.get("VmHWM", 0)) * 1024
        return now, peak

    def settle(self, limit: float = 3.0) -> None:
        """Wait until the processes rest, for at most `limit` seconds."""
        deadline, before = time.monotonic() + limit, self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.cpu_seconds()
            if now - before < 0.02:
                return
            before = now

    def require_alive(self) -> None:
        """Raise BenchError, with the end of the log, if the program has ended."""
        if self.child is not None and self.child.poll() is not None:
            raise BenchError(f"{self.name} ended with status {self.child.returncode}.\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for(self, ready: Callable[[], bool], limit: float) -> None:
        """Return when `ready` says so. Raises BenchError after `limit` seconds, or when the program ends."""
        deadline = time.monotonic() + limit
        while not ready():
            self.require_alive()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} was not ready after {limit:.0f} s.\n{self.last_words()}")
            time.sleep(0.05)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command's name: state, parent, ...; None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def runs(pid: int) -> bool:
    """Whether this process is there and has not ended."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in {"Z", "X"}


def get(port: int, path: str, timeout: float = 5) -> tuple[int, str]:
    """One GET to 127.0.0.1; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def filesystem(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount = Path(line.split()[1].encode().decode("unicode_escape"))
        if (mount == folder or mount in folder.parents) and len(mount.parts) >= len(best.parts):
            best, kind = mount, line.split()[2]
    return kind


def fdatasync_times(folder: Path, count: int = 200, rest: float = 0.0) -> tuple[float, float]:
    """Median and 99th percentile, in seconds, of a 600 byte append with fdatasync in `folder`.

    `rest` is how many seconds lie between two: a disk, and a processor, that have slept take longer.
    """
    times = []
    path = folder / "fdatasync"
    with path.open("ab", buffering=0) as sink:
        for _ in range(count):
            time.sleep(rest)
            began = time.perf_counter()
            sink.write(b"x" * 600)
            os.fdatasync(sink.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def describe() -> dict[str, str]:
    """The machine and the interpreter, in words that belong beside the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": os.uname().release,
        "python": f"{platform.python_version()} ({'an' if optimized() else 'not an'} optimized build)",
    }
