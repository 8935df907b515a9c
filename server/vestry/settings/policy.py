"""The settings of policy: rules on who may call what, how, when and from where.

The directory's rules have the same form.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Container, Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, field_validator, model_validator

from vestry.roles import Role
from vestry.settings.section import Label, Name, Remark, Section, check_names, network

CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"
RESERVED = frozenset({"default", "tenant-model", "tenant-and-key-model"})
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("this machine knows no such time zone: write one as `Europe/Vienna`, or UTC") from None
    return value


Text = Annotated[Remark, Field(min_length=1, max_length=128)]
Few = Field(max_length=256)
Clock = Annotated[str, Field(pattern=CLOCK)]


class Hours(Section):
    """A part of the week."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    """Days on which it begins."""
    begin: Clock = "00:00"
    """When it begins, as `08:00`."""
    end: Clock = "24:00"
    """When it ends, itself not included. Before `begin`: on the day after."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Time zone of both, as `Europe/Vienna`."""

    @model_validator(mode="after")
    def _some_time(self) -> Hours:
        if self.begin in {self.end, "24:00"}:
            raise ValueError("`begin` and `end` are the same: write 00:00 and 24:00 for whole days")
        return self


class Rule(Section):
    """One rule. What it does not name it does not ask for: a rule without conditions is for every call."""

    name: Label
    """Name of the rule, as records have it."""
    effect: Literal["allow", "deny"] = "allow"
    """What is decided."""
    tenants: Annotated[tuple[Label, ...], Few] = ()
    """Tenants that it is for."""
    projects: Annotated[tuple[Label, ...], Few] = ()
    """Projects that it is for."""
    roles: Annotated[tuple[Role, ...], Few] = ()
    """Roles that it is for; the caller has one of them."""
    subjects: Annotated[tuple[Text, ...], Few] = ()
    """Persons or programs that it is for: owners of keys, and whom tokens and certificates name."""
    keys: Annotated[tuple[Text, ...], Few] = ()
    """Public ids of credentials (`key_...`, `usr_...`, `crt_...`) that it is for."""
    issuers: Annotated[tuple[Label, ...], Few] = ()
    """Issuers whose tokens it is for."""
    models: Annotated[tuple[Name, ...], Few] = ()
    """Models that it is for."""
    routes: tuple[Literal["chat.completions", "completions"], ...] = ()
    """Routes that it is for."""
    sources: Annotated[tuple[Annotated[str, AfterValidator(network)], ...], Few] = ()
    """Networks of callers that it is for."""
    hours: Annotated[tuple[Hours, ...], Field(max_length=32)] = ()
    """Times that it is for."""
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Most tokens of one answer. A call that names no number gets this one; a text completion at most its usual 16."""
    choices: Annotated[int, Field(ge=1, le=128)] | None = None
    """Most answers to one call (`n`, times the prompts)."""
    tools: bool | None = None
    """`false` refuses calls with tools."""
    content: Literal["metadata", "hashed", "sealed", "full"] | None = None
    """What is kept of prompt and answer, instead of what the tenant's settings say."""
    description: Remark = ""
    """Why there is this rule."""

    @field_validator("name")
    @classmethod
    def _own(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"records say `{value}` where no rule of the policy decides: take another name")
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Rule:
        bounds = (self.max_tokens, self.choices, self.tools, self.content)
        if self.effect == "deny" and any(each is not None for each in bounds):
            raise ValueError(
                "a rule that denies has no bounds: leave out `max_tokens`, `choices`, `tools` and `content`"
            )
        return self


class Rules(Section):
    """Rules in their order: the first that is for a call decides."""

    rules: Annotated[tuple[Rule, ...], Field(max_length=256)] = ()
    """The rules. See docs/policy.md."""

    @field_validator("rules")
    @classmethod
    def _distinct(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        check_names([each.name for each in value])
        return value


class Misfit(NamedTuple):
    """What keeps a rule from doing what it says: where it stands among the rules, what is wrong, and the mend."""

    place: tuple[str | int, ...]
    what: str
    mend: str


def misfits(
    rules: Iterable[Rule],
    *,
    models: Container[str],
    issuers: Container[str],
    unsealable: frozenset[str],
    taken: Container[str] = (),
) -> Iterator[Misfit]:
    """How rules do not fit the house that they are for: its `models` and `issuers`, by their names, tenants that have
    no auditor to seal to, and names of rules that stand elsewhere. A rule that denies a misspelt model or issuer would
    deny nothing.
    """
    for number, rule in enumerate(rules):
        for index, model in enumerate(rule.models):
            if model not in models:
                yield Misfit(("rules", number, "models", index), "no such model is served", "Name one of `models`")
        for index, issuer in enumerate(rule.issuers):
            if issuer not in issuers:
                mend = "Name one of `identity.issuers`"
                yield Misfit(("rules", number, "issuers", index), "no issuer of this name is believed", mend)
        if rule.content == "sealed" and (unsealable.intersection(rule.tenants) if rule.tenants else unsealable):
            mend = "Make one elsewhere with `vestry audit keygen`, and put its public half into `audit.auditor`"
            yield Misfit(("rules", number, "content"), "there is no auditor's key to seal it to", mend)
        if rule.name in taken:
            what = "the settings have a rule of this name, and records would not tell them apart"
            yield Misfit(("rules", number, "name"), what, "Take another name")


class Policy(Rules):
    """Who may call what, beyond what tenants and keys say of models."""

    default: Literal["allow", "deny"] = "allow"
    """What is decided where no rule is for a call."""
