"""From the settings to whoever is believed: issuers of tokens, with their rules and keys; holders of certificates."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vestry.adapters.certificates import CertificateCredentials, Grant
from vestry.adapters.key_format import user_id
from vestry.adapters.tokens.rules import ClaimRule, GrantRule, IssuerRules
from vestry.composition.alongside import running
from vestry.configuration.export_files import token_of
from vestry.late import Late
from vestry.san import normal, pattern
from vestry.seams import Freshness, Registry
from vestry.settings.identity import CertificateGrant, Claim, Identity, Issuer, TokenGrant, steps_of
from vestry.starred import one_of
from vestry.types import Principal

if TYPE_CHECKING:
    from vestry.adapters.tokens import credentials, fetching, keysets, provider
else:  # Authlib and joserfc: where an issuer is set
    credentials = Late("vestry.adapters.tokens.credentials")
    fetching = Late("vestry.adapters.tokens.fetching")
    keysets = Late("vestry.adapters.tokens.keysets")
    provider = Late("vestry.adapters.tokens.provider")


def providers_of(issuers: tuple[Issuer, ...]) -> dict[str, tuple[IssuerRules, provider.Provider]]:
    """Rules and keys of every issuer, by its `iss`. Nothing is fetched yet."""
    return {each.issuer: (rules_of(each), _provider(each)) for each in issuers}


@contextlib.asynccontextmanager
async def tokens(
    providers: dict[str, tuple[IssuerRules, provider.Provider]],
    directory: Registry,
    freshness: Freshness,
    observe: credentials.Observe,
) -> AsyncIterator[credentials.TokenCredentials | None]:
    """The credentials that tokens are, with their issuers' keys kept current meanwhile. None where no issuer is set."""
    if not providers:
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        for _, each in providers.values():
            await stack.enter_async_context(running(each.run()))
        yield credentials.TokenCredentials(providers, directory, freshness, observe=observe)


def rules_of(issuer: Issuer) -> IssuerRules:
    """What tokens of an issuer are judged by."""
    return IssuerRules(
        name=issuer.name,
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        algorithms=frozenset(issuer.algorithms),
        leeway_seconds=issuer.leeway_seconds,
        greatest_age_seconds=issuer.greatest_age_seconds,
        access_tokens_only=issuer.typ == "at+jwt",
        certificate_bound=issuer.certificate_bound,
        clients=frozenset(issuer.clients),
        required=tuple(map(_claim, issuer.required)),
        subject=steps_of(issuer.subject),
        grants=tuple(map(_grant, issuer.grants)),
    )


def _claim(claim: Claim) -> ClaimRule:
    return ClaimRule(steps_of(claim.claim), one_of(claim.values))


def _grant(grant: TokenGrant) -> GrantRule:
    return GrantRule(
        when=tuple(map(_claim, grant.when)),
        tenant=grant.tenant or "",
        tenant_path=() if grant.tenant_claim is None else steps_of(grant.tenant_claim),
        tenants=grant.tenants,
        roles=frozenset(grant.roles),
        models=None if grant.models is None else frozenset(grant.models),
        project=grant.project or "",
    )


def _provider(issuer: Issuer) -> provider.Provider:
    return provider.Provider(
        issuer.name,
        _fetch(issuer),
        refresh_seconds=issuer.refresh_seconds,
        stale_seconds=issuer.stale_seconds,
        stamp=None if issuer.jwks_file is None else fetching.stamp_of(issuer.jwks_file),
    )


def _fetch(issuer: Issuer) -> fetching.Fetch:
    if issuer.jwks_file is not None:
        return fetching.from_file(issuer.jwks_file)
    return fetching.Asking(
        issuer.issuer, issuer.jwks_uri, ca=issuer.ca, seconds=issuer.fetch_seconds, token=_token(issuer.token)
    )


def _token(path: Path | None) -> Callable[[], str]:
    """The token to ask with, read each time: Kubernetes renews the one of a pod in its file."""

    def read() -> str:
        try:
            return "" if path is None else token_of(path)
        except OSError as fault:
            raise keysets.BadKeys(str(fault)) from fault

    return read


def supposed_id(identity: Identity, issuer: str, tenant: str, subject: str) -> str | None:
    """The public id of whoever the issuer of this name calls so; None where there is no such issuer."""
    found = next((each for each in identity.issuers if each.name == issuer), None)
    return None if found is None else user_id(found.issuer, tenant, subject)


def supposed_holder(identity: Identity, name: str) -> Principal | None:
    """Who calls with a certificate that has this name, as `DNS:host`; None for nobody."""
    kind, _, value = name.partition(":")
    written = normal(kind, value)
    fitting = (each for each in map(_certificate_grant, identity.certificates) if written and each.fits(written))
    found = next(fitting, None)
    return None if found is None or written is None else found.holder(written)


def certificates_of(identity: Identity, directory: Registry, freshness: Freshness) -> CertificateCredentials | None:
    """The credentials that client certificates are; None where none stands for anybody."""
    if not identity.certificates:
        return None
    return CertificateCredentials(map(_certificate_grant, identity.certificates), directory, freshness)


def _certificate_grant(grant: CertificateGrant) -> Grant:
    return Grant(
        fits=pattern(grant.san),
        tenant=grant.tenant,
        roles=frozenset(grant.roles),
        models=None if grant.models is None else frozenset(grant.models),
        project=grant.project or "",
        subject=grant.subject or "",
        sources=tuple(ipaddress.ip_network(each) for each in grant.sources),
    )
