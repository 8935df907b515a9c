#!/usr/bin/env python3
"""Make the environment of the server (`.vestry/server`) or of the tests (`.venv`), from the lock files.

    python3 deploy/bootstrap.py [--as-is] server|tests

Needs nothing but Python 3.11 to 3.14 and its standard library. Every package is a wheel whose hash the lock
file names; the project itself is built into a wheel and installed from it. A stamp in the environment holds
a digest of the lock files and of the sources, so that a second run with nothing changed does nothing, and one
with changed sources needs no network.

A Python that was compiled without optimizations, as pyenv does by default, takes up to twice the time for
everything: unless `--as-is` is given, the distribution's own takes its place, where that is one of these. So does any
of them that the machine has, where this Python is an older or newer one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".vestry"
LEAST = (3, 11)
NEWEST = (3, 14)  # the last that vLLM, and all else that the lock files name, is made for
DISTRIBUTION = Path("/usr/bin/python3")
AS_IS = "--as-is"
# Not that of a virtual environment that is active, which may be the very one that is to be made; and by one name.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
USAGE = f"usage: python3 deploy/bootstrap.py [{AS_IS}] server|tests"
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "--python")
LOCKED = ("install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirement")
PROJECT = ("pyproject.toml", "README.md", "LICENSE")
PATIENT = ("-o", "DPkg::Lock::Timeout=300")  # a machine that was just made installs its own updates
GRACE_SECONDS = 5
LITTLE_MIB = 300  # the server's environment takes 100


class BootstrapError(Exception):
    """A step did not work. The message is for the person at the terminal."""


class Target:
    """One environment: where it is and which locks fill it, with bytecode for all of it or as it comes to be used."""

    def __init__(self, folder: Path, *locks: Path, compiled: bool = True) -> None:
        self.folder = folder
        self.locks = locks
        self.options = () if compiled else ("--no-compile",)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def here(self) -> tuple[str | Path, ...]:
        """Options that have pip install here, whatever the user's variables and pip.conf say of a place."""
        return "--target", "", "--prefix", self.folder, "--root", "/"


TARGETS = {
    "server": Target(STATE / "server", ROOT / "server" / "requirements.lock"),
    "tests": Target(ROOT / ".venv", ROOT / "tests" / "requirements.lock", compiled=False),
}
BUILD = Target(STATE / "build", ROOT / "server" / "build.lock")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is a command


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, then how long it took."""
    say(f"  {what} ...")
    began = time.monotonic()
    yield
    say(f"  {what}: done in {time.monotonic() - began:.0f} s")


def run(what: str, *argv: str | Path) -> None:
    """Run a command; raise BootstrapError with its last words if it fails."""
    run_all(what, [argv])


def run_all(what: str, commands: Iterable[Sequence[str | Path]]) -> None:
    """Run commands side by side; raise BootstrapError with the last words of one that fails. None outlives this."""
    # What lies on the user's PYTHONPATH would count as installed already: the environment would lack it.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ |= {"PIP_USER": "0", "PIP_DRY_RUN": "0"}
    with contextlib.ExitStack() as stack:
        started = []
        for command in commands:
            said = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            argv = [str(each) for each in command]
            process = subprocess.Popen(
                argv, env=environ, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, close_fds=False
            )
            stack.callback(end, process)
            started.append((process, said))
        for process, said in started:
            if process.wait():
                said.seek(0)
                raise BootstrapError(
                    f"{what} failed (exit status {process.returncode}). What it said last:\n{last_words(said.read())}"
                )


def end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started, unless it has ended well: pip runs another pip, and does not end it when killed.

    They have a session of their own, where a terminal's Ctrl-C does not come: it is passed on, and what is left killed.
    """
    if process.returncode == 0:
        return
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def shares(lock: Path, folder: Path) -> list[Path]:
    """A lock in two parts, in files under `folder`: pip takes one package after the other, and leaves a core idle."""
    packages = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    parts = []
    for number, part in enumerate(filter(None, (packages[::2], packages[1::2]))):
        parts.append(folder / f"{number}.lock")
        parts[-1].write_text("".join(part))
    return parts


def room() -> str:
    """What of the places that are written to is nearly full: hardly a program that fails of it says where."""
    said, temporary = "", os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - `tempfile` finds none where all are full
    for place in (str(ROOT), temporary):
        with contextlib.suppress(OSError):
            left = shutil.disk_usage(place).free >> 20
            said += f"\nOnly {left} MiB are left at {place}." if left < LITTLE_MIB else ""
    return said


