"""A real syslog receiver (rsyslog) on loopback, over TLS or plain TCP, that writes what it understood, by field."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from support.house import until
from support.ports import free_port

FIELDS = ("pri", "timestamp:::date-rfc3339", "hostname", "app-name", "procid", "msgid", "structured-data", "msg")


@dataclass(frozen=True)
class Receiver:
    """A running receiver. `written` has a file of its own, outside of what it serves."""

    port: int
    written: Path

    def messages(self) -> list[dict[str, str]]:
        """What it has understood so far."""
        if not self.written.exists():
            return []
        lines = self.written.read_text().splitlines()
        names = [each.partition(":")[0] for each in FIELDS]
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def wait_for(self, count: int) -> list[dict[str, str]]:
        until(lambda: len(self.messages()) >= count, seconds=45, what=f"{count} messages")
        return self.messages()


@contextmanager
def receiver(folder: Path, authority: trustme.CA | None, *, port: int = 0, clients: bool = False) -> Iterator[Receiver]:
    """Start one; with an `authority` it speaks TLS as `localhost`, and with `clients` asks for their certificates."""
    binary = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    assert binary, "rsyslog is not installed: apt-get install the packages of deploy/test-packages.txt"
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    written = folder / "written"
    pattern = "|".join(f"%{name}%" for name in FIELDS)
    lines = [
        *(
            _tls(folder, authority, clients)
            if authority
            else [f'global(workDirectory="{folder}")', 'module(load="imtcp")']
        ),
        f'template(name="fields" type="string" string="{pattern}\\n")',
        f'input(type="imtcp" port="{port}" address="127.0.0.1")',
        f'action(type="omfile" file="{written}" template="fields")',
    ]
    configuration = folder / "rsyslog.conf"
    configuration.write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        command = [binary, "-n", "-f", str(configuration), "-i", str(folder / "pid")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: _listens(port), what="rsyslog")
        yield Receiver(port, written)
    finally:
        process.terminate()
        process.wait(10)


def _tls(folder: Path, authority: trustme.CA, clients: bool) -> list[str]:
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    mode = "x509/certvalid" if clients else "anon"
    return [
        f'global(workDirectory="{folder}" defaultNetstreamDriver="ossl" '
        f'defaultNetstreamDriverCAFile="{folder}/ca.pem" defaultNetstreamDriverCertFile="{folder}/server.pem" '
        f'defaultNetstreamDriverKeyFile="{folder}/server.key")',
        f'module(load="imtcp" streamDriver.Name="ossl" streamDriver.Mode="1" streamDriver.AuthMode="{mode}")',
    ]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
