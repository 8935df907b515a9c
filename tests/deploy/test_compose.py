"""The compose file for one GPU machine: valid, closed to the outside, and in step with settings, image and catalog."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import pytest
import yaml

from support.launches import OWN_VARIABLES, planned
from vestry.configuration.reading import load
from vestry.models import catalog
from vestry.models.chosen import served
from vestry.models.environment import locked_version
from vestry.settings.section import address_of, is_private
from vestry.settings.tree import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy"
BASE = FOLDER / "compose.yaml"
SETTINGS = FOLDER / "compose" / "vestry.yaml"
OTHERS = sorted(path for path in (FOLDER / "compose").glob("*.yaml") if path != SETTINGS)
GIVEN = {"VESTRY_MODEL": "/srv/models/some-model"}

Section = dict[str, Any]


def interpolated(text: str, environ: dict[str, str]) -> str:
    """The compose file's variables filled in (compose-spec, interpolation): `${A:-b}`, `${A:?b}` and `$$`."""

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, rule, rest = found["name"], found["rule"], found["rest"]
        if environ.get(name):
            return environ[name]
        if rule == ":-":
            return rest
        raise LookupError(f"{name}: {rest}")

    return re.sub(r"\$\$|\$\{(?P<name>[A-Z_]+)(?P<rule>:-|:\?)(?P<rest>[^}]*)\}", fill, text)


def compose(*others: Path, environ: dict[str, str] | None = None) -> Section:
    """The project: the file, and others over it. (Mappings merge; commands and other lists are replaced.)"""
    project: Section = {}
    for path in (BASE, *others):
        read = yaml.safe_load(interpolated(path.read_text(), GIVEN if environ is None else environ))
        project = merged(project, read)
    return project


def merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: merged(one.get(key), other.get(key, one.get(key))) for key in {**one, **other}}
    return other


def settings_of(project: Section) -> Settings:
    """What the server in the project reads."""
    return load(SETTINGS, project["services"]["server"].get("environment", {}))


@pytest.mark.parametrize("path", [BASE, *OTHERS], ids=lambda path: path.name)
def test_it_is_valid(path: Path) -> None:
    """Each file meets the compose specification's schema, which knows no unknown field."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(schema.read_text()))


def test_every_larger_family_has_its_file() -> None:
    """Beside the model of the base file, each catalog entry that wants a GPU of its own has one to put over it."""
    wanted = {name for name, entry in catalog.entries().items() if entry.memory.gpu > 12}
    assert {path.stem for path in OTHERS} == wanted
    assert wanted


@pytest.mark.parametrize(
    "others", [(), *((path,) for path in OTHERS)], ids=lambda others: "".join(map(str, others))[-30:]
)
def test_the_engine_starts_as_the_program_starts_it(others: tuple[Path, ...], tmp_path: Path) -> None:
    """The settings load; the server calls the engine where it listens; its command is that of `vestry engine`."""
    project = compose(*others)
    settings = settings_of(project)
    (model,) = served(settings)
    engine = project["services"]["engine"]
    (address,) = {network["ipv4_address"] for network in engine["networks"].values()}
    assert [replica.url for replica in model.replicas] == [f"http://{address}:8000"]
    arguments, surroundings = planned(settings, model.name, "gpu", tmp_path, host=address)
    assert engine["command"] == arguments
    assert {name: text for name, text in engine["environment"].items() if name not in OWN_VARIABLES} == surroundings
    assert f"http://{address}:8000/health" in engine["healthcheck"]["test"][-1]
    assert settings.models[model.name].path == Path("/model")


def test_versions_agree() -> None:
    """The server's image has the project's version, the engine's the version that the locks name."""
    services = compose()["services"]
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert services["server"]["image"] == f"vestry:{project[1]}"
    assert services["engine"]["image"] == f"vllm/vllm-openai:v{locked_version('gpu')}"


def test_nothing_is_published_but_the_api() -> None:
    """One port, on loopback unless told otherwise; the operations port is on the container's own loopback."""
    services = compose()["services"]
    (port,) = services["server"]["ports"]
    assert (port["target"], port["published"], port["host_ip"]) == (8080, "8080", "127.0.0.1")
    assert "ports" not in services["engine"]
    assert compose(environ={**GIVEN, "VESTRY_ADDRESS": "10.0.0.5"})["services"]["server"]["ports"][0]["host_ip"] == (
        "10.0.0.5"
    )
    settings = settings_of(compose())
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 8080)
    assert settings.server.ops_host == "127.0.0.1"


def test_the_engine_has_no_way_out() -> None:
    """The engine is on one network only, which is internal; its address there is private."""
    project = compose()
    assert list(project["services"]["engine"]["networks"]) == ["engines"]
    assert project["networks"]["engines"]["internal"] is True
    address = address_of(project["services"]["engine"]["networks"]["engines"]["ipv4_address"])
    assert address is not None
    assert is_private(address)
    assert set(project["services"]["server"]["networks"]) == {"outside", "engines"}


def test_docker_gives_the_engines_address_to_nobody_else() -> None:
    """Whoever starts first, as after a reboot, gets an address from a range without those of engine and gateway; there
    is room for the server and for `docker compose run` beside it.
    """
    project = compose()
    [config] = project["networks"]["engines"]["ipam"]["config"]
    subnet, given_out = (ipaddress.ip_network(config[name]) for name in ("subnet", "ip_range"))
    fixed = [
        ipaddress.ip_address(network["ipv4_address"])
        for service in project["services"].values()
        for network in service["networks"].values()
        if "ipv4_address" in network
    ]
    taken = [*fixed, ipaddress.ip_address(config["gateway"])]
    assert len(set(taken)) == len(taken) == 2
    assert all(each in subnet and each not in given_out for each in taken)
    free = {*subnet.hosts()} & {*given_out}
    assert len(free) >= 3
    assert project["services"]["server"]["networks"]["engines"] == {}


