"""Break-glass: two people, one credential, an end; nobody ends with more than they had; nothing happens unrecorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fakes.directory import FakeDirectory
from vestry.admin.actor import Actor, Match
from vestry.admin.break_glass import OPEN_AT_ONCE, BreakGlass, Shown
from vestry.admin.documents import Documents, Where
from vestry.admin.events import Events
from vestry.admin.keys import Keys
from vestry.audit.records import Clock, Records
from vestry.errors import AuditUnavailable, Conflict, InvalidRequest, NotFound, PermissionDenied, Refusal
from vestry.house import House
from vestry.roles import HOUSE, Role, permissions
from vestry.seams import Record
from vestry.settings.tree import Settings
from vestry.types import Key, Kind, Principal, Via

START = 1_800_000_000_000_000
MINUTE = 60_000_000
ROLES = st.frozensets(st.sampled_from(list(Role)), min_size=1)


class Bench:
    """The services over a directory in memory, with a clock that is set, and records that can fail."""

    def __init__(self) -> None:
        self.directory, self.now = FakeDirectory(), START
        self.written: list[Any] = []
        self.broken = False
        self.settings = Settings.model_validate({"tenants": {"ward": {}, "lab": {}}})
        events = Events(Records(clock=Clock(wall=lambda: self.now)), self._write)
        self.glass = BreakGlass(self.directory, events, lambda: self.now)
        self.keys = Keys(self.directory, events, self.settings, lambda: self.now)
        self.documents = Documents(self.directory, events, self.settings)

    async def _write(self, record: Record) -> None:
        if self.broken:
            raise AuditUnavailable
        self.written.append(record)

    async def person(self, subject: str, *roles: Role, tenant: str = "ward", **rights: Any) -> Principal:
        """Somebody, with a key of their own that the command line made."""
        rights.setdefault("made_by", "root")
        _, key = await self.directory.give(tenant, subject, roles=frozenset(roles), **rights)
        return key.holder()

    async def house(self) -> House:
        return House.of(self.settings, await self.directory.standing())

    async def held(self) -> tuple[Any, ...]:
        """All that is in the directory."""
        users = await self.directory.page(Kind.USER, None, "", 1000)
        return await self.directory.standing(), users, await self.directory.keys(None, "", 1000)

    async def seen(self, principal: Principal) -> Principal:
        """As the corridor sees them now."""
        return (await self.house()).lifted(principal, self.now)

    async def granted(self, asker: Principal, approver: Principal, role: str = "admin", minutes: int = 10) -> Shown:
        asked = await self.glass.ask(Actor.of(asker), {"role": role, "reason": "fire", "minutes": minutes})
        return await self.glass.approve(Actor.of(approver), asked.id)


def run(work: Callable[[Bench], Any]) -> None:
    asyncio.run(work(Bench()))


def test_two_people_lend_a_role_for_a_while() -> None:
    """The asker has the role from the approval to its end, and their record says which grant gives it."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        assert await bench.seen(olga) is olga
        grant = await bench.granted(olga, aude)
        lifted = await bench.seen(olga)
        assert sorted(lifted.roles) == [Role.ADMIN, Role.OPERATOR]
        assert (sorted(lifted.lent), lifted.broken_glass) == ([Role.ADMIN], grant.id)
        assert (await bench.house()).broken(bench.now) == 1
        bench.now += 10 * MINUTE - 1
        assert (await bench.seen(olga)).broken_glass == grant.id
        bench.now += 1
        assert await bench.seen(olga) is olga
        assert (await bench.house()).broken(bench.now) == 0
        assert [(each["type"], each["actor"], each["subject"], each["role"]) for each in bench.written] == [
            ("break-glass.ask", "olga", "olga", "admin"),
            ("break-glass.approve", "aude", "olga", "admin"),
        ]
        assert (await bench.glass.read(Actor.of(aude), grant.id)).state == "over"

    run(work)


