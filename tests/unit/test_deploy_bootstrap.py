"""`deploy/bootstrap.py`: environments from lock files, made once, and rebuilt only as far as something changed.

It runs as its own process in a project of a few bytes, with wheels made on the spot and no network.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from support.processes import alive, eventually
from support.wheels import locked, make_wheel

BOOTSTRAP = Path(__file__).resolve().parents[2] / "deploy" / "bootstrap.py"
# A build backend of the project's own: it makes a wheel of the sources with the standard library alone.
BACKEND = """
import os, sys, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "vestry-0.1.0-py3-none-any.whl"
    about = "vestry-0.1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.write("server/vestry/__init__.py", "vestry/__init__.py")
        wheel.writestr(about + "/METADATA", "Metadata-Version: 2.1\\nName: vestry\\nVersion: 0.1.0\\n")
        tags = "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(about + "/WHEEL", tags)
        wheel.writestr(about + "/RECORD", "")
    return name
"""


class Project:
    """A project that `bootstrap.py` can set up."""

    def __init__(self, folder: Path):
        self.root = folder / "project"
        self.wheels = folder / "wheels"
        for name in ("deploy", "server/vestry", "tests"):
            (self.root / name).mkdir(parents=True)
        shutil.copyfile(BOOTSTRAP, self.root / "deploy" / "bootstrap.py")
        (self.root / "backend.py").write_text(BACKEND)
        build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        (self.root / "pyproject.toml").write_text(build)
        for name in ("README.md", "LICENSE"):
            (self.root / name).touch()
        self.source = self.root / "server" / "vestry" / "__init__.py"
        self.source.write_text("WORD = 'first'\n")
        tool = make_wheel(self.wheels, "tool", "1.0")
        (self.root / "server" / "build.lock").write_text(locked(tool))
        self.lock = self.root / "server" / "requirements.lock"
        needed = [make_wheel(self.wheels, name, "1.0") for name in ("needed", "besides", "too")]
        self.lock.write_text("# made for a test\n" + "".join(map(locked, needed)))
        (self.root / "tests" / "requirements.lock").write_text(locked(make_wheel(self.wheels, "checker", "1.0")))

    def run(
        self,
        *arguments: str,
        wheels: bool = True,
        status: int = 0,
        more: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
    ) -> str:
        """Run it with this Python, with more in its environment. Without wheels, pip has nothing to install from."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environ |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", **(more or {})}
        if wheels:
            environ["PIP_FIND_LINKS"] = str(self.wheels)
        argv = [str(python), "deploy/bootstrap.py", "--as-is", *arguments]
        done = subprocess.run(
            argv, cwd=self.root, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def stopped_at(self, line: str, ends: str) -> Iterator[None]:
        """Have the script come to its end just before a line that begins so."""
        script = self.root / "deploy" / "bootstrap.py"
        text = script.read_text()
        assert text.count(f" {line}") == 1
        script.write_text(re.sub(rf"^( +){re.escape(line)}", rf"\1{ends}\n\g<0>", text, flags=re.MULTILINE))
        yield
        script.write_text(text)

    def says(self, code: str, folder: str = ".vestry/server") -> str:
        """What the environment's Python prints."""
        argv = [str(self.root / folder / "bin" / "python"), "-I", "-c", code]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh checkout."""
    return Project(tmp_path)


def test_the_life_of_the_servers_environment(project: Project) -> None:
    """Installed from wheels; left alone by a second run; built again, without any network, when the sources change;
    made anew, with nothing of the old one in it, when the lock changes."""
    said = project.run("server")
    assert "packages of server/requirements.lock: done" in said
    assert project.says("import vestry, needed, besides, too; print(vestry.WORD, too.VERSION)") == "first 1.0"
    assert "site-packages" in project.says("import vestry; print(vestry.__file__)")
    assert project.says("import importlib.util as u; print(u.find_spec('tool'))") == "None"

    assert project.run("server", wheels=False).splitlines() == ["server environment (.vestry/server)", "  ready"]

    project.source.write_text("WORD = 'second'\n")
    said = project.run("server", wheels=False)
    assert "the project's wheel: done" in said
    assert "packages of" not in said
    assert project.says("import vestry; print(vestry.WORD)") == "second"

    project.lock.write_text(locked(make_wheel(project.wheels, "other", "2.0")))
    project.run("server")
    assert project.says("import vestry, other; print(vestry.WORD, other.VERSION)") == "second 2.0"
    assert project.says("import importlib.util as u; print(u.find_spec('needed'))") == "None"
    assert not (project.root / ".vestry" / "server.before").exists()


def test_an_upgrade_that_does_not_come_to_its_end(project: Project) -> None:
    """Neither a registry that is out of reach nor kill -9 costs the environment that works; and one interrupted between
    the new wheel and its stamp is not taken for that of the sources that were gone back to."""
    project.run("server")
    lock = project.lock.read_text()
    project.lock.write_text(locked(make_wheel(project.wheels, "other", "2.0")))
    assert "installing the packages failed" in project.run("server", wheels=False, status=1)
    with project.stopped_at('run_all("installing the packages"', "os.kill(os.getpid(), signal.SIGKILL)"):
        project.run("server", status=-signal.SIGKILL)
    project.lock.write_text(lock)
    assert project.run("server", wheels=False).splitlines() == ["server environment (.vestry/server)", "  ready"]
    assert project.says("import vestry, needed; print(vestry.WORD)") == "first"
    assert not (project.root / ".vestry" / "server.before").exists()

    project.source.write_text("WORD = 'second'\n")
    with project.stopped_at('stamp(target, "project", wanted)', "raise KeyboardInterrupt"):
        assert "interrupted" in project.run("server", wheels=False, status=1)
    project.source.write_text("WORD = 'first'\n")
    project.run("server", wheels=False)
    assert project.says("import vestry; print(vestry.WORD)") == "first"


def test_the_environment_itself_may_be_the_active_one(project: Project) -> None:
    """As the README has it on PATH: its `python3` leaves it as it is, without a network, or makes it anew."""
    project.run("server")
    own = project.root / ".vestry" / "server" / "bin" / "python3"
    assert "done in" not in project.run("server", wheels=False, python=own)
    project.lock.write_text(locked(make_wheel(project.wheels, "another", "1.0")))
    assert "packages of server/requirements.lock: done" in project.run("server", python=own)
    assert project.says("import vestry, another; print(vestry.WORD)") == "first"


def test_the_tests_have_an_environment_of_their_own(project: Project) -> None:
    """`tests` fills `.venv` with the tests' packages and the built wheel."""
    project.run("tests")
    assert project.says("import vestry, checker; print(checker.VERSION)", ".venv") == "1.0"
    assert not (project.root / ".vestry" / "server").exists()


def test_a_wheel_with_another_hash_is_refused(project: Project) -> None:
    """A package that is not the one that was locked is not installed; after the mend the run goes through."""
    make_wheel(project.wheels, "besides", "1.0", extra="import os\n")
    said = project.run("server", status=1)
    assert "bootstrap: installing the packages failed (exit status 1)" in said
    assert "DO NOT MATCH THE HASHES" in said
    project.lock.write_text(locked(project.wheels / "besides-1.0-py3-none-any.whl"))
    project.run("server")


@pytest.mark.parametrize("in_file", [False, True], ids=["variables", "pip.conf"])
def test_what_a_user_has_set_for_pip_leads_nowhere_else(project: Project, tmp_path: Path, in_file: bool) -> None:
    """Packages are in the environment though pip is told, for all it does, to put them elsewhere or nowhere."""
    places = {name: str(tmp_path / name) for name in ("target", "prefix", "root")}
    said = places | {"dry-run": "true", "user": "true"}
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in said.items() if in_file))
    variables = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in said.items() if not in_file}
    project.run("server", more={"PIP_CONFIG_FILE": str(settings), **variables})
    assert project.says("import vestry, needed; print(vestry.WORD)") == "first"
    assert not any(Path(place).exists() for place in places.values())


