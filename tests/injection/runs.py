"""One run: the program under strace with one fault; then the log is opened, read, and held against its checkpoint.

A run counts only if its fault has struck. strace's trace of that call shows it: `(INJECTED)` behind a call that was
made to fail, and a call that never returned, in a process that SIGKILL ended, for one that was killed. (With strace's
`--seccomp-bpf`, which is quicker, signals are not injected at all.)
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from fakes.audit import ORIGIN, SIGNING, read
from injection.program import SEGMENT_BYTES
from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader
from vestry.audit.tlog.merkle import EMPTY_ROOT, fold, leaf_hash, node_hash
from vestry.audit.tlog.notes import Checkpoint

TESTS = Path(__file__).parents[1]
CALLS = (
    "openat", "write", "writev", "fdatasync", "fsync", "fstat,newfstatat", "close", "rename", "unlink", "mkdir",
    "ftruncate", "flock", "lseek", "read",
)  # fmt: skip
"""System calls that the writer, the notary and the opening of a log make on the log's own files."""
FAULTS = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "killed": "signal=KILL"}
LONGEST_SECONDS = 240
RECORDS = 1200
"""More than any run leaves in the log, which names its segments after the index of their first record."""
DIED = re.compile(r"(= \?|<unfinished \.\.\.>)$")


class NotStruck(AssertionError):  # noqa: N818 - what happened to the fault
    """The fault never came about: the call was not made so often, or not made at all. Such a run proves nothing."""


class Load(Struct, frozen=True):
    """What the program does: see there."""

    openings: int
    turns: int
    torn: bool = False

    def arguments(self) -> list[str]:
        return [str(self.openings), str(self.turns), *(["torn"] if self.torn else [])]


class Loads(Struct, frozen=True):
    """The load for each call: a lock is taken by openings only, a file is cut back only after part of a write, and
    files are removed where a tile is full.
    """

    usual: Load
    flock: Load
    ftruncate: Load
    unlink: Load

    def of(self, call: str) -> Load:
        return {"flock": self.flock, "ftruncate": self.ftruncate, "unlink": self.unlink}.get(call, self.usual)


LONG = Loads(usual=Load(2, 26), flock=Load(12, 2), ftruncate=Load(2, 36, torn=True), unlink=Load(2, 26))
"""One thread makes each call twenty times or more."""
SHORT = Loads(usual=Load(2, 6), flock=Load(3, 1), ftruncate=Load(2, 10, torn=True), unlink=Load(2, 16))
"""Four times or more."""


class Fault(Struct, frozen=True):
    """Which call, what becomes of it, and at which one of each thread's such calls: `3` once, `3+` from there on."""

    call: str
    kind: str
    when: str

    def __str__(self) -> str:
        return f"{self.call} {self.kind} {self.when}"


class Result(Struct, frozen=True):
    """What a run came to. `struck` counts the calls that failed, or that a thread died in. `lost` names acknowledged
    records that are not in the log, or stand there twice.
    """

    fault: Fault
    status: int
    struck: int
    acknowledged: int
    lost: list[str]


class History(Struct, frozen=True):
    """A log that has been written to and closed, and what was acknowledged: where every run begins."""

    directory: Path
    acknowledged: list[str]


def history(directory: Path) -> History:
    """Make one."""
    directory.mkdir(parents=True)
    done = _program(directory, "before", [], LONG.usual)
    assert done.returncode == 0, done.stderr.decode()
    return History(directory, done.stdout.decode().splitlines())


def made(before: History, directory: Path, call: str, loads: Loads = LONG) -> int:
    """How often the thread that makes this call most often does so, where nothing fails."""
    shutil.copytree(before.directory, directory)
    trace = directory.with_suffix(".trace")
    done = _program(directory, "during", _strace(directory, call, trace), loads.of(call))
    assert done.returncode == 0, done.stderr.decode()
    return max(Counter(line.partition(" ")[0] for line in _begun(trace, call)).values(), default=0)


