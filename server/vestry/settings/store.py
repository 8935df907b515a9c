"""The settings of the store: where tenants, users and keys are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from vestry.settings.section import Section, check_host, is_this_machine

FORM = "write it as postgresql://host:5432/database, or postgresql:///database?host=/run/postgresql for a Unix socket"
PORT = 5432


class Address(NamedTuple):
    """What a URL of PostgreSQL says. `host` begins with `/` for the folder of a Unix socket."""

    host: str
    port: int
    database: str

    @property
    def local(self) -> bool:
        """Whether nothing of it leaves this machine."""
        return self.host.startswith("/") or is_this_machine(self.host)


def address(url: str) -> Address:
    """Raises ValueError, with a sentence, for what is no URL of a database."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(FORM) from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name or password does not belong here: use `store.user` and `store.password`")
    database = unquote(parts.path.removeprefix("/"))
    socket = options.pop("host", None)
    if options or parts.scheme != "postgresql" or parts.fragment or not database or "/" in database or port == 0:
        raise ValueError(FORM)
    if (host is None) == (socket is None) or (socket is not None and not socket.startswith("/")):
        raise ValueError(FORM)
    if not database.isprintable() or not (socket or "").isprintable():
        raise ValueError(FORM)
    return Address(socket or check_host(host or ""), port or PORT, database)


class Store(Section):
    """Where tenants, users and keys are kept: in a file of this server's, or in PostgreSQL for several servers."""

    url: str | None = None
    """`postgresql://host:5432/database`, without name and password; `postgresql:///database?host=/run/postgresql` for
    a Unix socket. Left out: SQLite, in `keys.sqlite` in the state directory."""
    user: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00-\x1f\x7f]+$")] = "vestry"
    """Name that PostgreSQL knows this server by."""
    password: Path | None = None
    """Secret file with the password. Left out: none, for a socket or a client certificate. Read for each connection."""
    tls: Literal["verify", "none"] | None = None
    """Whether the connection is encrypted, and PostgreSQL's certificate verified. Left out: `verify`, unless PostgreSQL
    is on this machine. `none` sends keys' hashes, and what you write about tenants, in the clear."""
    ca: Path | None = None
    """PEM file with the authorities of PostgreSQL's certificate. Left out: those of the system. A changed one
    serves the next connection."""
    certificate: Path | None = None
    """PEM file with a client certificate and its chain, where PostgreSQL asks for one. A changed one
    serves the next connection."""
    key: Path | None = None
    """PEM file with the private key of `certificate`."""
    connections: Annotated[int, Field(ge=2, le=200)] = 8
    """Greatest number of connections, beside the one that listens for changes."""
    connect_seconds: Annotated[float, Field(ge=0.1, le=60)] = 2
    """Time to connect."""
    statement_seconds: Annotated[float, Field(ge=0.1, le=60)] = 2
    """Time for one question or change."""
    stale_seconds: Annotated[float, Field(ge=3, le=86_400)] = 30
    """For how long what is remembered of keys and tenants holds when PostgreSQL cannot be heard; then calls are refused
    with 503. Within this time a key that was revoked meanwhile may still be used."""

    @field_validator("url")
    @classmethod
    def _database(cls, value: str | None) -> str | None:
        if value is not None:
            address(value)
        return value

    @model_validator(mode="after")
    def _together(self) -> Store:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs both `certificate` and `key`")
        return self

    @property
    def address(self) -> Address | None:
        """The database; None for SQLite."""
        return None if self.url is None else address(self.url)

    @property
    def encrypted(self) -> bool:
        """Whether PostgreSQL is spoken to over TLS."""
        where = self.address
        return where is not None and (not where.local if self.tls is None else self.tls == "verify")
