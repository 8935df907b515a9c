"""What the administration answers, as forms: the OpenAPI document is made from them, and the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError

from vestry.admin.bodies import KeyBody, Project, User, told
from vestry.admin.documents import Kept
from vestry.audit.records import rfc3339, rfc3339_or_none
from vestry.glass import Grant
from vestry.roles import Role
from vestry.settings.policy import Policy, Rules
from vestry.settings.section import Section
from vestry.settings.tree import Tenant
from vestry.types import Key


class Thing(Section):
    """What all answers about one document have in common. `spec` is what a `PUT` writes, whole."""

    name: str
    version: int
    """Also the `ETag`. 0: declared in the settings."""
    created: str | None = None
    updated: str | None = None
    damaged: str = ""
    """Why it cannot be used, where somebody has changed it by hand: `spec` is `null` then. A `PUT` mends it."""


class TenantShown(Thing):
    """A tenant."""

    object: Literal["tenant"] = "tenant"
    declared: bool = False
    """Whether it stands in the settings, and can be changed only there."""
    spec: Tenant | None


class ProjectShown(Thing):
    """A project of a tenant."""

    object: Literal["project"] = "project"
    tenant: str
    spec: Project | None


class UserShown(Thing):
    """A user of a tenant, as tokens and certificates name them."""

    object: Literal["user"] = "user"
    tenant: str
    spec: User | None


class KeyShown(Section):
    """An API key: all but the key itself."""

    object: Literal["key"] = "key"
    id: str
    tenant: str
    state: Literal["active", "frozen", "expired", "revoked", "damaged"]
    version: int
    created: str
    made_by: str = ""
    last_used: str | None = None
    frozen: str | None = None
    revoked: str | None = None
    replaces: str = ""
    """Id of the key that this one takes over from."""
    damaged: str = ""
    """Why it cannot be used, where somebody has changed it by hand: `spec` is `null` then. It can be revoked."""
    spec: KeySpec | None


class KeySpec(KeyBody):
    """What a `PUT` of a key writes. A time of expiry may have passed."""

    owner: str
    expires: str | None = None  # type: ignore[assignment]


class KeyMade(KeyShown):
    """A new key, with its text, which is shown this once."""

    secret: str | None = None
    """The key itself. `null` where it was made before with the same `Idempotency-Key`, and shown then."""


class GlassShown(Section):
    """A break-glass grant."""

    object: Literal["break-glass"] = "break-glass"
    id: str
    version: int
    state: Literal["asked", "lapsed", "active", "over", "ended", "damaged"]
    damaged: str = ""
    """Why it cannot be used, where somebody has changed it by hand: `grant` is `null` then, and its end removes it."""
    grant: Grant | None


class PolicyShown(Thing):
    """The policy: the directory's rules, and those of the settings, which are tried before them."""

    object: Literal["policy"] = "policy"
    spec: Rules | None
    settings: Policy


class Step(Section):
    """One question that was asked on the way; `rule` names the rule whose it is, `origin` says where that stands."""

    asked: str
    answer: str
    rule: str = ""
    origin: str = ""


class Explained(Section):
    """What would become of a call, and why. `status` and `message` are what the client would be told."""

    object: Literal["explanation"] = "explanation"
    allowed: bool
    rule: str
    status: int
    message: str
    steps: tuple[Step, ...]
    bounds: dict[str, int | str | bool]


class Me(Section):
    """Who calls."""

    object: Literal["principal"] = "principal"
    tenant: str
    subject: str
    credential: str
    """Public id of the credential."""
    via: Literal["key", "token", "certificate"]
    issuer: str = ""
    project: str = ""
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    whole_house: tuple[str, ...]
    """Those of the permissions that reach every tenant."""
    break_glass: str = ""
    """Id of the grant that lends one of the roles."""


class RoleShown(Section):
    """A role, and what it may do."""

    role: Role
    whole_house: bool
    """Whether it reaches every tenant, and not only the holder's own."""
    permissions: tuple[str, ...]


class Replica(Section):
    """An engine process."""

    model: str
    replica: str
    healthy: bool
    outstanding: int


