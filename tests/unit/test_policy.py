"""The policy: rules in their order, the first that is for a call decides; and what explains it is what decides."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fakes.calls import call, head
from support.house import served_model
from vestry.authorize import authorize
from vestry.errors import InvalidKey, ModelNotFound, PermissionDenied, Refusal
from vestry.explaining import Caller, explain
from vestry.house import House
from vestry.roles import Role
from vestry.settings.policy import Hours, Rule
from vestry.settings.tree import Settings
from vestry.types import Call, ContentMode, Document, Head, Kind, Operation, Principal

MODELS = {"small": served_model("small"), "large": served_model("large")}
ALICE = Principal("key_1", "radiology", "alice")


COMPANY = {
    "name": "company",
    "issuer": "https://login.company.example",
    "audiences": ["vestry"],
    "grants": [{"tenant": "radiology"}],
}


def house(*rules: dict[str, Any], documents: tuple[Document, ...] = (), **policy: Any) -> House:
    """A house with two tenants and these rules in its settings."""
    tree = {
        "models": {"small": {}, "large": {}},
        "tenants": {"radiology": {}, "research": {}},
        "identity": {"issuers": [COMPANY]},
        "policy": {"rules": list(rules), **policy},
    }
    return House.of(Settings.model_validate(tree), documents, secret=b"s" * 32)


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def ask(place: House, principal: Principal = ALICE, *, wall: int = 0, source: str = "10.0.0.1", **asked: Any) -> str:
    """The rule that allows it, or `denied RULE PARAM`."""
    asked = {"model": "small", **asked}
    shown = head(route="chat.completions", source=source, began_wall=wall)
    try:
        return authorize(principal, shown, call(**asked), MODELS, place).rule
    except PermissionDenied as refused:
        return f"denied {refused.rule} {refused.param or ''}".strip()


def test_without_rules_tenants_and_keys_decide() -> None:
    """As ever; with a default of `deny` nobody may call."""
    assert ask(house()) == "tenant-model"
    assert ask(house(default="deny")) == "denied default"
    assert ask(house({"name": "never", "tenants": ["research"], "effect": "deny"})) == "tenant-model"
    assert ask(house({"name": "other", "subjects": ["bob"], "effect": "deny"})) == "default"


def test_the_first_rule_that_is_for_a_call_decides() -> None:
    """Later ones are not asked."""
    first = {"name": "first", "subjects": ["alice"]}
    second = {"name": "second", "effect": "deny"}
    assert ask(house(first, second)) == "first"
    assert ask(house(second, first)) == "denied second"
    bob = Principal("key_2", "radiology", "bob")
    assert ask(house(first, second), bob) == "denied second"


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ({"tenants": ["radiology"]}, True),
        ({"tenants": ["research"]}, False),
        ({"projects": ["triage"]}, False),
        ({"roles": ["user"]}, True),
        ({"roles": ["admin", "auditor"]}, False),
        ({"subjects": ["alice"]}, True),
        ({"subjects": ["bob"]}, False),
        ({"keys": ["key_1"]}, True),
        ({"keys": ["key_2"]}, False),
        ({"issuers": ["company"]}, False),
        ({"models": ["small"]}, True),
        ({"models": ["large"]}, False),
        ({"routes": ["chat.completions"]}, True),
        ({"routes": ["completions"]}, False),
        ({"sources": ["10.0.0.0/8"]}, True),
        ({"sources": ["192.168.0.0/16", "2001:db8::/32"]}, False),
    ],
)
def test_each_condition_is_asked(condition: dict[str, Any], matches: bool) -> None:
    """A rule is for a call only if all that it names holds."""
    decided = ask(house({"name": "it", **condition}, {"name": "rest"}))
    assert decided == ("it" if matches else "rest")


@pytest.mark.parametrize(
    ("hours", "moment", "holds"),
    [
        ({"begin": "08:00", "end": "18:00"}, "2027-01-04T08:00:00Z", True),
        ({"begin": "08:00", "end": "18:00"}, "2027-01-04T18:00:00Z", False),
        ({"begin": "08:00", "end": "18:00", "timezone": "Europe/Vienna"}, "2027-07-05T06:30:00Z", True),
        ({"begin": "08:00", "end": "18:00", "timezone": "Europe/Vienna"}, "2027-01-04T06:30:00Z", False),
        ({"days": ["mon"]}, "2027-01-04T12:00:00Z", True),
        ({"days": ["tue"]}, "2027-01-04T12:00:00Z", False),
        ({"begin": "22:00", "end": "06:00", "days": ["fri"]}, "2027-01-08T23:00:00Z", True),
        ({"begin": "22:00", "end": "06:00", "days": ["fri"]}, "2027-01-09T05:59:00Z", True),
        ({"begin": "22:00", "end": "06:00", "days": ["fri"]}, "2027-01-08T05:59:00Z", False),
        ({"begin": "22:00", "end": "06:00", "days": ["fri"]}, "2027-01-09T06:00:00Z", False),
    ],
)
def test_hours(hours: dict[str, Any], moment: str, holds: bool) -> None:
    """Hours are those of their time zone, daylight saving included; a night belongs to the day that it begins on."""
    decided = ask(house({"name": "open", "hours": [hours]}, {"name": "shut"}), wall=at(moment))
    assert decided == ("open" if holds else "shut")


def test_bounds_are_kept() -> None:
    """Beyond a bound the answer is 403, and says which parameter; within it the rule allows."""
    bounded = house({"name": "small-only", "max_tokens": 100, "choices": 2, "tools": False})
    assert ask(bounded, completion_tokens=100, choices=2) == "small-only"
    assert ask(bounded, completion_tokens=101) == "denied small-only max_tokens"
    assert ask(bounded, choices=3) == "denied small-only n"
    assert ask(bounded, tools=True) == "denied small-only tools"


def test_a_call_without_a_bound_gets_the_rules() -> None:
    """The engine is told it, and the record as well; a call with a bound of its own keeps it."""
    place = house({"name": "short", "max_tokens": 100})
    grant = authorize(ALICE, head(route="chat.completions"), call(), MODELS, place)
    assert grant.extra.endswith(b',"max_tokens":100')
    assert grant.max_tokens == 100
    grant = authorize(ALICE, head(route="chat.completions"), call(completion_tokens=7), MODELS, place)
    assert b"max_tokens" not in grant.extra
    assert grant.max_tokens is None


def test_a_call_is_told_no_more_than_its_engine_takes() -> None:
    """Not more than the context, and of a text completion not more than it would have made by itself."""
    place = house({"name": "long", "max_tokens": 9999})
    assert authorize(ALICE, head(route="chat.completions"), call(), MODELS, place).max_tokens == 2048
    text = head(route="completions", operation=Operation.TEXT_COMPLETION)
    assert authorize(ALICE, text, call(), MODELS, place).max_tokens == 16
    short = house({"name": "short", "max_tokens": 7})
    assert authorize(ALICE, text, call(), MODELS, short).max_tokens == 7
    assert ask(short, sampling={"min_tokens": 8}) == "denied short min_tokens"


def test_an_address_that_nobody_knows_is_denied() -> None:
    """No rule that allows by address is for it; every one that denies is."""
    place = house({"name": "here", "sources": ["10.0.0.0/8"]}, {"name": "there", "effect": "deny", "sources": ["::/0"]})
    assert ask(place, source="::ffff:10.1.2.3") == "here"
    assert ask(place, source="192.168.1.1") == "default"
    assert ask(place, source="2001:db8::1") == "denied there"
    assert ask(place, source="") == "denied there"


def test_rules_that_cannot_work_are_named_at_once() -> None:
    """A model that is not served, or an issuer that there is not, would make a rule that denies deny nothing; sealing
    needs somebody to seal to.
    """
    with pytest.raises(ValidationError, match="no such model is served"):
        house({"name": "a", "effect": "deny", "models": ["smal"]})
    with pytest.raises(ValidationError, match="no issuer of this name is believed"):
        house({"name": "a", "effect": "deny", "issuers": ["hospitl"]})
    with pytest.raises(ValidationError, match="no auditor's key"):
        house({"name": "a", "content": "sealed"})


def test_two_rules_of_one_name_are_told_apart() -> None:
    """The settings' rule keeps the name; the directory's, which was there before, is told by where it stands."""
    kept = Document(Kind.POLICY, "", "policy", {"rules": [{"name": "a", "effect": "deny", "subjects": ["alice"]}]})
    place = house({"name": "a", "subjects": ["bob"]}, documents=(kept,))
    assert ask(place) == "denied directory/a"
    assert [each.name for each in place.rules] == ["a", "directory/a"]


def test_a_rule_says_what_is_kept() -> None:
    """Instead of the tenant's settings."""
    place = house({"name": "kept", "subjects": ["alice"], "content": "full"})
    assert authorize(ALICE, head(), call(), MODELS, place).content == ContentMode.FULL
    bob = Principal("key_2", "radiology", "bob")
    assert authorize(bob, head(), call(), MODELS, place).content == ContentMode.METADATA


