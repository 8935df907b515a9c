"""libnuma, which engines on a CPU need: installed by root, asked for by others, before anything is downloaded."""

from __future__ import annotations

import _ctypes
import io
import os
from pathlib import Path

import pytest

from vestry.models import environment, numa
from vestry.models.catalog import ModelError
from vestry.models.progress import Progress


class Machine:
    """Where the library is to be, and an apt-get that writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.library, self.asked, self._tool = folder / numa.LIBRARY, folder / "asked", folder / "apt-get"
        self.log, self.said = folder / "log", io.StringIO()
        self.apt_get("true")

    def apt_get(self, does: str) -> None:
        self._tool.write_text(f'#!/bin/sh\necho "$DEBIAN_FRONTEND $@" >> {self.asked}; {does}\n')
        self._tool.chmod(0o755)

    def ensure(self) -> None:
        environ = {"PATH": f"{self._tool.parent}:/usr/bin:/bin"}
        numa.ensure(Progress(self.said), environ, self.log, os.fspath(self.library))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose root we are, without the library."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(tmp_path)


def some_library() -> Path:
    """Any that can be loaded: this Python has some."""
    return Path(str(_ctypes.__file__))


def test_root_gets_it_installed(machine: Machine) -> None:
    """By apt-get's own commands; once it is there, nothing is said or asked for."""
    machine.apt_get(f"[ $1 = update ] || cp {some_library()} {machine.library}")
    machine.ensure()
    assert machine.asked.read_text().splitlines() == [
        "noninteractive update",
        "noninteractive -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends libnuma1",
    ]
    assert "libnuma1: an engine on a CPU is linked with it: done in" in machine.said.getvalue()
    machine.asked.unlink()
    machine.ensure()
    assert not machine.asked.exists()


@pytest.mark.parametrize(("root", "does"), [(False, "true"), (True, "true"), (True, "echo no network; exit 100")])
def test_others_are_told_and_so_is_a_failure(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, root: bool, does: str
) -> None:
    """Which library is missing, and which package has it; or apt-get's last words."""
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    machine.apt_get(does)
    wanted = r"libnuma\.so\.1, which is not here\. .*apt-get install libnuma1$" if does == "true" else "no network"
    with pytest.raises(ModelError, match=wanted):
        machine.ensure()
    assert machine.asked.exists() is root


def test_it_comes_before_gigabytes(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no engine environment for a CPU is begun with."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(environment, "device", lambda: "cpu")
    monkeypatch.setattr(numa, "found", lambda _library: False)
    with pytest.raises(ModelError, match="apt-get install libnuma1"):
        environment.ensure(tmp_path / "state" / "engine", Progress(machine.said), {})
    assert not (tmp_path / "state" / "engine").exists()
