"""The settings of identity: whose tokens and certificates are believed, and what their holders are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from vestry.roles import Role
from vestry.san import pattern
from vestry.settings.section import (
    Label,
    Name,
    Seconds,
    Section,
    Source,
    Subject,
    check_host,
    is_this_machine,
    repeated,
    split_url,
)

ALGORITHMS = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]


def _steps(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    steps = value.split(".") if isinstance(value, str) else value
    if not steps or not all(steps) or len(steps) > 8 or any(len(each) > 256 for each in steps):
        raise ValueError("write a claim as `groups`, `realm_access.roles`, or as a list of names where one has a dot")
    return value


def _url(value: str) -> str:
    """An https URL; http on this machine only."""
    parts, host, port = split_url(value)
    if not host or port == 0 or parts.username is not None or parts.query or parts.fragment:
        raise ValueError("write it as https://host/path")
    check_host(host)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(host)):
        raise ValueError("an identity provider is asked over https only")
    return value


def _pattern(value: str) -> str:
    pattern(value)
    return value


ClaimPath = Annotated[str | tuple[str, ...], AfterValidator(_steps)]
Url = Annotated[str, Field(max_length=1024), AfterValidator(_url)]
Value = Annotated[str, Field(min_length=1, max_length=256)]
Pattern = Annotated[str, Field(max_length=512), AfterValidator(_pattern)]


def steps_of(path: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names that lead to a claim."""
    return tuple(path.split(".")) if isinstance(path, str) else path


class Claim(Section):
    """What a claim must be."""

    claim: ClaimPath
    """Name of the claim; dots lead into objects (`realm_access.roles`). A list of names where one has a dot itself."""
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=256)]
    """It is one of these, or a list that has one of them; `*` stands for any characters."""


class TokenGrant(Section):
    """What a token's holder is here, if all of `when` is so."""

    when: Annotated[tuple[Claim, ...], Field(max_length=16)] = ()
    """Conditions that all must hold. Empty: every token of the issuer."""
    tenant: Label | None = None
    """Tenant that the holder belongs to."""
    tenant_claim: ClaimPath | None = None
    """Claim that names the tenant, instead of `tenant`."""
    tenants: dict[Value, Label] = Field(default_factory=dict)
    """Tenants by the value of `tenant_claim`. Left out: the value is the tenant's name."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = (Role.USER,)
    """Roles of the holder. See docs/roles.md."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Models that the holder may use at most. Left out: all that the tenant may."""
    project: Label | None = None
    """Project that the holder's calls belong to."""

    @model_validator(mode="after")
    def _one_tenant(self) -> TokenGrant:
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("name the tenant with either `tenant` or `tenant_claim`")
        if self.tenants and self.tenant_claim is None:
            raise ValueError("`tenants` is for `tenant_claim`")
        return self