def test_the_grant_is_bound_to_the_credential_that_asked() -> None:
    """Another key for the same person, which a tenant's admin could make, lends nothing; nor to a fallen one."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        twin = await bench.person("olga", Role.OPERATOR)
        await bench.granted(olga, aude)
        assert await bench.seen(twin) is twin
        fallen = replace(olga, roles=frozenset({Role.USER}))
        assert await bench.seen(fallen) is fallen
        elsewhere = replace(olga, tenant="lab")
        assert await bench.seen(elsewhere) is elsewhere

    run(work)


def test_nobody_approves_for_themselves() -> None:
    """Not with the same credential, not with another one, not by a token; another tenant's namesake may."""

    async def work(bench: Bench) -> None:
        olga = await bench.person("olga", Role.OPERATOR)
        other = await bench.person("olga", Role.AUDITOR)
        token = replace(olga, key_id="usr_1", via=Via.TOKEN)
        namesake = await bench.person("olga", Role.AUDITOR, tenant="lab")
        asked = await bench.glass.ask(Actor.of(olga), {"role": "admin", "reason": "fire"})
        for each in (olga, other, token):
            with pytest.raises(PermissionDenied, match="Somebody else"):
                await bench.glass.approve(Actor.of(each), asked.id)
        with pytest.raises(PermissionDenied):
            await bench.glass.approve(Actor("root"), asked.id)
        assert (await bench.glass.approve(Actor.of(namesake), asked.id)).state == "active"

    run(work)


def test_a_key_that_the_asker_had_a_hand_in_is_no_second_person() -> None:
    """Who makes an operator's key, has one made with it, or replaces one, cannot approve with what comes out."""

    async def work(bench: Bench) -> None:
        ada = await bench.person("ada", Role.ADMIN)
        asked = await bench.glass.ask(Actor.of(ada), {"role": "auditor", "reason": "fire"})
        _, puppet = await bench.keys.make(Actor.of(ada), "ward", {"owner": "pia", "roles": ["admin"]})
        _, second = await bench.keys.make(Actor.of(puppet.holder()), "ward", {"owner": "quin", "roles": ["operator"]})
        honest = await bench.person("otto", Role.OPERATOR)
        _, stolen = await bench.keys.rotate(Actor.of(ada), honest.key_id, overlap_seconds=0)
        for key in (puppet, second, stolen):
            with pytest.raises(PermissionDenied, match="hand in your key"):
                await bench.glass.approve(Actor.of(key.holder()), asked.id)
        assert (await bench.glass.approve(Actor.of(honest), asked.id)).state == "active"

    run(work)


def test_a_key_changes_hands_on_the_servers_machine_alone() -> None:
    """Whoever could give the other key of theirs another owner would be two people; rights and bounds may change."""

    async def work(bench: Bench) -> None:
        ada, second = await bench.person("ada", Role.ADMIN), await bench.person("ada", Role.OPERATOR)
        asked = await bench.glass.ask(Actor.of(ada), {"role": "auditor", "reason": "fire"})
        body = {"owner": "bob", "roles": ["operator"]}
        with pytest.raises(PermissionDenied) as refused:
            await bench.keys.change(Actor.of(ada), second.key_id, body, Match(any_version=True))
        assert refused.value.param == "owner"
        with pytest.raises(PermissionDenied, match="Somebody else"):
            await bench.glass.approve(Actor.of(await bench.seen(second)), asked.id)
        _, changed = await bench.keys.change(Actor("root"), second.key_id, body, Match(any_version=True))
        assert changed

    run(work)


def test_an_ask_lapses() -> None:
    """After an hour it cannot be approved any more, and another may be asked."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        asked = await bench.glass.ask(Actor.of(olga), {"role": "admin", "reason": "fire"})
        with pytest.raises(Conflict, match="is open"):
            await bench.glass.ask(Actor.of(olga), {"role": "auditor", "reason": "fire"})
        bench.now += 60 * MINUTE
        with pytest.raises(Conflict, match="lapsed"):
            await bench.glass.approve(Actor.of(aude), asked.id)
        again = await bench.glass.ask(Actor.of(olga), {"role": "admin", "reason": "fire"})
        assert (await bench.glass.approve(Actor.of(aude), again.id)).state == "active"
        with pytest.raises(Conflict, match="active"):
            await bench.glass.approve(Actor.of(aude), again.id)

    run(work)


def test_who_ends_it() -> None:
    """The asker, the approver, an admin and the command line; nobody else. Done again, it changes nothing."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        stranger, ada = await bench.person("otto", Role.OPERATOR), await bench.person("ada", Role.ADMIN)
        for ender in (Actor.of(olga), Actor.of(aude), Actor.of(ada), Actor("root")):
            grant = await bench.granted(olga, aude)
            with pytest.raises(PermissionDenied):
                await bench.glass.end(Actor.of(stranger), grant.id)
            shown, changed = await bench.glass.end(ender, grant.id, reason="over")
            assert (shown.state, changed) == ("ended", True)
            assert await bench.seen(olga) is olga
            assert (bench.written[-1]["type"], bench.written[-1]["actor"]) == ("break-glass.end", ender.name)
            before = len(bench.written)
            assert (await bench.glass.end(ender, grant.id))[1] is False
            assert len(bench.written) == before

    run(work)