def test_every_tenant_has_a_salt_of_its_own() -> None:
    """The same on every server of the house, another for every tenant and every house."""
    one, two = house(), house()
    assert one.extras == two.extras
    assert one.extras["radiology"] != one.extras["research"]
    other = House.of(Settings.model_validate({"tenants": {"radiology": {}}}), secret=b"t" * 32)
    assert other.extras["radiology"] != one.extras["radiology"]
    assert b"radiology" not in one.extras["radiology"]


def test_the_settings_rules_come_before_the_directorys() -> None:
    """Whoever may change the directory's policy cannot overrule the settings."""
    documents = (Document(Kind.POLICY, "", "policy", {"rules": [{"name": "mine"}]}),)
    assert ask(house({"name": "first", "effect": "deny"}, documents=documents)) == "denied first"
    assert ask(house(documents=documents, default="deny")) == "mine"


def test_a_project_bounds_its_members_and_its_end_ends_them() -> None:
    """A project's models are a further bound; without the project its keys are nobody's."""
    body = {"models": ["small"], "concurrency": 2, "requests_per_minute": None, "disabled": False, "description": ""}
    member = Principal("key_1", "radiology", "alice", project="triage")
    place = house(documents=(Document(Kind.PROJECT, "radiology", "triage", body),))
    grant = authorize(member, head(), call(), MODELS, place)
    assert (grant.principal.limits.concurrency, grant.principal.limits.requests_per_minute) == (2, 3000)
    with pytest.raises(ModelNotFound):
        authorize(member, head(), call(model="large"), MODELS, place)
    for gone in (
        house(),
        house(documents=(Document(Kind.PROJECT, "radiology", "triage", {**body, "disabled": True}),)),
    ):
        with pytest.raises(InvalidKey):
            authorize(member, head(), call(), MODELS, gone)


