"""What a project, a user and a key consist of, as the administration takes them: closed, and bounded in every part."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from vestry.audit.records import microseconds_of
from vestry.errors import InvalidRequest
from vestry.roles import Role
from vestry.settings.section import Label, Name, Remark, Section, Source, Subject
from vestry.types import Key, Limits

DOCUMENT_BYTES = 24_576
"""Greatest size of a document's JSON, `slim`: before and after of a change fit into one record."""
TOLD = 8
BOUNDS = ("models", "concurrency", "requests_per_minute", "disabled")
"""What every project says that is kept."""
LATER: Mapping[str, Any] = MappingProxyType({"except_house": False})
"""Fields that came when there were documents already, with their defaults: null, false or true. A server of an older
version, beside this one or in its place again, forbids what it does not know: only what they say otherwise is kept."""


def _models(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(value)))


Sources = Annotated[tuple[Source, ...], Field(max_length=64)]
Models = Annotated[tuple[Name, ...], Field(min_length=1, max_length=256), AfterValidator(_models)]
Routes = Annotated[tuple[Literal["chat.completions", "completions", "models", "model"], ...], Field(min_length=1)]
Roles = Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))]
Concurrency = Annotated[int, Field(ge=1, le=100_000)]
Rate = Annotated[int, Field(ge=1, le=10_000_000)]


class Project(Section):
    """A part of a tenant's work, with bounds of its own: keys and users may belong to one."""

    models: Models | None = None
    """Models that it may use at most. Left out: all that the tenant may."""
    concurrency: Concurrency | None = None
    """Calls in progress at once, for each key. Left out: the tenant's bound for keys."""
    requests_per_minute: Rate | None = None
    """Calls begun in a minute, for each key. Left out: the tenant's bound for keys."""
    disabled: bool = False
    """Refuse everything that belongs to it."""
    description: Remark = ""
    """A remark."""

    @classmethod
    def kept(cls, body: Mapping[str, Any]) -> Project:
        """One that is kept. Raises ValueError for what no program has written: one that has lost a bound is not one
        without it.
        """
        if missing := [name for name in BOUNDS if name not in body]:
            raise ValueError(f"it does not say {', '.join(missing)}")
        return cls.model_validate(body)


class User(Section):
    """A person or program of a tenant, as tokens and certificates name it in their subject."""

    roles: Annotated[tuple[Role, ...], Field(max_length=len(Role))] = ()
    """Roles beside those that the identity provider gives."""
    models: Models | None = None
    """Models that the user may use at most. Left out: all that the tenant may."""
    project: Label | None = None
    """Project that the user's calls belong to."""
    concurrency: Concurrency | None = None
    """Calls in progress at once. Left out: the bound of their project, or the tenant's for keys."""
    requests_per_minute: Rate | None = None
    """Calls begun in a minute. Left out: the bound of their project, or the tenant's for keys."""
    disabled: bool = False
    """Refuse every token and certificate of this user."""
    except_house: bool = False
    """`disabled` does not refuse whose roles reach the whole house; so it always is where a tenant's administrator
    disables."""
    description: Remark = ""
    """A remark."""


class KeyBody(Section):
    """An API key, as it is asked for."""

    owner: Subject
    """Who holds it: a person or a program."""
    roles: Roles = (Role.USER,)
    """What its holder is here. See docs/roles.md."""
    project: Label | None = None
    """Project that its calls belong to."""
    models: Models | None = None
    """Models that it may use. Left out: all that the tenant may."""
    routes: Routes | None = None
    """Routes that it may be used for. Left out: all."""
    sources: Sources = ()
    """Networks that it may be used from. Empty: any."""
    concurrency: Concurrency | None = None
    """Calls in progress at once. Left out: the bound of its project, or its tenant's for keys."""
    requests_per_minute: Rate | None = None
    """Calls begun in a minute. Left out: the bound of its project, or its tenant's for keys."""
    expires: datetime | None = None
    """When it stops working. Left out: never."""

    def key(self, key_id: str, tenant: str, created: int, made_by: str) -> Key:
        """The key that this asks for. Raises InvalidRequest for a time that has passed, or one without an offset."""
        expires = None if self.expires is None else _expiry(self.expires, created)
        return Key(
            key_id,
            tenant,
            self.owner,
            created,
            roles=frozenset(self.roles),
            project=self.project or "",
            models=None if self.models is None else frozenset(self.models),
            routes=None if self.routes is None else frozenset(self.routes),
            sources=tuple(ipaddress.ip_network(each) for each in self.sources),
            limits=Limits(self.concurrency, self.requests_per_minute),
            expires=expires,
            made_by=made_by,
        )


def _expiry(moment: datetime, now: int) -> int:
    if moment.tzinfo is None:
        raise InvalidRequest("The time of expiry needs its offset from UTC.", param="expires")
    try:
        found = microseconds_of(moment.astimezone(UTC).isoformat())
    except (ValueError, OverflowError):
        raise InvalidRequest("The time of expiry is beyond the calendar.", param="expires") from None
    if found <= now:
        raise InvalidRequest("The time of expiry has passed.", param="expires")
    return found


Body = TypeVar("Body", bound=Section)


def judge(form: type[Body], body: Mapping[str, Any]) -> Body:
    """The body, if it has this form; strict about types. Raises InvalidRequest that names every fault by its place.

    How large it may be is a matter of what it says, and not of how it is written: what is shown can be written again.
    """
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("The body is not plain JSON.") from None
    try:
        judged = form.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise told(error) from None
    if size_of(slim(judged)) > DOCUMENT_BYTES:
        raise InvalidRequest(f"The body is larger than {DOCUMENT_BYTES} bytes, even without what has its default.")
    return judged


def told(error: ValidationError) -> InvalidRequest:
    """What pydantic found in a body, each fault by its place, without what stands there."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return faulty([(each["loc"], each["msg"].removeprefix("Value error, ")) for each in faults])


def plain(body: Section) -> dict[str, Any]:
    """A body as JSON, in its one normal form."""
    return lean(body.model_dump(mode="json"))


def lean(said: Mapping[str, Any]) -> dict[str, Any]:
    """A body as JSON, without the fields of LATER that say nothing."""
    return {name: value for name, value in said.items() if name not in LATER or value is not LATER[name]}


def slim(body: Section) -> dict[str, Any]:
    """A body as JSON, without what has its default."""
    return dict(body.model_dump(mode="json", exclude_defaults=True))


def size_of(body: Mapping[str, Any]) -> int:
    """Bytes of a body's JSON, as records hold it."""
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def faulty(faults: Sequence[tuple[tuple[int | str, ...], str]]) -> InvalidRequest:
    """What is said of a body with these faults, one or more: each by its place in the body."""
    said = [f"{_place(loc) or 'the body'}: {what}" for loc, what in faults[:TOLD]]
    more = f"; and {len(faults) - TOLD} more" if len(faults) > TOLD else ""
    return InvalidRequest("; ".join(said) + more + ".", param=_place(faults[0][0]))


def _place(loc: tuple[int | str, ...]) -> str:
    """Where a fault is. A name that the client made up is bounded, and printable."""
    return ".".join(ascii(str(each)[:64])[1:-1] for each in loc)
