"""The settings of outside copies: `audit.copies`, a list whose entries differ by `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vestry.settings.section import Host, Label, Port, Seconds, Section, address_of, check_host, is_private, split_url

VKEY = r"^[^\s+]{1,200}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}$"
BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
KEYS = r"^([A-Za-z0-9._-]+/)*$"
REGION = r"^[a-z0-9-]{1,64}$"
PROFILE = r"^[A-Za-z0-9_.-]{1,64}$"


def _url(value: str) -> str:
    """`https://host[:port][/path]`; `http` for private addresses and names that are to have one."""
    parts, host, port = split_url(value)
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or port == 0
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError("write it as https://host, https://host:port or https://host/path")
    check_host(host)
    _private(host, plain=parts.scheme == "http")
    return value.rstrip("/")


def _private(host: str, *, plain: bool) -> None:
    address = address_of(host)
    if plain and address is not None and not is_private(address):
        raise ValueError("without TLS, only loopback and private addresses are spoken to")


Url = Annotated[str, AfterValidator(_url)]


class DirectoryCopy(Section):
    """A second directory, on another volume or machine."""

    kind: Literal["directory"]
    """What it is."""
    name: Label
    """Name of this copy, in metrics, messages and folders."""
    path: Path
    """The directory. It must be there: it is not made, so that a volume which is not mounted is seen."""
    required: bool = False
    """Refuse to start when it cannot be read."""


class SyslogCopy(Section):
    """A syslog receiver: RFC 5424 over TLS (RFC 5425). It cannot be asked what it holds."""

    kind: Literal["syslog"]
    """What it is."""
    name: Label
    """Name of this copy, in metrics, messages and folders."""
    host: Host
    """The receiver, as its certificate names it."""
    port: Port = 6514
    """Its port."""
    transport: Literal["tls", "tcp"] = "tls"
    """`tcp` is not encrypted and not authenticated; only loopback and private addresses are spoken to so."""
    ca: Path | None = None
    """PEM file with the authorities of its certificate. Left out: those of the system."""
    certificate: Path | None = None
    """PEM file with our client certificate and its chain, where it asks for one."""
    key: Path | None = None
    """PEM file with the private key of that certificate."""
    seconds: Seconds = 10
    """Time for one delivery."""

    @model_validator(mode="after")
    def _together(self) -> SyslogCopy:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` are given together, or neither")
        if self.transport == "tcp" and (self.ca or self.certificate):
            raise ValueError("`ca`, `certificate` and `key` are for `transport: tls`")
        _private(self.host, plain=self.transport == "tcp")
        return self


class WitnessCopy(Section):
    """An HTTP witness (C2SP tlog-witness): it vouches that every checkpoint continues the one before."""

    kind: Literal["witness"]
    """What it is."""
    name: Label
    """Name of this copy, in metrics, messages and folders."""
    url: Url
    """Its submission prefix: what stands before `/add-checkpoint`."""
    monitoring_url: Url | None = None
    """Its monitoring prefix. Left out: the same."""
    public_key: Annotated[str, Field(pattern=VKEY)]
    """Its public key, as NAME+HASH+KEY (cosignature/v1, Ed25519)."""
    ca: Path | None = None
    """PEM file with the authorities of its certificate. Left out: those of the system."""
    seconds: Seconds = 10
    """Time for one request."""
    required: bool = False
    """Refuse to start when it cannot be asked."""


class S3Copy(Section):
    """A bucket of S3, or of a server that speaks it, with object lock."""

    kind: Literal["s3"]
    """What it is."""
    name: Label
    """Name of this copy, in metrics, messages and folders."""
    endpoint: Url
    """The server, such as `https://s3.eu-central-1.storage.example`."""
    region: Annotated[str, Field(pattern=REGION)] = "us-east-1"
    """Region, for the signatures of requests."""
    bucket: Annotated[str, Field(pattern=BUCKET)]
    """The bucket. Its object lock must be on."""
    prefix: Annotated[str, Field(pattern=KEYS, max_length=200)] = ""
    """What the keys begin with: nothing, or names that each end with a slash."""
    addressing: Literal["path", "host"] = "path"
    """Whether the bucket stands in the path, or (`host`) already in the endpoint's name."""
    mode: Literal["compliance", "governance"] = "compliance"
    """The lock's mode. `compliance` binds everybody; in `governance` a special right lifts it."""
    retain_days: Annotated[int, Field(ge=1, le=36_500)] = 3650
    """Days for which each object is locked."""
    credentials: Path
    """File with the access key, in the form of AWS's shared credentials file. Nobody else may read it."""
    profile: Annotated[str, Field(pattern=PROFILE)] = "default"
    """Section of that file."""
    ca: Path | None = None
    """PEM file with the authorities of its certificate. Left out: those of the system."""
    seconds: Seconds = 10
    """Time for one request."""
    required: bool = False
    """Refuse to start when it cannot be asked."""


Copy = Annotated[DirectoryCopy | SyslogCopy | WitnessCopy | S3Copy, Field(discriminator="kind")]