def test_containers_have_no_rights() -> None:
    """No root, no capabilities, no new privileges, a read-only file system, bounded scratch space and logs."""
    services = compose()["services"]
    assert set(services) == {"server", "engine"}
    for name, service in services.items():
        assert service["user"] == "65532:65532", name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"}
        assert all("size=" in each for each in service["tmpfs"])
        assert service["restart"] == "unless-stopped"
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert not service.keys() & {"mem_limit", "cpus", "pids_limit"}, "Compose refuses these beside `deploy`"
        for mount in service["volumes"]:
            assert mount["type"] == "volume" or mount["read_only"] is True, (name, mount)
    assert services["server"]["deploy"]["resources"]["limits"]["pids"] == 256


def test_what_is_mounted_from_here_exists() -> None:
    """Relative sources are files of this repository; the model is a folder that must be named."""
    for service in compose()["services"].values():
        for mount in service["volumes"]:
            if mount["type"] == "bind" and mount["source"].startswith("."):
                assert (FOLDER / mount["source"]).exists(), mount
    guard = next(each for each in compose()["services"]["engine"]["volumes"] if each["target"] == "/guard")
    assert (FOLDER / guard["source"] / "vestry_guard.py").is_file()
    with pytest.raises(LookupError, match="VESTRY_MODEL: name the folder"):
        compose(environ={})


def test_secrets_are_files_and_nothing_else() -> None:
    """Secrets are mounted from files outside the repository; no variable and no argument holds one."""
    project = compose()
    assert {name: entry["file"] for name, entry in project["secrets"].items()} == {
        "key-hash": "/etc/vestry/secrets/key-hash",
        "engine-key": "/etc/vestry/secrets/engine-key",
        "audit-key": "/etc/vestry/secrets/audit-key",
    }
    assert project["services"]["server"]["secrets"] == ["key-hash", "engine-key", "audit-key"]
    assert project["services"]["engine"]["secrets"] == ["engine-key"]
    assert settings_of(project).secrets == Path("/run/secrets")
    for service in project["services"].values():
        assert not [name for name in service.get("environment", {}) if re.search("KEY|TOKEN|SECRET", name)]


def test_the_server_waits_for_a_healthy_engine() -> None:
    """Order and grace: a healthy engine first; each has as long to stop as it needs."""
    project = compose()
    server, engine = project["services"]["server"], project["services"]["engine"]
    assert server["depends_on"] == {"engine": {"condition": "service_healthy"}}
    (settings, model) = (settings_of(project), "phi-3-mini")
    assert int(server["stop_grace_period"].removesuffix("s")) >= settings.server.drain_seconds + 10
    shutdown = settings.models[model].engine.shutdown_seconds
    assert int(engine["stop_grace_period"].removesuffix("s")) >= shutdown + 10
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert json.dumps(server["healthcheck"]["test"][1:]) in dockerfile
    assert f"http://127.0.0.1:{settings.server.ops_port}/livez" in dockerfile


@pytest.mark.parametrize("service", ["server", "engine"])
def test_no_proxy_is_asked_for_a_containers_health(service: str, tmp_path: Path) -> None:
    """Docker gives every container the proxy that its user has configured; the check asks the container itself."""
    for page in ("livez", "health"):
        (tmp_path / page).touch()
    answering = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    with answering as server:
        Thread(target=server.serve_forever, daemon=True).start()
        check = compose()["services"][service]["healthcheck"]["test"][2:]
        check[-1] = re.sub(r"http://[\d.:]+/", f"http://127.0.0.1:{server.server_port}/", check[-1])
        proxied = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        done = subprocess.run([sys.executable, *check], env=proxied, capture_output=True, text=True, check=False)
        (tmp_path / "livez").unlink()
        (tmp_path / "health").unlink()
        absent = subprocess.run([sys.executable, *check], env=proxied, capture_output=True, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert absent.returncode != 0


def test_an_upgrade_starts_the_engine_anew() -> None:
    """Its guard is a file of the checkout, in which Compose sees no change: so the page has containers made anew."""
    page = (ROOT / "docs" / "install-compose.md").read_text()
    [upgrade] = re.findall(r"^Upgrade: .*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert "docker compose up --detach --force-recreate`" in upgrade


def test_the_engine_gets_a_gpu() -> None:
    """One NVIDIA GPU is reserved, and shared memory is larger than Docker's default."""
    engine = compose()["services"]["engine"]
    assert engine["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert engine["shm_size"] == "4g"


@pytest.mark.parametrize(("content", "status"), [("the-engine's key\n", 0), ("\n", 1), (None, 1)])
def test_the_engine_reads_its_key_from_the_secret(tmp_path: Path, content: str | None, status: int) -> None:
    """The entry point hands the file's key to vLLM in its environment; without a key it does not start vLLM at all."""
    secret, seen = tmp_path / "engine-key", tmp_path / "seen"
    if content is not None:
        secret.write_text(content)
    program = tmp_path / "python3"
    program.write_text(f'#!/bin/sh\nprintf "%s|%s" "$VLLM_API_KEY" "$*" > {seen}\n')
    program.chmod(0o755)
    engine = compose()["services"]["engine"]
    script = [part.replace("/run/secrets/engine-key", str(secret)) for part in engine["entrypoint"]]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*script, *engine["command"]], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert seen.exists() == (status == 0)
    if status == 0:
        assert seen.read_text() == "the-engine's key|" + " ".join(engine["command"])