def test_what_lies_on_a_users_pythonpath_is_installed_all_the_same(project: Project, tmp_path: Path) -> None:
    """To pip that is installed already, but the environment would have it only as long as the variable is set."""
    shutil.unpack_archive(project.wheels / "needed-1.0-py3-none-any.whl", tmp_path / "mine", "zip")
    project.run("server", more={"PYTHONPATH": str(tmp_path / "mine")})
    assert project.says("import needed; print(needed.VERSION)") == "1.0"


def test_make_passes_no_pythonpath_on(tmp_path: Path) -> None:
    """What it starts imports what the locks name, and nothing else."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "${PYTHONPATH-none} ${PYTHONHOME-none}"\n')
    python.chmod(0o755)
    argv = ["make", "--no-print-directory", "-C", str(BOOTSTRAP.parents[1]), "tests-environment", f"PYTHON={python}"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path)}
    assert subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout == "none none\n"


@pytest.mark.parametrize("arguments", [(), ("all",), ("server", "tests")])
def test_a_wrong_word_shows_the_usage(project: Project, arguments: tuple[str, ...]) -> None:
    """Anything but `server` or `tests` ends with the usage, and makes nothing."""
    assert "usage: python3 deploy/bootstrap.py [--as-is] server|tests" in project.run(*arguments, status=1)
    assert not (project.root / ".vestry").exists()


@pytest.fixture
def module() -> ModuleType:
    """The script as a module, for what a test machine cannot be: old, or without parts of Python."""
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("order", [1, -1])
def test_no_program_outlives_a_failure(module: ModuleType, tmp_path: Path, order: int) -> None:
    """Of programs that run side by side one fails: its last words are told, and the other ends, whichever is first."""
    mark = tmp_path / "pid"
    lasting = ("sh", "-c", f"echo $$ > {mark}; exec sleep 2")
    failing = ("sh", "-c", f"while [ ! -s {mark} ]; do sleep 0.05; done; echo no room left; exit 3")
    with pytest.raises(module.BootstrapError, match=r"this failed \(exit status 3\)[^\0]*no room left"):
        module.run_all("this", [failing, lasting][::order])
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


def test_what_a_program_started_does_not_outlive_a_failure_either(module: ModuleType, tmp_path: Path) -> None:
    """pip runs another pip: the whole of a program ends, even what takes no notice of Ctrl-C."""
    mark = tmp_path / "pid"
    lasting = ("sh", "-c", f"sleep 60 & echo $! > {mark}; wait")
    failing = ("sh", "-c", f"while [ ! -s {mark} ]; do sleep 0.05; done; exit 3")
    with pytest.raises(module.BootstrapError):
        module.run_all("this", [failing, lasting])
    eventually(lambda: not alive(int(mark.read_text())))


def test_no_pip_outlives_a_signal(project: Project) -> None:
    """Told to end while pip waits for a registry, it says so, and neither pip nor the pip below it goes on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environ |= {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple",
        }
        process = subprocess.Popen(
            [sys.executable, "deploy/bootstrap.py", "--as-is", "server"],
            cwd=project.root,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.accept()[0].close()
        assert running_in(project.root)
        process.terminate()
        assert "interrupted; run it again to go on" in process.communicate(timeout=20)[1]
        assert process.returncode == 1
    assert running_in(project.root) == []


def test_a_run_waits_for_the_pips_of_one_that_was_killed(project: Project) -> None:
    """kill -9 of the script alone leaves its pip at work: the next run does not work beside it, and then makes the
    environment whole.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    argv = [sys.executable, "deploy/bootstrap.py", "--as-is", "server"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        index = {"PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple"}
        killed = subprocess.Popen(argv, cwd=project.root, env=environ | index, stdout=subprocess.DEVNULL)
        asked = silent.accept()[0]
        killed.kill()
        killed.wait()
    mended = environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project.wheels)}
    with subprocess.Popen(argv, cwd=project.root, env=mended, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        asked.close()
        process.stdout.read()
    assert "waiting for another run to finish" in said[1]
    assert process.returncode == 0
    assert project.says("import vestry, needed, besides, too; print(vestry.WORD)") == "first"
    assert running_in(project.root) == []


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_closes_ends_it_too(module: ModuleType, tmp_path: Path, ignored: bool) -> None:
    """SIGHUP is told to this process alone, which ends its programs; unless it runs under `nohup`."""
    module.STATE = tmp_path / ".vestry"  # type: ignore[attr-defined]
    module.fill = lambda *_: signal.raise_signal(signal.SIGHUP)  # type: ignore[attr-defined]
    module.install_project = lambda *_: None  # type: ignore[attr-defined]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with contextlib.nullcontext() if ignored else pytest.raises(KeyboardInterrupt):
            module.main(["--as-is", "server"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def running_in(folder: Path) -> list[int]:
    """The processes whose command line names something in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("many", range(5))
def test_each_package_of_a_lock_is_in_one_share(module: ModuleType, tmp_path: Path, many: int) -> None:
    """Two pips share a lock: whole entries with their hashes, none twice, none lost; no share is empty."""
    entries = [f"p{number}==1.0 \\\n    --hash=sha256:{number:064}\n" for number in range(many)]
    lock = tmp_path / "all.lock"
    lock.write_text("# a head\n#    of two lines\n" + "".join(entries))
    shares = module.shares(lock, tmp_path)
    assert len(shares) == min(many, 2)
    assert sorted(re.findall(r"(?m)^[^ ].*\n(?: .*\n)*", "".join(each.read_text() for each in shares))) == entries


def test_the_readme_promises_what_it_takes(module: ModuleType) -> None:
    """The oldest Python and the newest."""
    least, newest = (".".join(map(str, each)) for each in (module.LEAST, module.NEWEST))
    assert f"needs Python {least} to {newest} " in (BOOTSTRAP.parents[1] / "README.md").read_text()


@pytest.mark.parametrize(("least", "newest"), [((99, 0), (99, 9)), ((3, 0), (3, 9))])
def test_a_python_that_is_too_old_or_new_is_told(
    module: ModuleType, least: tuple[int, int], newest: tuple[int, int]
) -> None:
    """Which ones are needed, which one this is, and what to do: before anything is installed or asked of a registry."""
    module.LEAST, module.NEWEST = least, newest  # type: ignore[attr-defined]
    wanted = rf"Python {least[0]}\.{least[1]} to {newest[0]}\.{newest[1]} is needed; .* is 3\..* make up PYTHON="
    with pytest.raises(module.BootstrapError, match=wanted):
        module.main(["server"])


def test_it_leaves_the_work_to_one_that_the_machine_has(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest on PATH that fits and runs; what pyenv has there for a Python that is not chosen does not run."""
    module.LEAST, module.NEWEST = (3, 94), (3, 99)  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, does in (("python3.98", "exit 127"), ("python3.97", f'exec {tmp_path}/python3 "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    other = Other(module, tmp_path, "3.97", "ModuleSpec")
    module.DISTRIBUTION = tmp_path / "none"  # type: ignore[attr-defined]
    hand_over_in_a_child(module)
    assert other.started == f"{BOOTSTRAP} --as-is server"


def test_an_update_of_python_makes_no_environment_anew(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch version, as distributions install by night, is the Python of the stamp; another minor one is not."""
    before = module.digest(*module.BUILD.locks)
    major, minor, *_ = sys.version_info
    monkeypatch.setattr(sys, "version_info", (major, minor, 99, "final", 0))
    assert module.digest(*module.BUILD.locks) == before
    monkeypatch.setattr(sys, "version_info", (major, minor + 1, 0, "final", 0))
    assert module.digest(*module.BUILD.locks) != before


def test_a_checkout_of_somebody_else_is_told(module: ModuleType, tmp_path: Path) -> None:
    """Who may not write there gets a sentence, not a traceback."""
    tmp_path.chmod(0o500)
    module.STATE = tmp_path / ".vestry"  # type: ignore[attr-defined]
    child = os.fork()
    if child == 0:  # root may write anywhere, so that this is somebody else
        with contextlib.suppress(PermissionError):
            os.setuid(65534)
        try:
            with module.alone():
                os._exit(1)
        except module.BootstrapError as failure:
            os._exit(0 if "nothing can be written to" in str(failure) and "Permission denied" in str(failure) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_fails_where_little_room_is_left_says_so(project: Project, tmp_path: Path) -> None:
    """Of a full disk pip and venv say no more than that a command failed: each place that they write to is named."""
    script = project.root / "deploy" / "bootstrap.py"
    script.write_text(script.read_text().replace("LITTLE_MIB = 300", "LITTLE_MIB = 1 << 60"))
    said = project.run("server", wheels=False, status=1, more={"TMPDIR": str(tmp_path)})
    for place in (project.root, tmp_path):
        assert re.search(rf"^Only [0-9]+ MiB are left at {re.escape(str(place))}\.$", said, re.MULTILINE)


def test_no_room_is_told_where_no_place_for_temporary_files_is_left(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose only disk is full: Python finds no such place then."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(module, "LITTLE_MIB", 1 << 60)
    assert f"MiB are left at {module.ROOT}." in module.room()


def test_a_missing_venv_module_is_told(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian without python3-venv: who is not root gets the command to type."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(module.BootstrapError, match=r"venv module is missing\. .*apt-get install python3\.\d+-venv"):
        module.need_venv()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """For root, with an apt-get that only writes into this file what it is asked for."""
    tool, asked = tmp_path / "apt-get", tmp_path / "asked"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return asked


def test_root_gets_the_venv_module_installed(module: ModuleType, monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    """Debian without python3-venv: root gets the package installed, by apt-get's own commands."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    module.need_venv()
    update, install = asked.read_text().splitlines()
    assert update == "update"
    assert install.startswith("-o DPkg::Lock::Timeout=300 install --yes --no-install-recommends python3.")


class Other:
    """A distribution's Python that says this of itself, and writes down what it is started with."""

    def __init__(self, module: ModuleType, folder: Path, version: str, ensurepip: str) -> None:
        self.asked = folder / "started"
        self.python = folder / "python3"
        says = f'printf "{version}\\n{ensurepip}\\n"'
        self.python.write_text(f'#!/bin/sh\nif [ "$1" = -I ]; then {says}; else echo "$@" > {self.asked}; fi\n')
        self.python.chmod(0o755)
        module.DISTRIBUTION = self.python  # type: ignore[attr-defined]

    @property
    def started(self) -> str | None:
        return self.asked.read_text().strip() if self.asked.exists() else None


def hand_over_in_a_child(module: ModuleType) -> None:
    """It takes the place of its process, so that is another one."""
    child = os.fork()
    if child == 0:
        try:
            module.hand_over("server")
        finally:
            os._exit(3)
    os.waitpid(child, 0)


BUILDS = [("--prefix=/opt --enable-optimizations", "/opt", False), ("--prefix=/opt", "/opt", True), ("", "/usr", False)]


@pytest.mark.parametrize(("built", "base", "slow"), BUILDS)
def test_a_python_without_optimizations_is_told_from_others(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, built: str, base: str, slow: bool
) -> None:
    """By how it was configured; a distribution's own is taken to be a fast one."""
    monkeypatch.setattr("sysconfig.get_config_var", lambda _name: built)
    monkeypatch.setattr(sys, "base_prefix", base)
    assert module.slow() is slow


def test_a_slow_python_leaves_the_work_to_the_distributions(module: ModuleType, tmp_path: Path) -> None:
    """Which is then started in its place, to be taken as it is."""
    module.slow = lambda: True  # type: ignore[attr-defined]
    other = Other(module, tmp_path, "3.11", "ModuleSpec")
    hand_over_in_a_child(module)
    assert other.started == f"{BOOTSTRAP} --as-is server"


@pytest.mark.parametrize(
    ("slow", "version", "ensurepip"),
    [(False, "3.13", "ModuleSpec"), (True, "3.9", "ModuleSpec"), (True, "3.11", "None")],
)
def test_it_is_not_taken_where_it_is_no_better_or_cannot_be(  # noqa: PLR0917 - the table's columns
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow: bool, version: str, ensurepip: str
) -> None:
    """This Python is fast; the other is too old, or makes no environments and we may not mend that."""
    module.slow = lambda: slow  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    other = Other(module, tmp_path, version, ensurepip)
    module.hand_over("server")
    assert other.started is None


def test_root_gets_what_the_distributions_python_lacks(module: ModuleType, tmp_path: Path, asked: Path) -> None:
    """Its `venv` is a package of its own, which is installed before it takes over."""
    module.slow = lambda: True  # type: ignore[attr-defined]
    other = Other(module, tmp_path, "3.12", "None")
    hand_over_in_a_child(module)
    assert asked.read_text().endswith(" python3.12-venv\n")
    assert other.started == f"{BOOTSTRAP} --as-is server"


def test_there_may_be_no_python_of_the_distribution(module: ModuleType, tmp_path: Path) -> None:
    """Then the one at hand does the work."""
    module.slow = lambda: True  # type: ignore[attr-defined]
    module.DISTRIBUTION = tmp_path / "none"  # type: ignore[attr-defined]
    module.hand_over("server")


def test_two_at_once_do_not_spoil_each_other(project: Project) -> None:
    """The second of two runs waits for the first and finds everything done."""
    argv = [sys.executable, "deploy/bootstrap.py", "--as-is", "server"]
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(project.wheels)}
    both = [
        subprocess.Popen(
            argv, cwd=project.root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = sorted(each.communicate(timeout=120)[0].count("done in") for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert said[0] == 0
    assert project.says("import vestry; print(vestry.WORD)") == "first"