def last_words(output: str, lines: int = 12) -> str:
    return "\n".join(f"    {line}" for line in output.strip().splitlines()[-lines:])


def digest(*paths: Path) -> str:
    """SHA-256 over the names and contents of files, and of the files in folders, and of which Python this is.

    Not its patch version: what is installed for one 3.11 works with every other, and to make it anew takes a network.
    """
    total = hashlib.sha256(f"{sys.version_info[:2]} {PYTHON}".encode())
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in files:
            if "__pycache__" not in each.parts:
                total.update(f"{each.relative_to(ROOT)}\0{hashlib.sha256(each.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def stamped(target: Target, name: str, value: str) -> bool:
    """Whether the environment carries this stamp, and its Python still runs."""
    stamp = target.folder / f"{name}.stamp"
    return stamp.is_file() and stamp.read_text().strip() == value and os.access(target.python, os.X_OK)


def stamp(target: Target, name: str, value: str) -> None:
    (target.folder / f"{name}.stamp").write_text(value + "\n")


def unstamp(folder: Path, name: str = "*") -> None:
    """Take the stamp off before what it speaks of is touched: whoever is interrupted leaves none that is untrue."""
    for each in folder.glob(f"{name}.stamp"):
        each.unlink()


def remove(folder: Path) -> None:
    unstamp(folder)
    shutil.rmtree(folder, ignore_errors=True)


def slow() -> bool:
    """Whether this Python was compiled without optimizations. Distributions do it in ways of their own."""
    built = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return sys.base_prefix != "/usr" and "--enable-optimizations" not in built


def fits(version: tuple[int, ...]) -> bool:
    """Whether there are wheels of everything for such a Python."""
    return LEAST <= version <= NEWEST


def about(python: Path) -> tuple[str, bool] | None:
    """The version of a Python that fits, and whether it can make environments; None where there is none."""
    asked = "import sys, importlib.util as u; print(*sys.version_info[:2], sep='.'); print(u.find_spec('ensurepip'))"
    try:
        argv = [str(python), "-I", "-c", asked]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return None
    return (said[0], said[1] != "None") if fits(tuple(map(int, said[0].split(".")))) else None


def others() -> Iterator[tuple[Path, str]]:
    """The Pythons that are to do the work instead of this one, the best first, and why."""
    if not fits(sys.version_info[:2]):
        why = f"is Python {sys.version_info[0]}.{sys.version_info[1]}"
        yield DISTRIBUTION, why
        names = (f"python{LEAST[0]}.{minor}" for minor in range(NEWEST[1], LEAST[1] - 1, -1))
        yield from ((Path(found), why) for found in map(shutil.which, names) if found)
    elif slow():
        yield DISTRIBUTION, "was compiled without optimizations, and takes up to twice the time"


def hand_over(name: str) -> None:
    """Go on in another Python, if this machine has one that is better; else do nothing."""
    for python, why in others():
        found = about(python)
        if found is None:
            continue
        version, able = found
        say(f"  {sys.executable} {why}; {python} does this instead")
        try:
            if not able:
                install_venv(version)
        except BootstrapError as failure:
            say(f"  it cannot be taken, though: {failure}")
            continue
        os.execv(python, [str(python), str(Path(__file__).resolve()), AS_IS, name])  # noqa: S606


def need_fitting() -> None:
    """Raises BootstrapError where this is a Python that packages are missing for."""
    if not fits(sys.version_info[:2]):
        found, (least, newest) = ".".join(map(str, sys.version_info[:3])), (f"{a}.{b}" for a, b in (LEAST, NEWEST))
        mend = f"Install one (on Debian or Ubuntu, python{newest}-venv, say) or name it: make up PYTHON=..."
        raise BootstrapError(f"Python {least} to {newest} is needed; {sys.executable} is {found}. {mend}")


def need_venv() -> None:
    """Debian and Ubuntu ship `venv` without what it needs, in a package of its own."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        install_venv(f"{sys.version_info[0]}.{sys.version_info[1]}")


def install_venv(version: str) -> None:
    """Install that package for a Python of this version, as root. Raises BootstrapError for others."""
    package = f"python{version}-venv"
    if os.geteuid() or not shutil.which("apt-get"):
        mend = f"Install it (on Debian or Ubuntu: apt-get install {package}) and run this again."
        raise BootstrapError(f"Python's venv module is missing. {mend}")
    with step(f"{package}, which Python lacks here"):
        run("apt-get update", "apt-get", "update")
        install = ("apt-get", *PATIENT, "install", "--yes", "--no-install-recommends", package)
        run(f"apt-get install {package}", *install)


def fill(target: Target, installer: Target) -> None:
    """Make the environment with what its locks name, unless it is there already.

    `installer` is the environment whose pip does it: its own, or that of another one, which spares it a pip.
    """
    put_back(target)
    wanted = digest(*target.locks)
    if stamped(target, "requirements", wanted):
        return
    need_venv()
    with one_before_kept(target):
        make(target, installer)
        stamp(target, "requirements", wanted)


def before(target: Target) -> Path:
    """Where an environment waits while another is made: they cannot be moved, so that one is made in its place."""
    return target.folder.with_name(f"{target.folder.name}.before")


@contextlib.contextmanager
def one_before_kept(target: Target) -> Iterator[None]:
    """Have room for a new environment. The one before comes back if that fails, as it does without a network."""
    if (target.folder / "requirements.stamp").exists() and not target.folder.is_symlink():
        target.folder.rename(before(target))
    try:
        yield
    finally:
        put_back(target)


def put_back(target: Target) -> None:
    """Remove the environment before, if the new one is whole; if it is not, as after a kill, the other way round."""
    if not before(target).exists():
        return
    if (target.folder / "requirements.stamp").exists():
        remove(before(target))
    else:
        remove(target.folder)
        before(target).rename(target.folder)


def make(target: Target, installer: Target) -> None:
    """An environment with what its locks name."""
    with step(f"environment {os.path.relpath(target.folder, ROOT)}"):
        remove(target.folder)
        bare = () if target is installer else ("--without-pip",)
        run("making the environment", PYTHON, "-m", "venv", *bare, target.folder)
    for lock in target.locks:
        with step(f"packages of {lock.relative_to(ROOT)}"), tempfile.TemporaryDirectory() as folder:
            command = (installer.python, *PIP, target.python, *LOCKED)
            parts = shares(lock, Path(folder))
            run_all("installing the packages", [(*command, part, *target.here, *target.options) for part in parts])


def install_project(target: Target) -> None:
    """Build the wheel with the locked build backend, and install it."""
    wanted = digest(*(ROOT / name for name in PROJECT), ROOT / "server" / "vestry", *BUILD.locks)
    if stamped(target, "project", wanted):
        return
    fill(BUILD, target)
    with step("the project's wheel"), tempfile.TemporaryDirectory() as folder:
        build = ("wheel", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", folder)
        run("building the wheel", target.python, *PIP, BUILD.python, *build, ROOT)
        unstamp(target.folder, "project")
        install = ("install", "--no-index", "--no-deps", "--force-reinstall", *target.here)
        run("installing the wheel", target.python, *PIP, target.python, *install, *Path(folder).glob("*.whl"))
    stamp(target, "project", wanted)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the state directory's lock: two of these at once would spoil each other's work.

    The programs that this starts hold it too: after kill -9 of this alone, the next run waits until they have ended.
    """
    try:
        STATE.mkdir(mode=0o700, exist_ok=True)
        held = (STATE / ".bootstrap.lock").open("w")
    except OSError as fault:
        mend = "Run this as the user whose checkout it is, or in a copy that you may write to."
        raise BootstrapError(f"nothing can be written to {STATE} ({fault.strerror}). {mend}") from None
    with held as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  waiting for another run to finish ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def terminate(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end this as Ctrl-C does, so that pip does not stay behind."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> None:
    as_is = arguments[:1] == [AS_IS]
    names = arguments[1:] if as_is else arguments
    if len(names) != 1 or names[0] not in TARGETS:
        raise BootstrapError(USAGE)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, terminate)
    if not as_is:
        hand_over(names[0])
    need_fitting()
    target = TARGETS[names[0]]
    say(f"{names[0]} environment ({os.path.relpath(target.folder, ROOT)})")
    with alone():
        fill(target, target)
        install_project(target)
    say("  ready")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (BootstrapError, OSError) as failure:
        sys.exit(f"bootstrap: {failure}{room()}")
    except KeyboardInterrupt:
        sys.exit("bootstrap: interrupted; run it again to go on")
