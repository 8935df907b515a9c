"""A real nginx in front of a server, as an ingress that asks clients for certificates and says so in headers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.house import until
from support.ports import free_port

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {files}/tls.crt;
        ssl_certificate_key {files}/tls.key;
        ssl_client_certificate {files}/clients.crt;
        ssl_verify_client optional;
        location / {{
            proxy_pass http://127.0.0.1:{server};
            proxy_bind {source};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header ssl-client-verify $ssl_client_verify;
            proxy_set_header ssl-client-cert $ssl_client_escaped_cert;
        }}
    }}
}}
"""


@contextmanager
def ingress(folder: Path, server: int, files: Path, *, source: str) -> Iterator[int]:
    """Start it, with the `files` of a Site, calling the server from an address of its own; its port."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert binary, "nginx is not installed: apt-get install the packages of deploy/test-packages.txt"
    folder.mkdir(exist_ok=True)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # its temporary folders belong to whoever runs the tests
    text = CONFIGURATION.format(
        folder=folder,
        user=user,
        port=port,
        server=server,
        files=files,
        source=source,
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    with (folder / "log").open("wb") as log:
        command = [binary, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: _listens(port), what="nginx")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
