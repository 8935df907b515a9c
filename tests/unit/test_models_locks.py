"""The lock files: every package is pinned by hash, nothing names a place, and no GPU build gets in by accident."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from vestry.models.environment import LOCKS, TORCH, locked_version

ROOT = Path(__file__).resolve().parents[2]
ALL = [
    ROOT / "server" / "requirements.lock",
    ROOT / "server" / "build.lock",
    ROOT / "tests" / "requirements.lock",
    LOCKS / "engine-cpu.lock",
    LOCKS / "engine-cuda.lock",
    LOCKS / "engine-torch.lock",
]
ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)={2,3}(?P<version>[^= ;\\]+)(?: ;[^\\]*)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def pinned(lock: Path) -> dict[str, set[str]]:
    """The versions of each package that a lock names."""
    found: dict[str, set[str]] = {}
    for line in lock.read_text().splitlines():
        if entry := ENTRY.match(line):
            found.setdefault(entry["name"], set()).add(entry["version"])
    return found


def names(requirements: list[str]) -> set[str]:
    """The packages' normalised names (PEP 503) in lines of requirements."""
    stripped = (line.split("#")[0].strip() for line in requirements)
    return {re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower() for line in stripped if line}


@pytest.mark.parametrize("lock", ALL, ids=lambda lock: lock.name + " of " + lock.parent.name)
def test_every_line_is_a_pin_or_its_hash(lock: Path) -> None:
    """A lock holds pins, their hashes and comments: no address, no option, no package without hash."""
    previous = "hash"
    for line in lock.read_text().splitlines():
        if line.startswith("#"):
            assert "://" not in line
        elif ENTRY.match(line):
            assert previous == "hash", f"no hash before {line}"
            previous = "entry"
        else:
            assert HASH.match(line), line
            previous = "hash"
    assert previous == "hash"


def test_the_server_lock_holds_what_the_project_needs() -> None:
    """Each dependency of the project is pinned, and no engine or test package is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pinned(ROOT / "server" / "requirements.lock")
    assert names(project["dependencies"]) <= set(locked)
    assert not {"torch", "vllm", "transformers", "pytest", "numpy"} & set(locked)


def test_the_tests_use_the_servers_versions() -> None:
    """The tests run against the very versions that the server is installed with."""
    server, tests = pinned(ROOT / "server" / "requirements.lock"), pinned(ROOT / "tests" / "requirements.lock")
    assert {name: tests[name] for name in server} == server
    assert names((ROOT / "tests" / "requirements.in").read_text().splitlines()) <= set(tests)


def test_the_cpu_engine_gets_no_gpu_build() -> None:
    """PyTorch, its companions and every CUDA package are missing from the lock of machines without a GPU."""
    locked = pinned(LOCKS / "engine-cpu.lock")
    assert names((LOCKS / "engine-cpu.in").read_text().splitlines()) <= set(locked)
    banned = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "vllm"}
    assert not [name for name in locked if name in banned or name.startswith(("nvidia-", "cuda-"))]


def test_the_engines_are_of_one_version() -> None:
    """Both kinds of machine run the same vLLM, at or above the version floor, and the same PyTorch."""
    assert locked_version("cpu") == locked_version("gpu")
    assert tuple(map(int, locked_version("cpu").split("."))) >= (0, 32, 0)
    assert pinned(LOCKS / "engine-torch.lock")["torch"] == {TORCH} == pinned(LOCKS / "engine-cuda.lock")["torch"]


@pytest.mark.parametrize("name", ["engine-cuda.lock", "engine-torch.lock"])
def test_a_cpu_wheel_cannot_stand_in_for_the_cuda_build(name: str) -> None:
    """PyTorch is pinned with `===`: `==` would also take a wheel of 2.13.0+cpu that lies in a folder for pip."""
    assert f"\ntorch==={TORCH} " in (LOCKS / name).read_text()


def test_pytorchs_own_needs_agree() -> None:
    """What PyTorch's lock and the engine's lock both name, they name in the same version."""
    torch, engine = pinned(LOCKS / "engine-torch.lock"), pinned(LOCKS / "engine-cpu.lock")
    assert {name: torch[name] for name in torch if name in engine} == {
        name: engine[name] for name in torch if name in engine
    }
    assert {"filelock", "jinja2", "sympy", "networkx", "fsspec"} <= set(torch) & set(engine)
