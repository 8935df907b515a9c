"""The settings: one frozen tree, from one YAML file and the environment.

`VESTRY_SERVER__PORT=9000` overrides `server.port`; a value is read as YAML. Nothing else in the program
reads a file or the environment for its configuration. Reading, strict about types, and telling faults are
`configuration/reading.py`'s; here, Python code may write a list for a tuple or a text for a path.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from vestry.settings.identity import Identity
from vestry.settings.policy import Policy, misfits
from vestry.settings.record import Audit, Contents
from vestry.settings.section import (
    Host,
    Label,
    Name,
    Port,
    Seconds,
    Section,
    address_of,
    check_host,
    is_host_name,
    is_private,
    split_url,
)
from vestry.settings.store import Store


class Tls(Section):
    """HTTPS, and what clients show of themselves."""

    certificate: Path
    """PEM file with the server's certificate, followed by its chain."""
    key: Path
    """PEM file with the private key."""
    client_ca: Path | None = None
    """PEM file with the authorities that sign client certificates."""
    client_crl: Path | None = None
    """PEM file with the lists of revoked client certificates (CRL), one of each authority in their chains; without one
    that is current, what an authority has signed is refused."""
    client_certificates: Literal["none", "optional", "required"] = "none"
    """Whether clients show a certificate; if so, they must speak TLS 1.3. `required` refuses those without one."""
    reload_seconds: Seconds = 30
    """How often the files are looked at; changed ones serve the next connection."""

    @model_validator(mode="after")
    def _authority(self) -> Tls:
        if self.client_certificates != "none" and self.client_ca is None:
            raise ValueError("client certificates are asked for: name the authorities in `client_ca`")
        if self.client_certificates == "none" and self.client_crl is not None:
            raise ValueError("`client_crl` revokes client certificates, but `client_certificates` asks for none")
        return self


