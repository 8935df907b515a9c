"""Building the image without a daemon, and running it as a container engine would. Needs root, buildah, mmdebstrap.

The base is what Python needs of a Debian, unpacked by mmdebstrap; the wheels are fetched here and the build itself has
no network. All three are kept under `.vestry/cache/`, by what they were made of, so that a second run is quick.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".vestry" / "cache"
LOCKS = (ROOT / "server" / "build.lock", ROOT / "server" / "requirements.lock")
TOOLS = ("buildah", "mmdebstrap", "unshare", "setpriv", "chroot")
RELEASE = "bookworm"
RELEASE_PYTHON = "3.11"
DOCUMENTATION = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")
PACKAGES = "base-files,coreutils,dash,libc-bin,libstdc++6,python3,python3-venv"
MERGED = Path("/usr/share/mmdebstrap/hooks/merged-usr")
BASE = f"localhost/vestry-unpacked-{RELEASE}"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
UV = Path(sys.executable).parent / "uv"
LOCKED = ("--require-hashes", "--only-binary", ":all:", "--no-deps")


def missing() -> list[str]:
    """The tools that building images takes, and that are not here."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def possible() -> bool:
    """Whether images can be built here."""
    return os.geteuid() == 0 and not missing()


def need_root_and_tools() -> None:
    """Skip, saying so, where containers cannot be built at all; fail where a tool should have been installed."""
    if os.geteuid() != 0:
        pytest.skip("building an image without a daemon needs root")
    assert not missing(), f"install {', '.join(missing())}: deploy/test-packages.txt lists what the tests need"


def run(*argv: str | Path, seconds: float = 400, **options: Any) -> str:
    """Run a command to its end; its output. Fails with its last words."""
    command = [str(each) for each in argv]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False, **options
    )
    assert done.returncode == 0, f"{' '.join(command[:4])} ...: exit status {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def buildah(*argv: str | Path) -> str:
    """buildah with a store of its own, and without namespaces."""
    store = ("--root", CACHE / "containers", "--runroot", CACHE / "containers-run", "--storage-driver", "vfs")
    return run("buildah", *store, *argv, env={**os.environ, "BUILDAH_ISOLATION": "chroot"}).strip()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process at a time: two test runners share the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*paths: Path) -> str:
    """A short digest of names and contents."""
    total = hashlib.sha256()
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in found:
            if each.is_file() and "__pycache__" not in each.parts:
                total.update(f"{each.relative_to(ROOT)}\0{each.stat().st_mode:o}\0".encode() + each.read_bytes())
    return total.hexdigest()[:16]


def installed_for(python: str, folder: Path) -> set[str]:
    """The tags of every wheel that the locks name, fetched for this Python and unpacked. Fails if one is missing."""
    _uv(python, folder)
    found = (each.read_text() for each in folder.glob("*.dist-info/WHEEL"))
    return {line.removeprefix("Tag: ") for text in found for line in text.splitlines() if line.startswith("Tag: ")}


def offered_for(python: str) -> str:
    """The packages whose locked versions have wheels for this Python; none is fetched. Fails if not all have."""
    return _uv(python, CACHE / "none", "--dry-run")


def _uv(python: str, folder: Path, *options: str) -> str:
    """Install what the locks name for this Python, which need not be here."""
    index = os.environ.get("PIP_INDEX_URL")
    environ = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    wanted = ("--python-version", python, "--python-platform", "x86_64-unknown-linux-gnu", "--target", folder)
    locks = [part for lock in LOCKS for part in ("--requirement", lock)]
    return run(UV, "pip", "install", "--no-cache", *options, *LOCKED, *wanted, *locks, env=environ)