def test_who_may_ask_look_and_approve() -> None:
    """The table of roles decides; what is not there is not found; a role that one has is not asked for."""

    async def work(bench: Bench) -> None:
        aude = await bench.person("aude", Role.AUDITOR)
        for role in (Role.USER, Role.TENANT_ADMIN, Role.AUDITOR):
            with pytest.raises(PermissionDenied):
                await bench.glass.ask(Actor.of(await bench.person("x", role)), {"role": "admin", "reason": "fire"})
        for role in (Role.USER, Role.TENANT_ADMIN):
            with pytest.raises(PermissionDenied):
                await bench.glass.page(Actor.of(await bench.person("y", role)), "", 10)
        with pytest.raises(NotFound):
            await bench.glass.approve(Actor.of(aude), "bgl_none")
        with pytest.raises(NotFound):
            await bench.glass.end(Actor.of(aude), "bgl_none")
        ada = Actor.of(await bench.person("ada", Role.ADMIN))
        with pytest.raises(Conflict, match="have this role"):
            await bench.glass.ask(ada, {"role": "admin", "reason": "fire"})
        assert bench.written == []

    run(work)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "admin"},
        {"role": "user", "reason": "x"},
        {"role": "tenant-admin", "reason": "x"},
        {"role": "admin", "reason": ""},
        {"role": "admin", "reason": "   "},
        {"role": "admin", "reason": "x", "minutes": 0},
        {"role": "admin", "reason": "x", "minutes": 241},
        {"role": "admin", "reason": "x", "minutes": "5"},
        {"role": "admin", "reason": "x", "for": "me"},
    ],
)
def test_what_is_no_ask(body: dict[str, Any]) -> None:
    """A role that cannot be lent, no reason, a time that is too long: refused, and nothing is kept."""

    async def work(bench: Bench) -> None:
        olga = await bench.person("olga", Role.OPERATOR)
        with pytest.raises(InvalidRequest):
            await bench.glass.ask(Actor.of(olga), body)
        assert (bench.written, await bench.directory.standing()) == ([], [])

    run(work)