class Server(Section):
    """Where the server listens, and how much it takes on."""

    host: Host = "127.0.0.1"
    """Address of the API."""
    port: Port = 8080
    """Port of the API. 0 takes a free one."""
    ops_host: Host = "127.0.0.1"
    """Address of the operations port (`/metrics`, `/livez`, `/readyz`)."""
    ops_port: Port = 8081
    """Port of the operations endpoints. 0 takes a free one."""
    admin_host: Host = "127.0.0.1"
    """Address of the administration (`/admin/v1`)."""
    admin_port: Port = 8082
    """Port of the administration. 0 takes a free one."""
    admin_concurrency: Annotated[int, Field(ge=2, le=1000)] = 16
    """Requests to the administration in progress at once; beyond it the answer is 503. One credential may have half, as
    may all together who reach one tenant alone."""
    backlog: Annotated[int, Field(ge=128, le=65535)] = 2048
    """Connections that may wait to be accepted."""
    allowed_hosts: tuple[str, ...] = ()
    """`Host` values (without port; IPv6 addresses in brackets) that are answered. Empty: any well-formed one."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed, and `client_certificate_header`."""
    client_certificate_header: Literal["x-forwarded-client-cert", "client-cert", "ssl-client-cert"] | None = None
    """How trusted proxies say which certificate a client has shown them: Envoy's `x-forwarded-client-cert`,
    `client-cert` of RFC 9440, or `ssl-client-cert` of ingress-nginx. From anybody else such a header is ignored."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Calls in progress at once, over all tenants; beyond it the answer is 503."""
    drain_seconds: Seconds = 30
    """How long calls in progress may go on after SIGTERM."""
    tls: Tls | None = None
    """Serve HTTPS. Left out, the API and the administration speak plain HTTP."""

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            address = address_of(each)
            bare = isinstance(address, ipaddress.IPv6Address) and not each.startswith("[")
            if bare or (address is None and not is_host_name(each)):
                raise ValueError(f"`{each}` is not a host: write a name or an address, without scheme, port or path")
        return tuple(each.lower() for each in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError as error:
                raise ValueError(f"`{each}` is neither an address nor a network such as 10.0.0.0/8") from error
        return value

    @model_validator(mode="after")
    def _ports(self) -> Server:
        if self.port == self.ops_port != 0:
            raise ValueError("`port` and `ops_port` are the same: give the operations endpoints a port of their own")
        if self.admin_port and self.admin_port in {self.port, self.ops_port}:
            other = "port" if self.admin_port == self.port else "ops_port"
            raise ValueError(f"`{other}` and `admin_port` are the same: give the administration a port of its own")
        return self

    @model_validator(mode="after")
    def _believed(self) -> Server:
        if self.client_certificate_header is not None and not self.trusted_proxies:
            raise ValueError("`client_certificate_header` is believed from `trusted_proxies` only, and there are none")
        return self

    @property
    def sees_certificates(self) -> bool:
        """Whether a client certificate can reach the server at all."""
        direct = self.tls is not None and self.tls.client_certificates != "none"
        return direct or self.client_certificate_header is not None


class Door(Section):
    """Bounds on what a stranger may send, and how slowly."""

    header_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 32_768
    """Size of a request's line and headers; beyond it 431."""
    headers: Annotated[int, Field(ge=16, le=1000)] = 100
    """Number of headers; beyond it 431."""
    body_bytes: Annotated[int, Field(ge=1024, le=268_435_456)] = 4_194_304
    """Size of a request's body; beyond it 413."""
    header_seconds: Seconds = 8
    """Time for a request's headers to arrive; then 408."""
    body_seconds: Seconds = 8
    """Time for a request's body to arrive; then 408."""
    reader_seconds: Seconds = 10
    """How long a client may leave a full buffer unread before the connection is dropped."""
    keep_alive_seconds: Seconds = 75
    """How long an idle connection is kept."""
    connections: Annotated[int, Field(ge=16, le=1_000_000)] = 8192
    """Connections at once; beyond it new ones are closed."""


class Bounds(Section):
    """Bounds on the fields of a request."""

    choices: Annotated[int, Field(ge=1, le=128)] = 8
    """Greatest `n`."""
    prompts: Annotated[int, Field(ge=1, le=1024)] = 16
    """Greatest number of prompts in one `/v1/completions` request."""
    schema_bytes: Annotated[int, Field(ge=256, le=1_048_576)] = 65_536
    """Greatest size of one JSON schema or grammar."""
    expressions: bool = True
    """Whether a call may bring an expression or a grammar of its own (`structured_outputs.regex`, `grammar`). One that
    can be read in many ways slows every call at its engine. JSON schemas are taken in any case."""


class Tenant(Section):
    """What the holders of a tenant's keys may use, all together and each."""

    models: tuple[str, ...] = ("*",)
    """Models that this tenant may use; `*` is every one."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Calls in progress at once."""
    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] = 6000
    """Calls begun in a minute."""
    key_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Calls in progress at once for one key that has no bound of its own."""
    key_requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] = 3000
    """Calls begun in a minute for one key that has no bound of its own."""
    disabled: bool = False
    """Refuse everybody of this tenant."""
    content: Contents = Contents()


class Replica(Section):
    """One engine process that runs elsewhere."""

    url: str
    """`http://host:port` or `https://host:port` of an engine. Only loopback and private addresses are called."""

    @field_validator("url")
    @classmethod
    def _private(cls, value: str) -> str:
        _, host, port = split_url(value)
        if not host or not port or value.rstrip("/").lower() not in _origins(host, port):
            raise ValueError("write it as http://host:port or https://host:port, with nothing before or after")
        check_host(host)
        address = address_of(host)
        if address is not None and not is_private(address):
            raise ValueError("engines are called on loopback or private addresses only")
        return value.rstrip("/").lower()


def _origins(host: str, port: int) -> set[str]:
    name = f"[{host}]" if ":" in host else host
    return {f"{scheme}://{name}:{port}" for scheme in ("http", "https")}


class Engine(Section):
    """How `vestry engine` starts this model's engine on this machine."""

    host: Host = "127.0.0.1"
    """Address that the engine listens on: loopback, or a private one."""
    port: Port = 8100
    """Port that the engine listens on."""
    arguments: tuple[str, ...] = ()
    """More arguments for vLLM, after the catalog's own. Unsafe ones are refused."""
    startup_seconds: Seconds = 1800
    """How long the engine may take to load its model; one that does not answer by then is started anew."""
    shutdown_seconds: Seconds = 30
    """How long the engine may finish its work when told to stop."""


class Model(Section):
    """A model as clients see it, and the engines behind it."""

    catalog: Name | None = None
    """Entry of the catalog (`vestry engine --list`). Left out: the entry with the model's own name."""
    path: Path | None = None
    """Folder with the model's safetensors files. Left out: where `vestry up` prepares it."""
    replicas: tuple[Replica, ...] = ()
    """Engines that serve it. Left out: the one that `engine` describes."""
    engine: Engine = Engine()
    """How to start an engine for it here."""