def _wheelhouse() -> Path:
    """The wheels that the locks name for the image's Python; downloaded once."""
    folder = CACHE / f"wheelhouse-{RELEASE_PYTHON}-{digest(*LOCKS)}"
    if not folder.is_dir():
        for old in CACHE.glob(f"wheelhouse-{RELEASE_PYTHON}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            wheels = Path(draft) / "wheels"
            for lock in LOCKS:
                wanted = ("--python-version", RELEASE_PYTHON, "--dest", wheels, "--requirement", lock)
                run(*PIP, "download", *LOCKED, *wanted)
            wheels.rename(folder)
    return folder


def _base() -> None:
    """The base image: Debian's Python with what it needs, unpacked and not set up, which takes a third of the time."""
    if BASE in buildah("images", "--format", "{{.Name}}").splitlines():
        return
    archive = CACHE / f"unpacked-{RELEASE}.tar"
    if not archive.is_file():
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            packed = Path(draft) / "system.tar"
            left_out = [f"--dpkgopt=path-exclude=/{each}/*" for each in DOCUMENTATION]
            options = ("--variant=extract", f"--include={PACKAGES}", f"--hook-dir={MERGED}", "--skip=output/dev")
            run("mmdebstrap", *options, *left_out, RELEASE, packed)
            packed.rename(archive)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, archive, "/")
    buildah("commit", "--quiet", "--rm", container, BASE)


@dataclass(frozen=True)
class Image:
    """A built image, unpacked: `root` is its file system, `config` what Docker calls its configuration."""

    root: Path
    config: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """What runs when nothing else is asked for."""
        return [*self.config["Entrypoint"], *self.config["Cmd"]]


def build() -> Image:
    """Build the Dockerfile, without network, on the Debian base; or take the build of the same sources."""
    sources = (ROOT / "Dockerfile", ROOT / ".dockerignore", ROOT / "pyproject.toml", ROOT / "README.md")
    name = f"localhost/vestry-test-{digest(*sources, ROOT / 'LICENSE', ROOT / 'server', Path(__file__))}"
    with alone():
        if name not in (images := buildah("images", "--format", "{{.Name}}").splitlines()):
            buildah("rm", "--all")
            for old in (each for each in images if each.startswith("localhost/vestry-test-")):
                buildah("rmi", old)
            _base()
            offline = ("--network", "none", "--build-context", f"wheelhouse={_wheelhouse()}")
            arguments = (f"BASE={BASE}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheelhouse", "REVISION=test")
            given = [part for argument in arguments for part in ("--build-arg", argument)]
            buildah("bud", "--format", "docker", *offline, *given, "--tag", name, ROOT)
            buildah("from", "--quiet", "--name", "vestry-test", name)
        config = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
        return Image(Path(buildah("mount", "vestry-test")), config)


# Mounts as a container runtime makes them, then the user. "$1" is the file system, "$2" the folder with what is mounted
# into it, and the rest the environment and the command. The image itself is read-only.
_START = """
set -eu
root=$1; given=$2; shift 2
mkdir -p "$root/etc/vestry" "$root/dev"
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in dev/null dev/zero dev/random dev/urandom; do
    : > "$root/$device"
    mount --bind "/$device" "$root/$device"
done
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mkdir -p "$root/run/secrets/vestry"
mount --bind "$given/secrets" "$root/run/secrets/vestry"
mount -o remount,bind,ro "$root/run/secrets/vestry"
mount --bind "$given/settings" "$root/etc/vestry"
mount -o remount,bind,ro "$root/etc/vestry"
mount --bind "$given/state" "$root/var/lib/vestry"
exec setpriv --no-new-privs env -i "$@"
"""


def start(image: Image, given: Path, *command: str) -> subprocess.Popen[str]:
    """Run a command in the image (its own one, if none is given) as process 1, as the image's user, read-only.

    `given` holds `secrets`, `settings` and `state`, which appear as /run/secrets/vestry, /etc/vestry and
    /var/lib/vestry. The network is this machine's.
    """
    chroot = (shutil.which("chroot") or "chroot", f"--userspec={image.config['User']}", "--groups=", str(image.root))
    inside = ("unshare", "--mount", "--pid", "--fork", "--", "sh", "-c", _START, "sh")
    argv = [*inside, str(image.root), str(given), *image.config["Env"], *chroot, *(command or image.command)]
    return subprocess.Popen(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def process_one(container: subprocess.Popen[str]) -> int | None:
    """The id, on this machine, of the container's process 1; None if it has ended."""
    if container.poll() is not None:
        return None
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    return int(children[0]) if children else None


def end(container: subprocess.Popen[str]) -> tuple[str, str]:
    """Kill the container, if it still runs, with all that is in it; its output and errors.

    (A change of user clears the signal that `unshare --kill-child` would give to its child.)
    """
    if (process := process_one(container)) is not None:
        os.kill(process, signal.SIGKILL)
    return container.communicate(timeout=20)
