"""The machine: programs, disk, limits, clock, accelerators."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sqlite3
import ssl
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from vestry.diagnosis.findings import Finding, standing
from vestry.models import children, compiler
from vestry.open_files import allowed

OLDEST_SQLITE = (3, 37, 0)
LEAST_FREE = 256 << 20
LITTLE_FREE = 5 << 30
ROUNDS = 32
SLOW_SECONDS = 0.02
RELEASED = datetime(2026, 1, 1, tzinfo=UTC)
TIME_ERROR = 5


def programs() -> Iterator[Finding]:
    """Python, and the libraries that it brings."""
    version = ".".join(map(str, sys.version_info[:3]))
    said = f"Python {version}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        yield Finding("python", "fail", said, "Use a Python whose SQLite is 3.37 or newer")
    elif not optimized():
        mend = "A call costs a fifth more CPU: use the distribution's Python, or one made with --enable-optimizations"
        yield Finding("python", "warn", f"{said}; compiled without optimizations", mend)
    else:
        yield Finding("python", "ok", said)


def optimized() -> bool:
    """Whether this Python was compiled with optimizations. Distributions optimize theirs in ways of their own."""
    return sys.base_prefix == "/usr" or "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))


def packages(name: str = "vestry") -> Iterator[Finding]:
    """The packages that this one asks for, against what is installed."""
    try:
        wanted = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        mend = "Install it: make up"
        yield Finding("packages", "warn", f"{name} is not installed as a package, so versions are not known", mend)
        return
    faults: list[str] = []
    known = 0
    for requirement in wanted:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:>=([0-9.]+))?", requirement.replace(" ", ""))
        if match is None:
            continue  # one with a marker or another bound: the installer has judged it
        try:
            found = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            faults.append(f"{match[1]} is missing")
            continue
        known += 1
        if match[2] and _numbers(found) < _numbers(match[2]):
            faults.append(f"{match[1]} is {found}, older than {match[2]}")
    if faults:
        yield Finding("packages", "fail", "; ".join(faults), "Install the locked versions: make up")
    else:
        yield Finding("packages", "ok", f"{name} {metadata.version(name)}, and {known} packages that it asks for")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def disk(path: Path) -> Iterator[Finding]:
    """Free space where the state is."""
    usage = shutil.disk_usage(standing(path))
    said = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f} at {standing(path)}"
    if usage.free < LEAST_FREE:
        yield Finding("disk", "fail", said, "Free some: when the record cannot be written, nothing is served")
    elif usage.free < LITTLE_FREE:
        yield Finding("disk", "warn", said, f"Free some. {children.ROOM}")
    else:
        yield Finding("disk", "ok", said)


def durability(path: Path, commit_seconds: float) -> Iterator[Finding]:
    """How long fdatasync(2) takes where the record is: every call waits for it twice."""
    folder = standing(path)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            times = [_synced(file.fileno()) for _ in range(ROUNDS)]
    except OSError as error:
        yield Finding("durability", "fail", f"{folder} cannot be written to ({error.strerror})", "Make it writable")
        return
    usual, worst = statistics.median(times), max(times)
    said = f"fdatasync takes {usual * 1000:.2f} ms, at worst {worst * 1000:.2f} ms, in {folder}"
    if worst >= commit_seconds:
        mend = f"Use another disk for `audit.directory`: calls are refused beyond {commit_seconds:g} s"
        yield Finding("durability", "fail", said, mend)
    elif usual > SLOW_SECONDS:
        yield Finding("durability", "warn", said, "Use a faster disk for `audit.directory`: every call waits for it")
    else:
        yield Finding("durability", "ok", said)


def _synced(descriptor: int) -> float:
    os.write(descriptor, b"x" * 1024)
    began = time.perf_counter()
    os.fdatasync(descriptor)
    return time.perf_counter() - began


def open_files(wanted: int) -> Iterator[Finding]:
    """The limit on open files that the server may raise its own to, against what the settings allow."""
    most = allowed()
    said = f"{'unlimited' if most is None else most} open files, {wanted} wanted"
    if most is not None and most < wanted:
        mend = f"Raise it (ulimit -Hn {wanted}, or LimitNOFILE= in systemd), or lower `door.connections`"
        yield Finding("open files", "warn", said, mend)
    else:
        yield Finding("open files", "ok", said)


def clock() -> Iterator[Finding]:
    """The wall clock: certificates, keys and records depend on it."""
    now = datetime.now(UTC)
    said = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < RELEASED:
        yield Finding(
            "clock", "fail", f"{said} is in the past", "Set the clock, and keep it set (chrony, systemd-timesyncd)"
        )
        return
    kept = _synchronised()
    if kept is False:
        mend = "Keep it set by chrony or systemd-timesyncd: the record's times depend on it"
        yield Finding("clock", "warn", f"{said}; nothing keeps the clock right", mend)
    else:
        yield Finding("clock", "ok", said + ("; kept right by the system" if kept else ""))


def _synchronised() -> bool | None:
    """Whether the kernel says so (adjtimex(2), which only reads here); None where it cannot be asked."""
    empty = ctypes.create_string_buffer(1024)  # struct timex, modes = 0
    state = ctypes.CDLL(None, use_errno=True).adjtimex(empty)
    return None if state < 0 else state != TIME_ERROR


def accelerators(devices: Path = Path("/dev")) -> Iterator[Finding]:
    """NVIDIA GPUs, and the compiler that engines on them need."""
    if not list(devices.glob("nvidia[0-9]*")):
        yield Finding("gpu", "ok", "none here: engines run on the CPU")
        return
    yield from _driver()
    why = compiler.fault()
    if why is None:
        yield Finding("compiler", "ok", "there is one for engines on the GPU")
    else:
        yield Finding("compiler", "warn", f"engines on the GPU compile when they start, and {why}", compiler.MEND)


def _driver() -> Iterator[Finding]:
    program = shutil.which("nvidia-smi")
    mend = "Install the driver's nvidia-smi, and see what it says"
    if program is None:
        yield Finding("gpu", "warn", "there is a GPU, but no nvidia-smi to ask", mend)
        return
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        yield Finding("gpu", "warn", "there is a GPU, but its driver does not answer", mend)
        return
    yield Finding("gpu", "ok", "; ".join(done.stdout.strip().splitlines()))
