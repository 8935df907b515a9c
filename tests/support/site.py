"""A server with HTTPS that asks its clients for certificates: files, settings, and clients of it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme

from support.certificates import Clients, Shown


class Site:
    """A folder with the server's certificate and the clients' authority; makes settings and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server, self.clients = folder, trustme.CA(), Clients()
        issued = self.server.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(folder / "tls.key"))
        (folder / "tls.key").chmod(0o600)
        (folder / "tls.crt").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        self.put("clients.crt", self.clients.pem)

    def put(self, name: str, content: bytes) -> Path:
        """A file, put in the place of the old one."""
        draft = self.folder / f"{name}.new"
        draft.write_bytes(content)
        return draft.replace(self.folder / name)

    def settings(self, mode: str = "optional", **more: Any) -> dict[str, Any]:
        files = {"certificate": "tls.crt", "key": "tls.key", "client_ca": "clients.crt"}
        tls = {name: self.folder / file for name, file in files.items()}
        return {"tls": {**tls, "client_certificates": mode, "reload_seconds": 0.1, **more}}

    def context(self, shown: Shown | None) -> ssl.SSLContext:
        """A client that shows this certificate."""
        context = ssl.create_default_context()
        self.server.configure_trust(context)
        return context if shown is None else shown.load(context, self.folder)
