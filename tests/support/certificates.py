"""Certificates made on the spot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from vestry.settings import Tls

_AUTHORITY = trustme.CA()


def made(folder: Path, *, begins_days: float = -1, ends_days: float = 30) -> Tls:
    """A certificate for localhost and its key, as files in a folder, valid between two days from now."""
    now = datetime.now(UTC)
    issued = _AUTHORITY.issue_cert(
        "localhost", not_before=now + timedelta(days=begins_days), not_after=now + timedelta(days=ends_days)
    )
    certificate, key, authority = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    _AUTHORITY.cert_pem.write_to_path(str(authority))
    return Tls(certificate=certificate, key=key)
