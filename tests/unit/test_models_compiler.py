"""The compiler that engines on a GPU need: found by compiling, installed by root, asked for by others."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vestry.models import compiler, environment
from vestry.models.catalog import ModelError
from vestry.models.progress import Progress


class Machine:
    """A folder of programs that stands for where engines look for them."""

    def __init__(self, folder: Path) -> None:
        self.where, self.asked, self.log = folder / "bin", folder / "asked", folder / "log"
        self.where.mkdir()
        self.said = io.StringIO()

    def program(self, name: str, script: str) -> None:
        path = self.where / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def apt_get(self, then: str = "true") -> None:
        self.program("apt-get", f'echo "$DEBIAN_FRONTEND $@" >> {self.asked}; {then}')

    def ensure(self) -> None:
        environ = {"PATH": f"{self.where}:/usr/bin:/bin"}
        compiler.ensure(Progress(self.said), environ, self.log, os.fspath(self.where))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose root we are, without a compiler."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(tmp_path)


def test_a_real_compiler_is_enough(machine: Machine) -> None:
    """This machine's compiles an extension; nothing is said, and nobody is asked to install anything."""
    assert compiler.fault() is None
    compiler.ensure(Progress(machine.said), {}, machine.log)
    assert machine.said.getvalue() == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, r"there is no C compiler \(gcc or clang\)"),
        ("echo no room >&2; exit 1", "gcc compiles nothing: no room"),
        ("kill -9 $$", "gcc compiles nothing"),
    ],
)
def test_what_is_wrong_is_told_with_its_mend(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, script: str | None, said: str
) -> None:
    """Who is not root gets a sentence with the packages to install."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if script is not None:
        machine.program("gcc", script)
    machine.apt_get()
    with pytest.raises(ModelError, match=rf"{said}.* apt-get install gcc libc6-dev python3\.\d+-dev"):
        machine.ensure()
    assert not machine.asked.exists()


def test_a_compiler_that_cannot_be_started_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that does not run."""
    (machine.where / "gcc").write_bytes(b"\x7fELF no program")
    (machine.where / "gcc").chmod(0o755)
    assert "gcc does not run: " in (compiler.fault(os.fspath(machine.where)) or "")


def test_missing_headers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian has Python's headers in a package of their own."""
    monkeypatch.setattr("sysconfig.get_path", lambda _name: os.fspath(tmp_path))
    assert compiler.fault() == f"Python's headers are missing ({tmp_path}/Python.h)"


def test_root_gets_it_installed(machine: Machine) -> None:
    """By apt-get's own commands; then the work goes on."""
    machine.apt_get(f"[ $1 = update ] || ln -s $(command -v gcc) {machine.where}/gcc")
    machine.program("as", 'exec /usr/bin/as "$@"')
    machine.program("ld", 'exec /usr/bin/ld "$@"')
    machine.ensure()
    update, install = machine.asked.read_text().splitlines()
    assert update == "noninteractive update"
    assert install.startswith("noninteractive -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends gcc ")
    assert "there is no C compiler (gcc or clang): done in" in machine.said.getvalue()


@pytest.mark.parametrize(
    ("then", "said"),
    [("echo no network; exit 100", r"(?s)apt-get update failed .*no network"), ("true", "there is no C compiler")],
)
def test_an_installation_without_success_is_told(machine: Machine, then: str, said: str) -> None:
    """With apt-get's last words, or as what is still missing."""
    machine.apt_get(then)
    with pytest.raises(ModelError, match=said):
        machine.ensure()


def test_it_comes_before_gigabytes(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler no engine environment for a GPU is begun with."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(environment, "device", lambda: "gpu")
    monkeypatch.setattr(compiler, "fault", lambda _where: "there is none")
    with pytest.raises(ModelError, match="when it starts, and there is none"):
        environment.ensure(tmp_path / "state" / "engine", Progress(machine.said), {})
    assert not (tmp_path / "state" / "engine").exists()
