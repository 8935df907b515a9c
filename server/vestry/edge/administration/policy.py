"""The policy: its rules in the directory, and what all rules together would say of a call."""

from __future__ import annotations

import time
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from msgspec.structs import asdict
from pydantic import AfterValidator, AwareDatetime, Field

from vestry.admin.actor import Match
from vestry.admin.bodies import judge
from vestry.admin.documents import Kept, Where
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import CHANGED, ROOT, Reply, Row
from vestry.errors import InvalidRequest, NotFound
from vestry.explaining import Caller, explain, moment_of, supposed
from vestry.roles import Permission, Role
from vestry.settings.policy import Rules
from vestry.settings.section import Label, Name, Section, Subject
from vestry.types import Call, Document, Head, Kind, Principal, Via

WHERE = Where(Kind.POLICY, "", "policy")
PLACE = f"{ROOT}/policy"


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("this is no IP address") from None


def _moment(value: datetime) -> datetime:
    moment_of(value)
    return value


class Supposed(Section):
    """A call that might be made, and by whom."""

    tenant: Label
    subject: Subject = "somebody"
    """Whom a token or certificate names: what the directory keeps of this user is taken."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))] = (Role.USER,)
    project: Label | None = None
    key: Annotated[str, Field(max_length=64)] = ""
    """Public id of a key: its owner, roles, project, bounds and state are taken, and it has to be the tenant's."""
    issuer: Annotated[str, Field(max_length=63)] = ""
    """Name of the issuer in the settings whose token is shown."""
    certificate: Annotated[str, Field(max_length=512)] = ""
    """A name of the certificate that is shown, as `DNS:host`: the settings' rule for it says who its holder is."""
    model: Name
    route: Literal["chat.completions", "completions"] = "chat.completions"
    source: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    at: Annotated[AwareDatetime, AfterValidator(_moment)] | None = None
    """When, with its offset from UTC. Left out: now."""
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    choices: Annotated[int, Field(ge=1, le=128)] = 1
    tools: bool = False

    def call(self) -> tuple[Head, Call]:
        return supposed(
            route=self.route,
            source=self.source,
            wall=time.time_ns() // 1000 if self.at is None else moment_of(self.at),
            model=self.model,
            choices=self.choices,
            max_tokens=self.max_tokens,
            tools=self.tools,
        )

    def principal(self, key_id: str) -> Principal:
        """Who would call: the holder of a token, where an issuer is named."""
        roles, via = frozenset(self.roles), Via.TOKEN if self.issuer else Via.KEY
        return Principal(
            key_id, self.tenant, self.subject, roles, project=self.project or "", via=via, issuer=self.issuer
        )


async def _read(office: Office, ask: Ask) -> Reply:
    ask.actor.whole_house(Permission.POLICY_READ)
    return _shown(office, await _kept(office, ask))


async def _kept(office: Office, ask: Ask) -> Kept:
    """The document; an empty one of version 0 where there is none yet."""
    try:
        return await office.documents.read(ask.actor, WHERE)
    except NotFound:
        return Kept(Document(Kind.POLICY, "", "policy", {"rules": []}))


async def _write(office: Office, ask: Ask) -> Reply:
    match = ask.match()
    if match.versions == (0,):  # what is read before there is one
        match = Match(new=True)
    kept = await office.documents.put(ask.actor, WHERE, await ask.body(), match)
    return _shown(office, kept)


async def _remove(office: Office, ask: Ask) -> Reply:
    await office.documents.remove(ask.actor, WHERE, ask.match())
    return Reply(status=204, recorded=True)


def _shown(office: Office, kept: Kept) -> Reply:
    shown = shapes.PolicyShown.model_validate({**shapes.thing(kept), "settings": office.policy.model_dump()})
    return Reply(shown, 201 if kept.new else 200, version=kept.document.version, recorded=kept.changed)


async def _explain(office: Office, ask: Ask) -> Reply:
    asked = judge(Supposed, await ask.body())
    ask.actor.require(Permission.POLICY_READ, asked.tenant)
    await office.documents.read(ask.actor, Where(Kind.TENANT, "", asked.tenant))
    caller = await _caller(office, ask, asked)
    found = explain(caller, *asked.call(), office.models, office.house())
    facts: dict[str, Any] = asdict(found) | {"steps": list(map(asdict, found.steps))}
    return Reply(shapes.Explained.model_validate(facts))


async def _caller(office: Office, ask: Ask, asked: Supposed) -> Caller:
    """Who would call. Raises NotFound for a key that there is not, or that is another tenant's; InvalidRequest as
    `_holder`.
    """
    if asked.key:
        key = await office.keys.read(ask.actor, asked.key)
        if key.tenant != asked.tenant:
            raise NotFound
        return Caller.by(key)
    principal = _holder(office, asked)
    try:
        user = await office.documents.read(ask.actor, Where(Kind.USER, asked.tenant, principal.subject))
    except NotFound:
        return Caller(principal)
    return Caller(principal, user=user.document)


def _holder(office: Office, asked: Supposed) -> Principal:
    """The holder of the certificate or the token that is shown. Raises InvalidRequest where it would be nobody's."""
    if asked.certificate:
        found = office.supposed_holder(asked.certificate)
        if found is None or found.tenant != asked.tenant:
            raise InvalidRequest("The settings have nobody of this tenant by that name.", param="certificate")
        return found
    key_id: str | None = ""
    if asked.issuer:
        key_id = office.supposed_id(asked.issuer, asked.tenant, asked.subject)
    if key_id is None:
        raise InvalidRequest("The settings have no issuer of this name.", param="issuer")
    return asked.principal(key_id)


ROWS: tuple[Row, ...] = (
    Row(
        method="GET", path=PLACE, name="admin.policy.read", permission=Permission.POLICY_READ, handler=_read,
        summary="Read the policy", answer=shapes.PolicyShown, versioned=True,
    ),
    Row(
        method="PUT", path=PLACE, name="admin.policy.write", permission=Permission.POLICY_WRITE, handler=_write,
        summary="Write the directory's rules anew", answer=shapes.PolicyShown, statuses=(200, 201), body=Rules,
        example={"rules": [{"name": "nights", "effect": "deny", "hours": [{"begin": "22:00", "end": "06:00"}]}]},
        matched=True, versioned=True, refusals=CHANGED,
    ),
    Row(
        method="DELETE", path=PLACE, name="admin.policy.remove", permission=Permission.POLICY_WRITE,
        handler=_remove, summary="Remove the directory's rules", statuses=(204,), matched=True,
        refusals=(NotFound, *CHANGED),
    ),
    Row(
        method="POST", path=f"{PLACE}/explain", name="admin.policy.explain", permission=Permission.POLICY_READ,
        handler=_explain, summary="Say what would become of a call, and why", answer=shapes.Explained, body=Supposed,
        example={"tenant": "default", "model": "smollm2-135m-instruct", "max_tokens": 4096}, refusals=(NotFound,),
    ),
)  # fmt: skip