class Relay(Section):
    """Towards the engines: deadlines, retries, whom to trust."""

    ca: Path | None = None
    """PEM file with the authorities that sign the certificates of engines at `https://`. Left out: those of the system.
    A changed one counts for the next connection."""
    connect_seconds: Seconds = 2
    """Time to connect to an engine."""
    first_byte_seconds: Seconds = 60
    """Time until the first byte of a streamed answer."""
    answer_seconds: Seconds = 300
    """Time until an answer in one piece is whole."""
    stream_seconds: Seconds = 3600
    """Time until a streamed answer is whole, however steadily its pieces come."""
    idle_seconds: Seconds = 30
    """Time between two pieces of an answer."""
    retry_budget: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of recent calls that may be tried on a second engine, beside those that one was too busy for."""
    event_bytes: Annotated[int, Field(ge=4096, le=67_108_864)] = 1_048_576
    """Greatest size of one event of a stream."""
    answer_bytes: Annotated[int, Field(ge=65_536, le=268_435_456)] = 33_554_432
    """Greatest size of an answer in one piece; beyond it 400, and no other engine is asked."""
    probe_seconds: Seconds = 1
    """How often each engine's health is asked for."""


class Settings(Section):
    """Vestry's settings."""

    state: Path = Path(".vestry")
    """The one directory that holds this server's state: keys, secrets, record, models."""
    server: Server = Server()
    door: Door = Door()
    bounds: Bounds = Bounds()
    relay: Relay = Relay()
    audit: Audit = Audit()
    store: Store = Store()
    identity: Identity = Identity()
    policy: Policy = Policy()
    tenants: dict[Label, Tenant] = Field(default_factory=lambda: {"default": Tenant()})
    """Tenants by name; the directory may have more. Left out: one, `default`. Where any stands here `default` has to
    stand here too, or its keys do not work."""
    models: dict[Name, Model] = Field(default_factory=lambda: {"smollm2-135m-instruct": Model()})
    """Models by the name that clients use."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the server says on standard error."""
    secrets: Path | None = None
    """Directory with `key-hash`, `engine-key`, `audit-key` and `content-hash`. Left out: `secrets/` under the state
    directory."""

    @model_validator(mode="after")
    def _known_models(self) -> Settings:
        unknown = [
            f"tenant `{tenant}` may use `{model}`, which is not among `models`"
            for tenant, grant in self.tenants.items()
            for model in grant.models
            if model != "*" and model not in self.models
        ]
        if unknown:
            raise PydanticCustomError("unknown_models", "{said}", {"said": "; ".join(unknown)})
        return self

    @model_validator(mode="after")
    def _shown(self) -> Settings:
        if self.identity.certificates and not self.server.sees_certificates:
            raise ValueError(
                "`identity.certificates` says whom client certificates stand for, but none can be shown: "
                "set `server.tls.client_certificates` or `server.client_certificate_header`"
            )
        return self

    @model_validator(mode="after")
    def _sealable(self) -> Settings:
        if self.audit.auditor is None:
            for name, tenant in self.tenants.items():
                if tenant.content.auditor is None and tenant.content.seals:
                    raise PydanticCustomError("no_auditor", "{tenant}", {"tenant": name})
        return self

    @model_validator(mode="after")
    def _rules(self) -> Settings:
        rules, issuers = self.policy.rules, self.identity.names
        found = misfits(rules, models=self.models, issuers=issuers, unsealable=self.unsealable)
        for (_, number, field, *_), what, mend in found:
            raise ValueError(f"`{field}` of the rule `{rules[int(number)].name}`: {what}. {mend}")
        return self

    @property
    def unsealable(self) -> frozenset[str]:
        """Tenants of these settings whose content cannot be sealed: there is no auditor to seal it to."""
        if self.audit.auditor is not None:
            return frozenset()
        return frozenset(name for name, tenant in self.tenants.items() if tenant.content.auditor is None)

    @property
    def audit_directory(self) -> Path:
        return self.audit.directory or self.state / "audit"

    @property
    def secrets_directory(self) -> Path:
        return self.secrets or self.state / "secrets"

    @property
    def signing_key(self) -> Path:
        return self.audit.signing_key or self.secrets_directory / "audit-key"

    @property
    def keys_database(self) -> Path:
        return self.state / "keys.sqlite"