class State(Section):
    """How the server is: what `vestry audit status`, readiness and the router say."""

    object: Literal["state"] = "state"
    version: str
    ready: bool
    missing: dict[str, str]
    """Why it is not ready, by part."""
    replicas: tuple[Replica, ...]
    logs: tuple[dict[str, Any], ...]
    """As `vestry audit status --json` has them."""
    break_glass: int
    """Grants that are active."""


class RecordShown(Section):
    """A record of the audit log, as it stands there."""

    origin: str
    index: int
    record: dict[str, Any]


class Page(Section):
    """A part of a list. `next` is where the next part begins: `after` of the next question."""

    object: Literal["list"] = "list"
    has_more: bool
    next: str | None = None


class Tenants(Page):
    """Tenants, by name."""

    data: tuple[TenantShown, ...]


class Projects(Page):
    """Projects of a tenant, by name."""

    data: tuple[ProjectShown, ...]


class Users(Page):
    """Users of a tenant, by name."""

    data: tuple[UserShown, ...]


class KeysShown(Page):
    """Keys, by id."""

    data: tuple[KeyShown, ...]


class Glasses(Page):
    """Break-glass grants, by id."""

    data: tuple[GlassShown, ...]


class RolesShown(Page):
    """Every role there is."""

    data: tuple[RoleShown, ...]


class RecordsShown(Page):
    """Records, newest first."""

    data: tuple[RecordShown, ...]


class Document(Section):
    """The description of this API (OpenAPI 3.1)."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
    tags: list[dict[str, Any]]
    security: list[dict[str, Any]]


KeyShown.model_rebuild()


def thing(kept: Kept) -> dict[str, Any]:
    """What all documents have."""
    document, damaged = kept.document, kept.damage
    return {
        "name": document.name,
        "version": document.version,
        "created": rfc3339_or_none(document.created or None),
        "updated": rfc3339_or_none(document.updated or None),
        "damaged": damaged,
        "spec": None if damaged else document.body,
    }


def tenant(kept: Kept) -> TenantShown:
    return TenantShown(**thing(kept), declared=kept.declared)


def project(kept: Kept) -> ProjectShown:
    return ProjectShown(**thing(kept), tenant=kept.document.tenant)


def user(kept: Kept) -> UserShown:
    return UserShown(**thing(kept), tenant=kept.document.tenant)


def _spec(key: Key) -> tuple[KeySpec | None, str]:
    """What a `PUT` of the key writes; none, and why, for one that is damaged."""
    try:
        return None if key.damaged else _form(key), key.damaged
    except ValidationError as error:
        return None, told(error).reason


def _form(key: Key) -> KeySpec:
    return KeySpec(
        owner=key.owner,
        roles=tuple(sorted(key.roles)),
        project=key.project or None,
        models=None if key.models is None else tuple(sorted(key.models)),
        routes=None if key.routes is None else tuple(sorted(key.routes)),  # type: ignore[arg-type]
        sources=tuple(map(str, key.sources)),
        concurrency=key.limits.concurrency,
        requests_per_minute=key.limits.requests_per_minute,
        expires=rfc3339_or_none(key.expires),
    )


def _key(key: Key, now: int) -> dict[str, Any]:
    spec, damaged = _spec(key)
    return {
        "id": key.id,
        "tenant": key.tenant,
        "state": key.state(now),
        "version": key.version,
        "created": rfc3339(key.created),
        "made_by": key.made_by,
        "last_used": rfc3339_or_none(key.last_used),
        "frozen": rfc3339_or_none(key.frozen),
        "revoked": rfc3339_or_none(key.revoked),
        "replaces": key.replaces,
        "damaged": damaged,
        "spec": spec,
    }


def key(found: Key, now: int) -> KeyShown:
    return KeyShown(**_key(found, now))


def made(secret: str | None, found: Key, now: int) -> KeyMade:
    return KeyMade(**_key(found, now), secret=secret)


def cut(found: Sequence[Any], limit: int) -> tuple[Sequence[Any], bool]:
    """A page of what was found with one more than its limit, and whether there is more."""
    return found[:limit], len(found) > limit