def test_roles_without_calls_call_nothing() -> None:
    """An auditor and an operator may not call; whoever is a user as well may."""
    for role in (Role.AUDITOR, Role.OPERATOR):
        with pytest.raises(PermissionDenied):
            authorize(Principal("k", "radiology", "x", frozenset({role})), head(), call(), MODELS, house())
    both = Principal("k", "radiology", "x", frozenset({Role.AUDITOR, Role.USER}))
    assert ask(house(), both) == "tenant-model"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "x", "effect": "deny", "max_tokens": 1},
        {"name": "x", "sources": ["10.0.0.0/40"]},
        {"name": "x", "hours": [{"timezone": "Mars/Olympus"}]},
        {"name": "x", "hours": [{"begin": "08:00", "end": "08:00"}]},
        {"name": "x", "hours": [{"begin": "25:00"}]},
        {"name": "X Y"},
        {"name": "default"},
        {"name": "x", "content": "secret"},
        {"name": "x", "tenant": "radiology"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    """When it is read, not when it is asked."""
    with pytest.raises(ValidationError):
        Rule.model_validate(bad)


def test_two_rules_of_one_name_are_refused() -> None:
    """The record names rules."""
    with pytest.raises(ValidationError, match="two of them"):
        house({"name": "a"}, {"name": "a"})


RULES = st.lists(
    st.fixed_dictionaries(
        {"effect": st.sampled_from(["allow", "deny"])},
        optional={
            "tenants": st.sampled_from([["radiology"], ["research"]]),
            "roles": st.sampled_from([["user"], ["admin"]]),
            "subjects": st.sampled_from([["alice"], ["bob"]]),
            "models": st.sampled_from([["small"], ["large"], ["small", "large"]]),
            "sources": st.sampled_from([["10.0.0.0/8"], ["192.168.0.0/16"]]),
            "hours": st.sampled_from([[{"begin": "08:00", "end": "18:00"}], [{"days": ["sat", "sun"]}]]),
        },
    ),
    max_size=5,
)


CALLERS = st.builds(
    Principal,
    st.just("key_1"),
    st.sampled_from(["radiology", "research"]),
    st.sampled_from(["alice", "bob"]),
    st.frozensets(st.sampled_from(list(Role)), min_size=1),
)
CALLS = st.builds(
    lambda model, tokens: call(model=model, completion_tokens=tokens),
    st.sampled_from(["small", "large", "none"]),
    st.one_of(st.none(), st.integers(1, 2048)),
)
HEADS = st.builds(
    lambda source, moment: head(
        route="chat.completions", source=source, began_wall=round(moment.replace(tzinfo=UTC).timestamp() * 1_000_000)
    ),
    st.sampled_from(["10.1.1.1", "192.168.1.1", "::ffff:10.0.0.1", "nowhere"]),
    st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2030, 1, 1)),  # noqa: DTZ001
)


@given(rules=RULES, default=st.sampled_from(["allow", "deny"]), who=CALLERS, shown=HEADS, asked=CALLS)
def test_what_is_explained_is_what_is_decided(
    rules: list[dict[str, Any]], default: str, who: Principal, shown: Head, asked: Call
) -> None:
    """For every caller, call and policy the explanation says what would become of the call itself."""
    place = house(*({"name": f"r{number}", **rule} for number, rule in enumerate(rules)), default=default)
    told = explain(Caller(who), shown, asked, MODELS, place)
    try:
        decided: Any = authorize(who, shown, asked, MODELS, place)
    except Refusal as refused:
        decided = refused
    if isinstance(decided, Refusal):
        assert (told.allowed, told.status, told.message) == (False, decided.status, decided.reason)
    else:
        assert (told.allowed, told.rule) == (True, decided.rule)


def test_hours_read_as_they_are_shown() -> None:
    """What `vestry policy rules` says of them."""
    place = house({"name": "night", "hours": [Hours(days=("mon", "fri"), begin="22:00", end="06:00").model_dump()]})
    assert str(place.rules[0].hours[0]) == "mon,fri 22:00-06:00 UTC"
