"""What a token must claim, and who its holder is here: plain data, made from the settings by the composition root."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from vestry.roles import Role
from vestry.starred import Fits

LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class ClaimRule(Struct, frozen=True):
    """A claim, by the names that lead to it, and what it must be or hold."""

    path: tuple[str, ...]
    fits: Fits

    def holds(self, claims: Mapping[str, Any]) -> bool:
        found = claim(claims, self.path)
        texts = found if isinstance(found, list) else [found]
        return any(self.fits(_text(each)) for each in texts if isinstance(each, str | bool | int))


class GrantRule(Struct, frozen=True):
    """As `settings.identity.TokenGrant`."""

    when: tuple[ClaimRule, ...]
    tenant: str
    tenant_path: tuple[str, ...]
    tenants: Mapping[str, str]
    roles: frozenset[Role]
    models: frozenset[str] | None
    project: str

    def tenant_of(self, claims: Mapping[str, Any]) -> str:
        """The tenant, if this grant is for these claims; else empty."""
        if not all(each.holds(claims) for each in self.when):
            return ""
        if self.tenant:
            return self.tenant
        value = claim(claims, self.tenant_path)
        if not isinstance(value, str):
            return ""
        found = self.tenants.get(value, "") if self.tenants else value
        return found if LABEL.fullmatch(found) else ""


class IssuerRules(Struct, frozen=True):
    """As `settings.identity.Issuer`."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    algorithms: frozenset[str]
    leeway_seconds: float
    greatest_age_seconds: float
    access_tokens_only: bool
    certificate_bound: bool
    clients: frozenset[str]
    required: tuple[ClaimRule, ...]
    subject: tuple[str, ...]
    grants: tuple[GrantRule, ...]


def claim(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The claim at a path; None where there is none."""
    found: Any = claims
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(value: str | bool | int) -> str:
    return value if isinstance(value, str) else str(value).lower()
