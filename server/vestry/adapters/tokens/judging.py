"""Judges what a verified token claims (RFC 7519, section 4.1; RFC 9068, section 2.2), and says who its holder is."""

from __future__ import annotations

from typing import Any

from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from vestry.adapters.key_format import user_id
from vestry.adapters.tokens.compact import BadToken, Compact
from vestry.adapters.tokens.rules import IssuerRules, claim
from vestry.roles import Role
from vestry.types import Certificate, Principal, Via

ACCESS_TOKEN = ("client_id", "jti", "iat", "sub")
"""What RFC 9068 wants, beside what every token has."""
OF_OTHERS = frozenset({"nonce", "at_hash", "c_hash", "events"})
"""Claims that only ID tokens have, which are for the client and are not shown to servers; and security events, such as
logout tokens (RFC 8417; OpenID Connect Back-Channel Logout 1.0, section 2.4). An ID token may have none of them (OpenID
Connect Core 1.0, section 2): then only its audience tells it from an access token, or `typ`.
"""
KEYCLOAK = frozenset({"id", "refresh", "offline", "logout"})
"""What Keycloak's claim `typ` says, in lower case, of tokens that are no access tokens."""


def judge(rules: IssuerRules, token: Compact, certificate: Certificate | None, now: float) -> int:
    """Raises BadToken for claims that are not acceptable. The time of expiry, in microseconds since the epoch.

    `now` is in seconds since the epoch.
    """
    claims = token.claims
    _registered(rules, claims, now)
    if rules.access_tokens_only and not token.typ.endswith("at+jwt"):
        raise BadToken("it is no access token by its `typ`")
    if OF_OTHERS & claims.keys() or _texts(claims.get("typ")).lower() in KEYCLOAK:
        raise BadToken("it is an ID token, or tells of an event")
    if rules.clients and not {_texts(claims.get("azp")), _texts(claims.get("client_id"))} & rules.clients:
        raise BadToken("its client is not among those that are allowed")
    if not all(each.holds(claims) for each in rules.required):
        raise BadToken("it lacks a claim that is required")
    _bound(rules, claims, certificate)
    return round((float(claims["exp"]) + rules.leeway_seconds) * 1_000_000)


def _registered(rules: IssuerRules, claims: dict[str, Any], now: float) -> None:
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if name in claims and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53):
            raise BadToken(f"its `{name}` is no time")
    essential: dict[str, Any] = {name: {"essential": True} for name in ACCESS_TOKEN if rules.access_tokens_only}
    registry = JWTClaimsRegistry(
        now=int(now),
        leeway=int(rules.leeway_seconds),
        iss={"essential": True, "value": rules.issuer},
        aud={"essential": True, "values": list(rules.audiences)},
        exp={"essential": True},
        **essential,
    )
    audience = claims.get("aud")
    if not isinstance(audience, str) and not (
        isinstance(audience, list) and all(isinstance(each, str) for each in audience)
    ):
        raise BadToken("its `aud` is no text, and no list of texts")
    try:
        registry.validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        why = getattr(error, "description", type(error).__name__)  # joserfc's words, and nothing of what was claimed
        raise BadToken(f"a claim is not acceptable ({why})") from None
    if claims["exp"] <= now - rules.leeway_seconds:
        raise BadToken("it has expired")
    if claims["exp"] > now + rules.greatest_age_seconds + rules.leeway_seconds:
        raise BadToken("it is good for longer than is allowed")
    if claims["exp"] - claims.get("iat", claims["exp"]) > rules.greatest_age_seconds + rules.leeway_seconds:
        raise BadToken("it was made for longer than is allowed")
    if claims.get("iat", now) < now - rules.greatest_age_seconds - rules.leeway_seconds:
        raise BadToken("it was made too long ago")
    if claims.get("iat", now) > now + rules.leeway_seconds:
        raise BadToken("it was made in the future")


def _bound(rules: IssuerRules, claims: dict[str, Any], certificate: Certificate | None) -> None:
    """RFC 8705, section 3: a token that is bound to a certificate is worth nothing without it."""
    confirmation = claims.get("cnf")
    thumbprint = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
    if confirmation is None and not rules.certificate_bound:
        return
    if not isinstance(thumbprint, str) or certificate is None or certificate.thumbprint != thumbprint:
        raise BadToken("it is bound to a key that its holder has not shown")


def holder(rules: IssuerRules, claims: dict[str, Any]) -> Principal:
    """Who holds a token with these claims. Raises BadToken where no grant is theirs."""
    subject = claim(claims, rules.subject)
    if not isinstance(subject, str) or not 0 < len(subject) <= 128 or not subject.isprintable():
        raise BadToken("it names no subject")
    if subject != subject.strip():
        raise BadToken("its subject begins or ends with a space")
    tenant, project = "", ""
    roles: set[Role] = set()
    models: set[str] | None = set()
    for grant in rules.grants:
        found = grant.tenant_of(claims)
        if not found or (tenant and found != tenant):
            continue
        tenant, project = found, project or grant.project
        roles |= grant.roles
        models = None if models is None or grant.models is None else models | grant.models
    if not tenant:
        raise BadToken("no grant of the settings is for it")
    return Principal(
        user_id(rules.issuer, tenant, subject),
        tenant,
        subject,
        frozenset(roles),
        None if models is None else frozenset(models),
        project=project,
        via=Via.TOKEN,
        issuer=rules.name,
    )


def _texts(value: Any) -> str:
    return value if isinstance(value, str) else ""
