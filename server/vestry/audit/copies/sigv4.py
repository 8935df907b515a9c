"""Signing requests to S3: AWS Signature Version 4, in the Authorization header, for the service `s3`.

Source: "Create a signed AWS API request" and "Authenticating requests: using the Authorization header" of the AWS
documentation. Tested against AWS's published test suite and against botocore.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote

from msgspec import Struct

_ALGORITHM = "AWS4-HMAC-SHA256"
_SPACES = re.compile(r" +")


class Credentials(Struct, frozen=True):
    """What signs. `str()` and `repr()` show the access key only."""

    access_key: str
    secret_key: str
    token: str = ""
    """Session token, of temporary credentials."""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key})"

    __str__ = __repr__


def quoted(text: str, safe: str = "") -> str:
    """URI encoding as AWS wants it: everything but unreserved characters (RFC 3986), in capitals."""
    return quote(text, safe=safe + "-._~")


def query_of(parameters: Mapping[str, str]) -> str:
    """A canonical query string: encoded, then sorted."""
    return "&".join(f"{name}={value}" for name, value in sorted((quoted(k), quoted(v)) for k, v in parameters.items()))


def authorization(
    credentials: Credentials,
    *,
    region: str,
    service: str,
    now: datetime,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
) -> str:
    """The value of the Authorization header.

    `path` and `query` are encoded already, as they go over the wire; `headers` are all that are to be signed, `host`
    and `x-amz-date` (of `now`, UTC) among them; `payload` is the body's SHA-256 in hex, or UNSIGNED-PAYLOAD.
    """
    date = f"{now:%Y%m%d}"
    scope = f"{date}/{region}/{service}/aws4_request"
    plain = sorted((name.lower(), _SPACES.sub(" ", value.strip())) for name, value in headers.items())
    signed = ";".join(name for name, _ in plain)
    lines = "".join(f"{name}:{value}\n" for name, value in plain)
    canonical = f"{method}\n{path or '/'}\n{query}\n{lines}\n{signed}\n{payload}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    string = f"{_ALGORITHM}\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{digest}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, string.encode(), hashlib.sha256).hexdigest()
    return f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
