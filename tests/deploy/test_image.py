"""The server's image: built from the Dockerfile without a network, and run as an orchestrator runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from fakes.engine import FakeEngine
from support.containers import (
    ROOT,
    Image,
    build,
    end,
    installed_for,
    need_root_and_tools,
    offered_for,
    process_one,
    start,
)
from support.house import read_records, until
from vestry.audit.tlog.notes import Checkpoint, Signer

ENGINE_KEY = "0123456789abcdef0123456789abcdef"
SIGNER = Signer.generate("house.test/vestry")
MODEL = "smollm2-135m-instruct"
USER = 65532


@pytest.fixture(scope="module")
def image() -> Image:
    """The image, built from this working tree."""
    need_root_and_tools()
    return build()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine that wants the key from the mounted Secret."""
    with FakeEngine(model=MODEL, key=ENGINE_KEY) as running:
        yield running


@pytest.fixture
def given(tmp_path: Path, engine: FakeEngine) -> Path:
    """What a pod mounts: a Secret laid out and owned as the kubelet does it, a ConfigMap, a fresh volume."""
    secret = tmp_path / "secrets"
    versioned = secret / "..2026_01_01_00_00_00.1"
    versioned.mkdir(parents=True)
    contents = {"key-hash": b"h" * 32, "engine-key": ENGINE_KEY.encode(), "audit-key": SIGNER.written().encode()}
    for name, content in contents.items():
        (versioned / name).write_bytes(content)
        (versioned / name).chmod(0o440)
        os.chown(versioned / name, 0, USER)
        (secret / name).symlink_to(f"..data/{name}")
    (secret / "..data").symlink_to(versioned.name)
    versioned.chmod(0o2755)
    secret.chmod(0o3777)
    for folder in (secret, versioned):
        os.chown(folder, 0, USER)
    volume = tmp_path / "state"
    volume.mkdir()
    os.chown(volume, 0, USER)
    volume.chmod(0o2775)
    (volume / "lost+found").mkdir(mode=0o700)
    settings = {
        "state": "/var/lib/vestry/state",
        "secrets": "/run/secrets/vestry",
        "server": {"host": "127.0.0.1", "port": 0, "ops_host": "127.0.0.1", "ops_port": 0, "admin_port": 0},
        "models": {MODEL: {"replicas": [{"url": engine.url}]}},
    }
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "vestry.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def finished(container: subprocess.Popen[str], seconds: float = 40) -> tuple[int, str, str]:
    """Exit status, output and errors of a container that ends by itself."""
    try:
        output, errors = container.communicate(timeout=seconds)
    finally:
        end(container)
    return container.returncode, output, errors


class Served:
    """A container of the image that serves."""

    def __init__(self, container: subprocess.Popen[str], given: Path) -> None:
        self.container = container
        self._note = given / "state" / "state" / "server.json"
        self.addresses: dict[str, str] = until(self._addresses, seconds=40, what="the server in the image")
        until(self._ready, seconds=20, what="readiness of the server in the image")

    def _addresses(self) -> dict[str, str]:
        assert self.container.poll() is None, self.container.communicate()
        return json.loads(self._note.read_text()) if self._note.exists() else {}

    def _ready(self) -> bool:
        assert self.container.poll() is None, self.container.communicate()
        return httpx.get(self.addresses["ops"] + "/readyz").status_code == 200


@contextmanager
def serving(image: Image, given: Path) -> Iterator[Served]:
    """The image's own command, up and ready; killed at the end if it still runs."""
    container = start(image, given)
    try:
        yield Served(container, given)
    finally:
        end(container)


def new_key(image: Image, given: Path) -> str:
    """A key made by `vestry keys create` in the image."""
    status, output, errors = finished(
        start(image, given, "vestry", "keys", "create", "--tenant", "default", "--owner", "image-test")
    )
    assert status == 0, errors
    found = re.search(r"vst_\S+", output)
    assert found is not None, output
    return found[0]


