"""The settings of the record: the log, what of contents is kept beside it, its copies and exports, legal holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from vestry.auditor import AuditorKey
from vestry.settings.copies import Copy
from vestry.settings.section import (
    COMMANDS,
    ORIGIN,
    Label,
    Seconds,
    Section,
    Subject,
    check_host,
    check_names,
    is_this_machine,
    split_url,
)

WITHIN = frozenset({"tile", "spool", "cosigned", "content", "export", "checkpoint", "lock", "origins"})
"""What has its name within a log, or beside the logs of a house."""


def _auditor(value: str) -> str:
    AuditorKey.parse(value)
    return value


Auditor = Annotated[str, AfterValidator(_auditor)]
Mode = Literal["metadata", "hashed", "sealed", "full"]
Route = Literal["chat.completions", "completions"]


class Contents(Section):
    """What of prompts and answers is kept beside the record. A client has no word in it."""

    default: Mode = "metadata"
    """Mode of every route that `routes` does not name. `metadata` keeps nothing, and no hash."""
    routes: dict[Route, Mode] = Field(default_factory=dict)
    """Modes of single routes."""
    auditor: Auditor | None = None
    """Public key (`vestry audit keygen`) that content is sealed to. Left out: `audit.auditor`."""

    @property
    def seals(self) -> bool:
        """Whether content of some route is sealed."""
        return "sealed" in {self.default, *self.routes.values()}

    def mode(self, route: str) -> str:
        """The mode of a route, by its name in records."""
        return {**self.routes}.get(route, self.default)  # type: ignore[call-overload,no-any-return]

    def modes(self) -> set[str]:
        """The modes of all routes."""
        return {self.mode(route) for route in get_args(Route)}


class Export(Section):
    """One place that the audit log's records are sent to as they are written."""

    name: Label
    """Name of this export, in metrics and in the name of its cursor."""
    url: str
    """`tls://host:port` of a syslog receiver (RFC 5425), or the `https://` URL of an HTTP collector; `http://` only on
    this machine."""
    format: Literal["jsonl", "ocsf", "cef"] = "jsonl"
    """The records as they are, as OCSF events, or as CEF lines."""
    ca: Path | None = None
    """PEM file with the authorities that sign the receiver's certificate. Left out: those of the system."""
    certificate: Path | None = None
    """PEM file with a client certificate and its chain, for receivers that ask for one."""
    key: Path | None = None
    """PEM file with the private key of `certificate`."""
    token: Path | None = None
    """Secret file with the token that an HTTP collector asks for."""
    token_scheme: Annotated[str, Field(pattern=r"^[A-Za-z]{1,32}$")] = "Bearer"  # noqa: S105 - a word
    """What stands before the token in `Authorization`, such as `Bearer` or `Splunk`."""
    batch_records: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Greatest number of records that are sent at once."""
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    """Time for the receiver to take one batch."""

    @field_validator("url")
    @classmethod
    def _receiver(cls, value: str) -> str:
        parts, host, port = split_url(value)
        if not host or port == 0 or parts.username is not None or parts.fragment:
            raise ValueError("write it as tls://host:6514, or https://host/path")
        check_host(host)
        if parts.scheme == "tls" and (port is None or parts.path.strip("/") or parts.query):
            raise ValueError("write it as tls://host:6514")
        if parts.scheme not in {"tls", "https"} and not (parts.scheme == "http" and is_this_machine(host)):
            raise ValueError("records leave this machine over TLS only: tls:// for syslog, https:// for HTTP")
        return value

    @model_validator(mode="after")
    def _secrets(self) -> Export:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs both `certificate` and `key`")
        if self.token is not None and not self.url.startswith("http"):
            raise ValueError("a token is for HTTP: a syslog receiver asks for a client certificate")
        return self


class Hold(Section):
    """A legal hold: what it covers is neither erased nor pruned."""

    tenant: Label | None = None
    """Tenant that is held. Left out: every one."""
    subject: Subject | None = None
    """Person or program that is held: the owner of a key, or whom a token or certificate names. Left out: every one of
    the tenant."""
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """Why, in the words that a refused erasure gives."""

    @model_validator(mode="after")
    def _covers(self) -> Hold:
        if self.tenant is None and self.subject is None:
            raise ValueError("a hold names a `tenant`, a `subject`, or both")
        return self


class Retention(Section):
    """How long records are kept."""

    days: Annotated[int, Field(ge=1, le=36_525)]
    """Records older than this are pruned. Law often asks for years: HIPAA for six, PCI DSS for one."""


class Audit(Section):
    """The record: where it is kept, and how."""

    directory: Path | None = None
    """Where the record is kept. Left out: `audit/` under the state directory."""
    origin: Annotated[str, Field(pattern=ORIGIN)] = "server"
    """Name of this process's log. Every server process has its own."""
    commands: Annotated[str, Field(pattern=COMMANDS)] = "cli"
    """Name of the log in which commands record what they do: `cli`, or something that ends in `-cli`. Of servers with
    one signing key, and a directory each for the record, every one has its own."""
    commit_seconds: Seconds = 2
    """How long a call waits for its record; then 503."""
    segment_bytes: Annotated[int, Field(ge=65_536, le=1 << 30)] = 67_108_864
    """Size at which the journal goes on in a new file."""
    signing_key: Path | None = None
    """File with the key that signs the log. Left out: `audit-key` in the secrets directory."""
    checkpoint_records: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    """A checkpoint of the log is signed after so many records."""
    checkpoint_seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    """So long after the last one another is signed, if there is anything new."""
    copies: tuple[Copy, ...] = ()
    """Where checkpoints are copied to, outside of this server's reach. See docs/audit-copies.md."""
    exports: tuple[Export, ...] = ()
    """Where records are sent as they are written: a SIEM, a collector. What is down does not hold up a call."""
    auditor: Auditor | None = None
    """Public key (`vestry audit keygen`) that `sealed` content is sealed to, where a tenant names none of its own."""
    content_bytes: Annotated[int, Field(ge=4096, le=67_108_864)] = 4_194_304
    """Most that is kept of one prompt, and of one answer's text; the record says how much was left out."""
    reconcile_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 15
    """How often the engines' own counters are read, and compared with the log."""
    engines_shared: bool = False
    """Other servers use the same engines: the sum over all logs is judged (`vestry audit reconcile`), not this log."""
    retention: Retention | None = None
    """When records are pruned. Left out: never."""
    holds: tuple[Hold, ...] = ()
    """Legal holds, which stop erasing and pruning."""

    @field_validator("copies", "exports")
    @classmethod
    def _distinct(cls, value: tuple[Copy, ...] | tuple[Export, ...]) -> tuple[Copy, ...] | tuple[Export, ...]:
        check_names([each.name for each in value])
        return value

    @field_validator("origin")
    @classmethod
    def _folder(cls, value: str) -> str:
        if re.fullmatch(COMMANDS, value):
            raise ValueError("`cli`, and what ends in `-cli`, is a log of the command line: take another name")
        if any(part in {"", ".", ".."} for part in value.split("/")):
            raise ValueError("between slashes stands a name, not nothing, `.` or `..`")
        if taken := WITHIN.intersection(value.split("/")):
            raise ValueError(f"`{min(taken)}` has its place within a log: take another name")
        return value
