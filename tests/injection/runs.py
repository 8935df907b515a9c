"""One run: the program under strace with one fault; then the log is opened, read, and held against its checkpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
    "openat", "write", "fdatasync", "fsync", "fstat,newfstatat", "close", "rename", "unlink", "mkdir", "ftruncate",
    "flock", "lseek", "read",
)  # fmt: skip
"""System calls that the writer, the notary and the opening of a log make on the log's own files."""
FAULTS = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "killed": "signal=KILL"}
LONGEST_SECONDS = 60
RECORDS = 900


class Fault(Struct, frozen=True):
    """Which call, what becomes of it, and at which one of each thread's such calls: `3` once, `3+` from there on."""

    call: str
    kind: str
    when: str

    def __str__(self) -> str:
        return f"{self.call} {self.kind} {self.when}"


class Result(Struct, frozen=True):
    """What a run came to. `lost` names acknowledged records that are not in the log, or stand there twice."""

    fault: Fault
    status: int
    acknowledged: int
    lost: list[str]


class History(Struct, frozen=True):
    """A log that has been written to and closed, and what was acknowledged: where every run begins."""

    directory: Path
    acknowledged: list[str]


def history(directory: Path) -> History:
    """Make one."""
    directory.mkdir(parents=True)
    return History(directory, _program(directory, "before", [])[0])


def run(before: History, directory: Path, fault: Fault) -> Result:
    """Inject one fault into a copy of that log, and look at what is left. Raises AssertionError."""
    shutil.copytree(before.directory, directory)
    injected, status = _program(directory, "during", _strace(directory, fault))
    acknowledged = [*before.acknowledged, *injected]
    open_store(directory, ORIGIN, signing=SIGNING, segment_bytes=SEGMENT_BYTES).close()
    records = read(directory)
    found = [f"{each['type']} {each['request_id']}" for each in records if each["type"] in {"intent", "outcome"}]
    lost = sorted(set(acknowledged) - set(found))
    lost += sorted({name for name in found if found.count(name) > 1}) if len(found) != len(set(found)) else []
    _verify(directory, records)
    return Result(fault, status, len(acknowledged), lost)


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


def _program(directory: Path, turn: str, before: list[str]) -> tuple[list[str], int]:
    """Run the program; the names that it acknowledged, and its exit status."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [*before, sys.executable, "-m", "injection.program", str(directory), turn],
        env={**os.environ, "PYTHONPATH": path, "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode in {0, 3, -9, 137}, done.stderr.decode()[-2000:]
    return done.stdout.decode().splitlines(), done.returncode


def _strace(directory: Path, fault: Fault) -> list[str]:
    paths = [word for path in _paths(directory) for word in ("-P", str(path))]
    injected = [f"{fault.call}:{FAULTS[fault.kind]}:when={fault.when}"]
    if fault.call == "ftruncate":  # the log cuts back only after a write that failed
        injected.append("write:error=ENOSPC:when=6")
    return ["strace", "-f", "-qq", "-o", "/dev/null", *paths, *(w for i in injected for w in ("-e", f"inject={i}"))]


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