@pytest.mark.parametrize("step", ["ask", "approve", "end"])
def test_a_step_that_cannot_be_recorded_is_not_taken(step: str) -> None:
    """The directory is as it was before, and nobody has more."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        asked = await bench.glass.ask(Actor.of(olga), {"role": "admin", "reason": "fire"}) if step != "ask" else None
        if asked is not None and step == "end":
            await bench.glass.approve(Actor.of(aude), asked.id)
        before, seen = await bench.directory.standing(), await bench.seen(olga)
        bench.broken = True
        steps: dict[str, Any] = {"approve": bench.glass.approve, "end": bench.glass.end}
        with pytest.raises(AuditUnavailable):
            await (
                bench.glass.ask(Actor.of(olga), {"role": "admin", "reason": "fire"})
                if asked is None
                else steps[step](Actor.of(aude), asked.id)
            )
        assert await bench.directory.standing() == before
        assert await bench.seen(olga) == seen

    run(work)


def test_what_is_kept_of_grants_is_bounded() -> None:
    """So many are open at once and no more; what is long over goes when the next one is asked for."""

    async def work(bench: Bench) -> None:
        for number in range(OPEN_AT_ONCE):
            person = await bench.person(f"p{number}", Role.OPERATOR)
            await bench.glass.ask(Actor.of(person), {"role": "admin", "reason": "fire"})
        olga = Actor.of(await bench.person("olga", Role.OPERATOR))
        with pytest.raises(Conflict, match="Too many"):
            await bench.glass.ask(olga, {"role": "admin", "reason": "fire"})
        bench.now += 31 * 24 * 60 * MINUTE
        await bench.glass.ask(olga, {"role": "admin", "reason": "fire"})
        assert len(await bench.directory.standing()) == 1

    run(work)


def test_what_is_lent_is_not_given_away() -> None:
    """Under a lent role nobody makes a key or a user with it, widens a key, asks on, or approves by it."""

    async def work(bench: Bench) -> None:
        olga, aude = await bench.person("olga", Role.OPERATOR), await bench.person("aude", Role.AUDITOR)
        held = await bench.person("hal", Role.USER)
        await bench.granted(olga, aude)
        lifted = Actor.of(await bench.seen(olga))
        for roles in (["admin"], ["tenant-admin"], ["user"]):
            with pytest.raises(PermissionDenied):
                await bench.keys.make(lifted, "ward", {"owner": "z", "roles": roles})
            with pytest.raises(PermissionDenied):
                await bench.documents.put(lifted, Where(Kind.USER, "ward", "olga"), {"roles": roles}, Match(new=True))
        with pytest.raises(PermissionDenied):
            await bench.keys.change(lifted, held.key_id, {"owner": "hal", "roles": ["admin"]}, Match(any_version=True))
        with pytest.raises(Conflict, match="open"):
            await bench.glass.ask(lifted, {"role": "auditor", "reason": "more"})
        made = await bench.documents.put(lifted, Where(Kind.TENANT, "", "new"), {}, Match())
        assert made.changed
        assert bench.written[-1]["break_glass"] == lifted.known.broken_glass

    run(work)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 5), st.sampled_from(["ward", "lab"]), ROLES),
        st.tuples(st.just("user"), st.integers(0, 5), st.sampled_from(["ward", "lab"]), ROLES),
        st.tuples(st.just("change"), st.integers(0, 5), st.integers(0, 9), ROLES),
        st.tuples(st.just("rotate"), st.integers(0, 5), st.integers(0, 9), st.none()),
        st.tuples(st.just("ask"), st.integers(0, 5), st.sampled_from(["admin", "operator", "auditor"]), st.none()),
        st.tuples(st.just("approve"), st.integers(0, 5), st.integers(0, 3), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 90), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=250, deadline=None)
@given(
    people=st.lists(st.tuples(st.sampled_from(["ward", "lab"]), ROLES), max_size=3),
    lent=st.sampled_from(["", "admin", "auditor"]),
    steps=STEPS,
)
def test_nobody_ends_with_more_than_they_had(
    people: list[tuple[str, frozenset[Role]]], lent: str, steps: list[tuple[str, Any, Any, Any]]
) -> None:
    """Whatever these people do, once all grants are over no key and no user has a permission that nobody who could give
    it had from the beginning: neither more of them, nor over more tenants. Every change has its record.
    """

    async def work(bench: Bench) -> None:
        there = [("ward", frozenset({Role.OPERATOR})), ("lab", frozenset({Role.AUDITOR})), *people]
        actors = [await bench.person(f"p{place}", *roles, tenant=home) for place, (home, roles) in enumerate(there)]
        if lent:
            await bench.granted(actors[0], actors[1], lent, minutes=240)
        first = {key.id: key for key in await bench.directory.keys(None, "", 100)}
        for step in steps:
            before, written = await bench.held(), len(bench.written)
            with contextlib.suppress(Refusal):
                await _taken(bench, actors, step)
            assert (await bench.held() == before) == (len(bench.written) == written)
        bench.now += 24 * 60 * MINUTE
        for actor in actors:
            assert await bench.seen(actor) is actor
        for key in await bench.directory.keys(None, "", 1000):
            assert _could_be_given(key.roles, key.tenant, actors) or first.get(key.id) == key, key
        for user in await bench.directory.page(Kind.USER, None, "", 1000):
            assert _could_be_given(frozenset(map(Role, user.body["roles"])), user.tenant, actors), user

    asyncio.run(work(Bench()))


def _could_be_given(roles: frozenset[Role], tenant: str, actors: list[Principal]) -> bool:
    """Whether somebody's own roles cover these, in their own tenant or, as the house's, in any."""
    return not roles or any(
        permissions(roles) <= actor.permissions
        and (actor.tenant == tenant or bool(actor.roles & HOUSE))
        and (not roles & HOUSE or bool(actor.roles & HOUSE))
        for actor in actors
    )


async def _taken(bench: Bench, actors: list[Principal], step: tuple[str, Any, Any, Any]) -> None:
    """One step of one of them, with what they have at that moment."""
    what, who, about, roles = step
    if what == "wait":
        bench.now += who * MINUTE
        return
    actor = Actor.of(await bench.seen(actors[who % len(actors)]))
    keys: list[Key] = await bench.directory.keys(None, "", 100)
    named = sorted(map(str, roles or ()))
    if what == "make":
        await bench.keys.make(actor, about, {"owner": "made", "roles": named})
    elif what == "user":
        await bench.documents.put(actor, Where(Kind.USER, about, "made"), {"roles": named}, Match(any_version=True))
    elif what == "change":
        key = keys[about % len(keys)]
        body = {"owner": key.owner, "roles": named}
        await bench.keys.change(actor, key.id, body, Match(any_version=True))
    elif what == "rotate":
        await bench.keys.rotate(actor, keys[about % len(keys)].id, overlap_seconds=60)
    elif what == "ask":
        await bench.glass.ask(actor, {"role": about, "reason": "fire"})
    else:
        shown = await bench.glass.page(actor, "", 100)
        if shown:
            await bench.glass.approve(actor, shown[about % len(shown)].id)