class Issuer(Section):
    """An identity provider whose access tokens (JWT) are believed."""

    name: Label
    """Name of this issuer, in records and metrics."""
    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    """The `iss` of its tokens, exactly. Its metadata is asked for there, unless `jwks_uri` or `jwks_file` is set."""
    audiences: Annotated[tuple[Value, ...], Field(min_length=1, max_length=16)]
    """The `aud` of tokens that are meant for this server: one of these."""
    algorithms: Annotated[tuple[ALGORITHMS, ...], Field(min_length=1)] = ("RS256",)
    """Signature algorithms that are accepted. No other is ever tried."""
    jwks_uri: Url | None = None
    """Where its keys are, if they are not to be found by discovery."""
    jwks_file: Path | None = None
    """File with its keys (JWKS), for a provider that cannot be asked. Looked at every second, and read again when it
    changes."""
    ca: Path | None = None
    """PEM file with the authorities that sign the provider's certificate. Left out: those of the system."""
    token: Path | None = None
    """Secret file with a bearer token to ask for the keys with, as Kubernetes' API server wants. Read at each time."""
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30
    """How far its clock may be off."""
    greatest_age_seconds: Annotated[float, Field(ge=60, le=31_622_400)] = 86_400
    """Tokens that were made earlier, or that are good for longer than this from now, are refused."""
    refresh_seconds: Annotated[float, Field(ge=30, le=86_400)] = 300
    """How often its keys are asked for. A key that it has taken back is refused after so long."""
    stale_seconds: Annotated[float, Field(ge=30, le=604_800)] = 3600
    """How long its keys hold while it cannot be asked; then tokens are answered with 503. At least `refresh_seconds`
    and twice `fetch_seconds`: so old they are when the next answer comes."""
    fetch_seconds: Seconds = 5
    """Time for it to answer."""
    typ: Literal["any", "at+jwt"] = "any"
    """`at+jwt` takes access tokens of RFC 9068 only."""
    certificate_bound: bool = False
    """Take tokens only from whoever holds the client certificate that they are bound to (RFC 8705)."""
    clients: Annotated[tuple[Value, ...], Field(max_length=256)] = ()
    """Clients (`azp` or `client_id`) whose tokens are taken. Empty: any."""
    required: Annotated[tuple[Claim, ...], Field(max_length=16)] = ()
    """What every token must claim."""
    subject: ClaimPath = "sub"
    """Claim that says who it is, in records and limits."""
    grants: Annotated[tuple[TokenGrant, ...], Field(min_length=1, max_length=256)]
    """What holders are here. The first that matches gives the tenant; others of the same tenant add to it."""

    @model_validator(mode="after")
    def _keys(self) -> Issuer:
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise ValueError("keys come from `jwks_uri` or from `jwks_file`, not from both")
        if self.jwks_uri is None and self.jwks_file is None:
            _url(self.issuer)
        return self

    @model_validator(mode="after")
    def _outlive_a_reading(self) -> Issuer:
        # Discovery asks twice. Keys that are too old by then are refused although the provider always answers.
        least = self.refresh_seconds + 2 * self.fetch_seconds
        if self.stale_seconds < least:
            raise ValueError(
                "its keys would be too old before they are read again: set `stale_seconds` to at least "
                f"{least:g} (`refresh_seconds` and twice `fetch_seconds`), or lower these"
            )
        return self


class CertificateGrant(Section):
    """Who calls with a client certificate that has a certain name."""

    san: Pattern
    """Subject alternative name: `DNS:host`, `URI:spiffe://domain/path`, `email:name@host` or `IP:network`. `*` stands
    for one part of a name: no `.` of a host, no `/` of a path."""
    tenant: Label
    """Tenant that the caller belongs to."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = (Role.USER,)
    """Roles of the caller. See docs/roles.md."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Models that the caller may use at most. Left out: all that the tenant may."""
    project: Label | None = None
    """Project that the calls belong to."""
    subject: Subject | None = None
    """What records call the caller. Left out: the name in the certificate."""
    sources: tuple[Source, ...] = ()
    """Addresses or networks that the certificate may be used from. Empty: any."""


class Identity(Section):
    """Who may call beside the holders of API keys."""

    issuers: Annotated[tuple[Issuer, ...], Field(max_length=32)] = ()
    """Identity providers whose tokens are believed. See docs/identity.md."""
    certificates: Annotated[tuple[CertificateGrant, ...], Field(max_length=1024)] = ()
    """Client certificates and whom they stand for; the first that fits decides. See docs/certificates.md."""

    @field_validator("issuers")
    @classmethod
    def _distinct(cls, value: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
        for said, each in (("named", [one.name for one in value]), ("of the issuer", [one.issuer for one in value])):
            if twice := repeated(each):
                raise ValueError(f"two of them are {said} `{twice}`: there is one entry an issuer")
        return value

    @property
    def names(self) -> frozenset[str]:
        """Names of the issuers."""
        return frozenset(each.name for each in self.issuers)
