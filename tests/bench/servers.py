"""The three things that the load is sent to: the mock engine itself, a bare nginx proxy, and Vestry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.machine import REPOSITORY, BenchError, Cores, Process, free_ports, get, nginx
from bench.works import Target

MODEL = "mock"
CATALOG = "mixtral-8x7b-instruct"  # lends the mock its name, context and vocabulary; the prompt of 32k fits
NGINX_KEY = "sk-bench-static-key"

NGINX_CONFIGURATION = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 8m;
    client_body_buffer_size 128k;
    keepalive_requests 1000000000;
    map $http_authorization $known {{ default 0; "Bearer {key}" 1; }}
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            if ($known = 0) {{ return 401; }}
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def mock(binary: Path, folder: Path, cores: Cores) -> Iterator[Target]:
    """The mock engine on the core of the load."""
    port = free_ports(1)[0]
    command = [str(binary), "-p", str(port), "-m", MODEL]
    with Process("The mock engine", command, folder / "mock.log", cores.load, patience=2) as process:
        process.wait_for(lambda: get(port, "/health")[0] == 200, 5)
        yield Target("direct", port, NGINX_KEY, MODEL)


@contextmanager
def bare_nginx(engine: Target, folder: Path, cores: Cores) -> Iterator[Target]:
    """nginx with a static key check, kept-alive connections upstream and no buffering."""
    port = free_ports(1)[0]
    home = folder / "nginx"
    home.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""  # its temporary folders belong to whoever runs the bench
    text = NGINX_CONFIGURATION.format(folder=home, user=user, key=NGINX_KEY, engine=engine.port, port=port)
    (home / "nginx.conf").write_text(text)
    command = [nginx(), "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")]
    with Process("nginx", command, folder / "nginx.log", cores.server, patience=5) as process:
        process.wait_for(lambda: get(port, "/")[0] == 401, 10)
        yield Target("nginx", port, NGINX_KEY, MODEL, process)


def environment() -> dict[str, str]:
    """The environment of the server's commands: the checkout's own code, none of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VESTRY_")}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "server"), str(REPOSITORY / "tests")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def configuration(
    folder: Path, models: dict[str, Any], issuers: Sequence[Mapping[str, Any]] = ()
) -> tuple[Path, int, int]:
    """Write the server's settings; returns the file, the port of the API and that of the operations endpoints.

    Limits are all on and checked, only high enough that the load stays under them.
    """
    port, ops_port = free_ports(2)
    settings = {
        "state": str(folder / "state"),
        "server": {"port": port, "ops_port": ops_port, "admin_port": 0, "concurrency": 4096},
        "tenants": {
            "bench": {
                "concurrency": 4096,
                "requests_per_minute": 10_000_000,
                "key_concurrency": 4096,
                "key_requests_per_minute": 10_000_000,
            }
        },
        "models": models,
        "identity": {"issuers": list(issuers)},
        "log_level": "warning",
    }
    path = folder / "vestry.yaml"
    path.write_text(json.dumps(settings, indent=2))  # JSON is YAML
    return path, port, ops_port


def create_key(settings: Path) -> str:
    """A real key of the tenant `bench`, made by `vestry keys create`, after the key that signs the record."""
    init = [sys.executable, "-m", "vestry", "--config", str(settings), "audit", "init", "--name", "bench/vestry"]
    made = subprocess.run(init, capture_output=True, text=True, env=environment(), check=False)
    if made.returncode:
        raise BenchError(f"`vestry audit init` made no key: {made.stderr.strip()}")
    command = [sys.executable, "-m", "vestry", "--config", str(settings), "keys", "create", "--owner", "bench",
               "--tenant", "bench"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    found = re.search(r"\bvst_[A-Za-z0-9_-]+", done.stdout)
    if done.returncode or found is None:
        raise BenchError(f"`vestry keys create` made no key: {(done.stderr or done.stdout).strip()}")
    return found[0]


@contextmanager
def serving(
    settings: Path, port: int, ops_port: int, folder: Path, core: int | None, *, program: str = "vestry"
) -> Iterator[Process]:
    """`vestry serve`, ready when this is entered. `program` is a module with the same command line."""
    command = [sys.executable, "-m", program, "--config", str(settings), "serve"]
    with Process("Vestry", command, folder / "vestry.log", core, environment()) as process:
        process.wait_for(lambda: get(ops_port, "/readyz")[0] == 200 and get(port, "/")[0] != 0, 30)
        yield process


@contextmanager
def vestry(
    engine: Target,
    folder: Path,
    cores: Cores,
    *,
    name: str = "vestry",
    program: str = "vestry",
    issuers: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Target]:
    """The server with keys, limits, metrics and the durable record all on, or what `program` makes of it.

    `issuers` are settings of identity providers.
    """
    replicas = [{"url": f"http://127.0.0.1:{engine.port}"}]
    model = {"catalog": CATALOG, "replicas": replicas}
    settings, port, ops_port = configuration(folder, {MODEL: model}, issuers)
    key = create_key(settings)
    with serving(settings, port, ops_port, folder, cores.server, program=program) as process:
        yield Target(name, port, key, MODEL, process, ops_port)
