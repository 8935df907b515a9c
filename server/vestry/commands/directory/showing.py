"""A key as lists and JSON show it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from vestry.adapters.memory import wall
from vestry.audit.records import rfc3339, rfc3339_or_none
from vestry.commands.directory.common import safe
from vestry.roles import named
from vestry.types import Key

STATES = ("active", "frozen", "expired", "revoked", "damaged", "no-tenant")


def described(key: Key, tenants: Collection[str]) -> dict[str, Any]:
    """All that is known of it. `tenants` are those that there are."""
    state = key.state(wall())
    return {
        "id": key.id,
        "owner": key.owner,
        "tenant": key.tenant,
        "project": key.project or None,
        "role": named(key.roles),
        "models": None if key.models is None else sorted(key.models),
        "routes": None if key.routes is None else sorted(key.routes),
        "sources": [str(each) for each in key.sources],
        "concurrency": key.limits.concurrency,
        "requests_per_minute": key.limits.requests_per_minute,
        "state": "no-tenant" if state == "active" and key.tenant not in tenants else state,
        "created": rfc3339(key.created),
        "expires": rfc3339_or_none(key.expires),
        "frozen": rfc3339_or_none(key.frozen),
        "revoked": rfc3339_or_none(key.revoked),
        "last_used": rfc3339_or_none(key.last_used),
        "replaces": key.replaces or None,
        "made_by": key.made_by or None,
        "version": key.version,
        "damaged": key.damaged or None,
    }


def models_of(key: Key) -> str:
    """The models that it may use, for people."""
    return "all of the tenant's" if key.models is None else ", ".join(sorted(key.models))


def lines(row: Mapping[str, Any]) -> str:
    """One key, a line for each thing that is known of it."""
    known = {name: value for name, value in row.items() if value not in (None, [])}
    width = max(map(len, known)) + 2
    return "\n".join(f"{name:<{width}}{safe(_said(value))}" for name, value in known.items())


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _column(name: str, otherwise: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row[name] or otherwise)[:16] if name in {"expires", "last_used"} else str(row[name])


COLUMNS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "ID": _column("id", ""),
    "OWNER": _column("owner", ""),
    "TENANT": _column("tenant", ""),
    "ROLE": _column("role", ""),
    "MODELS": lambda row: ",".join(row["models"] or ["*"]),
    "STATE": _column("state", ""),
    "EXPIRES": _column("expires", "never"),
    "LAST-USED": _column("last_used", "never"),
}
