"""What a verified token claims is judged claim by claim."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.tokens import AUDIENCE, ISSUER, claims
from vestry.adapters.tokens.compact import BadToken, Compact
from vestry.adapters.tokens.judging import holder, judge
from vestry.adapters.tokens.rules import ClaimRule, GrantRule, IssuerRules
from vestry.roles import Role
from vestry.starred import one_of
from vestry.types import Certificate


def rules(**changes: Any) -> IssuerRules:
    """An issuer that takes every token of its own."""
    usual: dict[str, Any] = {
        "name": "hospital",
        "issuer": ISSUER,
        "audiences": (AUDIENCE,),
        "algorithms": frozenset({"RS256"}),
        "leeway_seconds": 30,
        "greatest_age_seconds": 3600,
        "access_tokens_only": False,
        "certificate_bound": False,
        "clients": frozenset(),
        "required": (),
        "subject": ("sub",),
        "grants": (grant(),),
    }
    return IssuerRules(**{**usual, **changes})


def grant(**changes: Any) -> GrantRule:
    usual: dict[str, Any] = {
        "when": (),
        "tenant": "radiology",
        "tenant_path": (),
        "tenants": {},
        "roles": frozenset({Role.USER}),
        "models": None,
        "project": "",
    }
    return GrantRule(**{**usual, **changes})


def token(said: dict[str, Any], typ: str = "jwt") -> Compact:
    return Compact("", "RS256", None, typ, said)


FULL = {"client_id": "app", "jti": "1"}
HELD = Certificate("t" * 43, (), 0, 1)


@pytest.mark.parametrize(
    ("changed", "said", "typ", "why"),
    [
        ({"access_tokens_only": True}, FULL, "jwt", "typ"),
        ({"access_tokens_only": True}, {"client_id": "app"}, "at+jwt", "Missing claim: 'jti'"),
        ({}, {"aud": "other"}, "jwt", "'aud'"),
        ({}, {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3600}, "jwt", "issued in the future"),
        ({}, {"exp": int(time.time()) - 3600}, "jwt", "expired"),
        ({}, {"at_hash": "x"}, "jwt", "ID token"),
        ({}, {"typ": "Refresh"}, "jwt", "ID token"),
        ({"clients": frozenset({"app"})}, {"azp": "other"}, "jwt", "client"),
        ({"required": (ClaimRule(("acr",), one_of(("mfa",))),)}, {"acr": "pwd"}, "jwt", "lacks"),
        ({"certificate_bound": True}, {}, "jwt", "bound"),
        ({}, {"cnf": {"x5t#S256": "other"}}, "jwt", "bound"),
        ({}, {"cnf": "x"}, "jwt", "bound"),
        ({}, {"aud": [1]}, "jwt", "aud"),
        ({}, {"iat": int(time.time()) - 7200}, "jwt", "made"),
        ({}, {"exp": int(time.time()) + 7200}, "jwt", "longer"),
        ({}, {"exp": -1}, "jwt", "no time"),
        ({}, {"nbf": "now"}, "jwt", "no time"),
    ],
)
def test_each_fault_is_found(changed: dict[str, Any], said: dict[str, Any], typ: str, why: str) -> None:
    """And the reason, for the operator's log, says which."""
    with pytest.raises(BadToken, match=why):
        judge(rules(**changed), token(claims(**said), typ), HELD, time.time())


def test_a_good_one_of_each_kind_is_taken() -> None:
    """An access token of RFC 9068, one of an allowed client, one that is bound to the certificate that was shown."""
    now = time.time()
    judge(rules(access_tokens_only=True), token(claims(**FULL), "application/at+jwt"), None, now)
    judge(rules(clients=frozenset({"app"})), token(claims(**FULL)), None, now)
    judge(rules(certificate_bound=True), token(claims(cnf={"x5t#S256": "t" * 43})), HELD, now)
    expires = judge(rules(), token(claims(exp=2_000_000_000, iat=None)), None, 1_999_999_000)
    assert expires == 2_000_000_030_000_000


@pytest.mark.parametrize("subject", [None, 1, "", "x" * 129, "a\nb", " a", "a "])
def test_a_subject_is_a_short_printable_text(subject: Any) -> None:
    """It stands in every record."""
    with pytest.raises(BadToken, match="subject"):
        holder(rules(), claims(sub=subject))


def test_grants_add_up_within_the_first_ones_tenant() -> None:
    """Roles and models of all that match and name the same tenant; others are left out."""
    heads = ClaimRule(("groups",), one_of(("heads",)))
    given = rules(
        grants=(
            grant(models=frozenset({"small"})),
            grant(when=(heads,), roles=frozenset({Role.TENANT_ADMIN}), models=frozenset({"large"}), project="trial"),
            grant(tenant="research", roles=frozenset({Role.ADMIN})),
        )
    )
    plain = holder(given, claims())
    assert (plain.tenant, plain.role, plain.models) == ("radiology", "user", frozenset({"small"}))
    head = holder(given, claims(groups=["heads"]))
    assert (head.role, head.models, head.project) == ("tenant-admin,user", frozenset({"small", "large"}), "trial")


def test_a_claim_may_name_the_tenant() -> None:
    """As it is, or by a table; what is no name of a tenant is none."""
    named = rules(grants=(grant(tenant="", tenant_path=("org", "dep.artment")),))
    assert holder(named, claims(org={"dep.artment": "oncology"})).tenant == "oncology"
    mapped = rules(grants=(grant(tenant="", tenant_path=("tid",), tenants={"4711": "oncology"}),))
    assert holder(mapped, claims(tid="4711")).tenant == "oncology"
    for bad in (claims(tid="4712"), claims(tid=5), claims()):
        with pytest.raises(BadToken, match="grant"):
            holder(mapped, bad)
    with pytest.raises(BadToken, match="grant"):
        holder(named, claims(org={"dep.artment": "../etc"}))