def test_the_dockerfile_is_without_lint() -> None:
    """hadolint finds nothing to say about the Dockerfile, at any severity."""
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_neither_dockerfile_nor_chart_names_a_registry() -> None:
    """Image names carry no host, so that a site's own registry or mirror decides where they come from."""
    names = re.findall(r"^(?:ARG BASE=|FROM )(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    values = yaml.safe_load((ROOT / "helm" / "vestry" / "values.yaml").read_text())
    names += [values["image"]["repository"], values["engine"]["image"]["repository"]]
    assert len(names) >= 5
    assert not [name for name in names if re.match(r"[^/]*[.:][^/]*/", name)]


def test_the_locked_wheels_exist_for_the_default_base(tmp_path: Path) -> None:
    """The default base has a newer Python than the one the image is tested on: every wheel is there, hash and all."""
    default = re.search(r"^ARG BASE=python:(\d+\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default is not None
    assert default[1] == "3.13"
    tags = installed_for("3.13", tmp_path)
    assert any(tag.startswith("cp313-cp313-") for tag in tags)
    assert (tmp_path / "uvloop").is_dir()


@pytest.mark.parametrize("python", ["3.12", "3.14"])
def test_the_locked_wheels_are_offered_for_other_pythons(python: str) -> None:
    """A site's own base may have another Python: the registry has a wheel of everything for it."""
    assert "uvloop==" in offered_for(python)


def test_a_python_without_wheels_is_noticed() -> None:
    """The check above can fail."""
    with pytest.raises(AssertionError, match="unsatisfiable"):
        offered_for("3.8")


def test_the_configuration_is_that_of_a_well_behaved_container(image: Image) -> None:
    """A numeric user that is not root, exec form throughout, labels, and SIGTERM to stop."""
    config = image.config
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert (config["Entrypoint"], config["Cmd"]) == (["vestry"], ["serve"])
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8081/tcp"}
    assert config["Healthcheck"]["Test"][0] == "CMD"
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["title"] == project["name"]
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert labels["revision"] == "test"
    assert not [name for name in config["Env"] if name.startswith("PIP_")]


def test_the_image_holds_the_server_and_nothing_else(image: Image) -> None:
    """No engine, no installer, no sources beside the package, and nothing that its user could change."""
    installed = image.root / "opt" / "vestry"
    packages = next(installed.glob("lib/python3*/site-packages"))
    names = {each.name.split("-")[0].lower() for each in packages.iterdir()}
    assert "vestry" in names
    assert not names & {"torch", "vllm", "transformers", "pip", "setuptools", "pytest"}
    assert not [name for name in names if name.startswith("nvidia")]
    shipped = {each.relative_to(packages / "vestry") for each in (packages / "vestry").rglob("*") if each.is_file()}
    wanted = {
        each.relative_to(ROOT / "server" / "vestry")
        for each in (ROOT / "server" / "vestry").rglob("*")
        if each.is_file() and "__pycache__" not in each.parts
    }
    assert {each for each in shipped if "__pycache__" not in each.parts} == wanted
    assert [each for each in shipped if each.name.startswith("cli.") and each.suffix == ".pyc"]
    for each in installed.rglob("*"):
        status = each.lstat()
        assert status.st_uid == 0
        assert each.is_symlink() or not status.st_mode & 0o6022, each
    state = (image.root / "var" / "lib" / "vestry").stat()
    assert (state.st_uid, state.st_mode & 0o7777) == (USER, 0o700)
    assert not (image.root / "build").exists()
    assert not (image.root / "wheelhouse").exists()


def test_a_call_through_the_image(image: Image, given: Path, engine: FakeEngine) -> None:
    """Read-only, without rights, as process 1: it makes a key, answers a call, records it, and ends on SIGTERM."""
    key = new_key(image, given)
    call = {"model": MODEL, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    with serving(image, given) as served:
        url = served.addresses["api"] + "/v1/chat/completions"
        answer = httpx.post(url, json=call, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
        stranger = httpx.post(url, json=call, headers={"authorization": "Bearer vst_stranger"})
        assert stranger.status_code == 401
        assert httpx.get(served.addresses["api"] + "/metrics").status_code == 404
        process = process_one(served.container)
        assert process is not None
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(USER)] * 4
        assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, "1")
        os.kill(process, signal.SIGTERM)
        assert served.container.wait(30) == 0
    assert len(engine.calls) == 1
    (log,) = (each for each in (given / "state" / "state" / "audit").iterdir() if each.name == "server")
    head = Checkpoint.open((log / "checkpoint").read_text(), SIGNER.public.of("server"))
    assert head.size == len(read_records(log)), "what the mounted key signed covers the whole record"
    endings = [record["ending"] for record in read_records(log, "outcome")]
    assert endings == ["complete"]
    assert not [each for each in log.rglob("*") if each.is_file() and key.encode() in each.read_bytes()]


def test_the_image_makes_a_signing_key(image: Image, tmp_path: Path) -> None:
    """Without settings, secrets or a place to write: as the installation pages make the Secret's entry."""
    for each in ("secrets", "settings", "state"):
        (tmp_path / each).mkdir()
    status, output, errors = finished(
        start(image, tmp_path, "vestry", "audit", "init", "--name", "house.test/vestry", "--stdout")
    )
    assert status == 0, errors
    assert str(Signer.parse(output)) in errors
    assert not list((tmp_path / "state").iterdir())


def test_the_health_check_tells_up_from_down(image: Image, given: Path) -> None:
    """The image's health check succeeds beside a living server and fails without one."""
    test = image.config["Healthcheck"]["Test"][1:]
    with serving(image, given) as served:
        port = served.addresses["ops"].rsplit(":", 1)[1]
        command = [part.replace(":8081/", f":{port}/") for part in test]
        assert command != test
        assert finished(start(image, given, *command))[0] == 0
    assert finished(start(image, given, *command))[0] != 0


def test_a_fault_in_the_settings_is_a_sentence(image: Image, given: Path) -> None:
    """A misspelt setting ends the container with the place and the mend, and without a traceback."""
    with (given / "settings" / "vestry.yaml").open("a") as settings:
        settings.write("sever: {}\n")
    status, output, errors = finished(start(image, given))
    assert status not in (0, None)
    assert "sever" in errors
    assert "`server`" in errors
    assert "Traceback" not in output + errors