def run(before: History, directory: Path, fault: Fault, loads: Loads = LONG) -> Result:
    """Inject one fault into a copy of that log, and look at what is left. Raises NotStruck, or AssertionError."""
    shutil.copytree(before.directory, directory)
    trace = directory.with_suffix(".trace")
    wanted = f"inject={fault.call}:{FAULTS[fault.kind]}:when={fault.when}"
    injecting = [*_strace(directory, fault.call, trace), "-e", wanted]
    done = _program(directory, "during", injecting, loads.of(fault.call))
    struck = _struck(fault, trace, done)
    acknowledged = [*before.acknowledged, *done.stdout.decode().splitlines()]
    open_store(directory, ORIGIN, signing=SIGNING, segment_bytes=SEGMENT_BYTES).close()
    records = read(directory)
    assert len(records) < RECORDS
    found = [f"{each['type']} {each['request_id']}" for each in records if each["type"] in {"intent", "outcome"}]
    lost = sorted(set(acknowledged) - set(found))
    lost += sorted({name for name in found if found.count(name) > 1}) if len(found) != len(set(found)) else []
    _verify(directory, records)
    return Result(fault, done.returncode, struck, len(acknowledged), lost)


def _struck(fault: Fault, trace: Path, done: subprocess.CompletedProcess[bytes]) -> int:
    """How many calls the fault struck, at least one, with the exit status that goes with it."""
    killed = fault.kind == "killed"
    begun = list(_begun(trace, fault.call))
    found = [line for line in begun if DIED.search(line)] if killed else _failed(trace)
    statuses = {-signal.SIGKILL, 128 + signal.SIGKILL} if killed else {0, 3}
    assert done.returncode in statuses or (killed and not found), (done.returncode, done.stderr.decode()[-2000:])
    if not found:
        raise NotStruck(f"{fault}: of {len(begun)} such calls none was struck; exit status {done.returncode}")
    return len(found)


def _begun(trace: Path, call: str) -> Iterator[str]:
    """The lines of a trace with which a call begins: `PID call(...`."""
    names = tuple(f"{name}(" for name in call.split(","))
    for line in trace.read_text(errors="replace").splitlines():
        if line.partition(" ")[2].lstrip().startswith(names):
            yield line


def _failed(trace: Path) -> list[str]:
    return [line for line in trace.read_text(errors="replace").splitlines() if line.endswith("(INJECTED)")]


def _verify(directory: Path, records: list[dict[str, Any]]) -> None:
    """The checkpoint covers everything, is the house's, and its root is that of the records; no call is open."""
    reader = LogReader(directory / ORIGIN)
    head = Checkpoint.open(reader.note() or "", SIGNING.signer.public.of(ORIGIN))
    assert head.size == len(records)
    assert head.root == root(leaf for _, leaf in reader.leaves())
    begun = {each["request_id"] for each in records if each["type"] == "intent"}
    ended = {each["request_id"] for each in records if each["type"] in {"outcome", "intent.closed"}}
    assert begun <= ended, "a call has neither an outcome nor a close"


def root(leaves: Iterator[bytes]) -> bytes:
    """Root of a tree, by RFC 6962's definition and nothing of the server's tree."""
    whole: list[tuple[int, bytes]] = []
    for leaf in leaves:
        level, value = 0, leaf_hash(leaf)
        while whole and whole[-1][0] == level:
            value = node_hash(whole.pop()[1], value)
            level += 1
        whole.append((level, value))
    return fold([value for _, value in whole]) if whole else EMPTY_ROOT


def _program(directory: Path, name: str, before: list[str], load: Load) -> subprocess.CompletedProcess[bytes]:
    """Run the program, which prints what it acknowledged."""
    environ = {each: value for each, value in os.environ.items() if not each.startswith("COVERAGE_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.run(
        [*before, sys.executable, "-m", "injection.program", str(directory), name, *load.arguments()],
        env=environ,
        capture_output=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )


def _strace(directory: Path, call: str, trace: Path) -> list[str]:
    paths = [word for path in _paths(directory) for word in ("-P", str(path))]
    return ["strace", "-f", "-qq", "-o", str(trace), "-e", "signal=none", "-e", f"trace={call}", *paths]


def _paths(directory: Path) -> Iterator[Path]:
    """Every file that the log may touch in a run; strace takes no pattern, and counts calls on these only."""
    home = directory / ORIGIN
    yield from (directory, directory / "origins", directory / "origins.new", directory / "origins.lock", home)
    yield from (home / name for name in ("lock", "checkpoint", "checkpoint.new"))
    yield from (home / name for name in ("tile", "tile/0", "tile/1", "tile/entries"))
    yield from (home / f"{index:018d}.jsonl" for index in range(RECORDS))
    for level in ("0", "1", "entries"):
        for number in range(4):
            tile = home / "tile" / level / f"{number:03d}"
            yield tile
            yield Path(f"{tile}.p")
            yield from (Path(f"{tile}.p") / str(width) for width in range(1, 256))
