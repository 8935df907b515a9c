"""The service of the administration: rights judged, versions looked at, every change recorded before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.directory import FakeChange, FakeDirectory
from vestry.admin.actor import Actor, Match
from vestry.admin.documents import MOST_PROJECTS, Documents, Where
from vestry.admin.events import Events
from vestry.admin.keys import Keys
from vestry.audit.records import Records
from vestry.errors import (
    AuditUnavailable,
    Conflict,
    InvalidRequest,
    KeysUnavailable,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    PreconditionRequired,
    Refusal,
)
from vestry.roles import Role
from vestry.seams import Record
from vestry.settings.tree import Settings
from vestry.types import Key, Kind, Limits, Principal

ROOT = Actor("root")
ANY = Match(any_version=True)
WARD = Where(Kind.TENANT, "", "ward")


class Bench:
    """The services, a directory in memory, and records that can fail."""

    def __init__(self) -> None:
        self.directory, self.written, self.broken = FakeDirectory(), list[Any](), False
        settings = Settings.model_validate({"tenants": {"default": {}}, "models": {"small": {}, "big": {}}})
        events = Events(Records(), self._write)
        self.documents = Documents(self.directory, events, settings)
        self.keys = Keys(self.directory, events, settings)

    async def _write(self, record: Record) -> None:
        if self.broken:
            raise AuditUnavailable
        self.written.append(record)

    async def held(self) -> tuple[Any, ...]:
        """All that is in the directory."""
        users = await self.directory.page(Kind.USER, None, "", 100)
        return await self.directory.standing(), users, await self.directory.keys(None, "", 100)

    async def furnished(self) -> Key:
        """A tenant with a project, a user and a key."""
        await self.documents.put(ROOT, WARD, {"models": ["small"]}, Match())
        await self.documents.put(ROOT, Where(Kind.PROJECT, "ward", "letters"), {}, Match())
        await self.documents.put(ROOT, Where(Kind.USER, "ward", "uma"), {}, Match())
        return (await self.keys.make(ROOT, "ward", {"owner": "k"}))[1]


def run(work: Callable[[Bench], Awaitable[None]]) -> None:
    async def go() -> None:
        await work(Bench())

    asyncio.run(go())


def of(*roles: Role, tenant: str = "ward", **more: Any) -> Actor:
    """Somebody with these roles."""
    return Actor.of(Principal("key_1", tenant, "somebody", frozenset(roles), **more))


Change = Callable[[Bench, Key], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "make a tenant": lambda b, _: b.documents.put(ROOT, Where(Kind.TENANT, "", "lab"), {}, Match()),
    "change a tenant": lambda b, _: b.documents.put(ROOT, WARD, {"concurrency": 9}, ANY),
    "write the policy": lambda b, _: b.documents.put(ROOT, Where(Kind.POLICY, "", "policy"), {}, Match()),
    "remove a project": lambda b, _: b.documents.remove(ROOT, Where(Kind.PROJECT, "ward", "letters"), ANY),
    "change a user": lambda b, _: b.documents.put(ROOT, Where(Kind.USER, "ward", "uma"), {"disabled": True}, ANY),
    "remove a user": lambda b, _: b.documents.remove(ROOT, Where(Kind.USER, "ward", "uma"), ANY),
    "make a key": lambda b, _: b.keys.make(ROOT, "ward", {"owner": "new"}),
    "change a key": lambda b, key: b.keys.change(ROOT, key.id, {"owner": "other"}, ANY),
    "freeze a key": lambda b, key: b.keys.freeze(ROOT, key.id, frozen=True),
    "replace a key": lambda b, key: b.keys.rotate(ROOT, key.id, overlap_seconds=60),
    "revoke a key": lambda b, key: b.keys.revoke(ROOT, key.id),
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_without_its_record(name: str) -> None:
    """A change that cannot be recorded leaves the directory as it was; one that can is done, and recorded."""

    async def work(bench: Bench) -> None:
        key = await bench.furnished()
        before, written = await bench.held(), len(bench.written)
        bench.broken = True
        with pytest.raises(AuditUnavailable):
            await CHANGES[name](bench, key)
        assert await bench.held() == before
        bench.broken = False
        await CHANGES[name](bench, key)
        assert await bench.held() != before
        assert len(bench.written) > written
        assert all(record["actor"] == "root" for record in bench.written)

    run(work)


@pytest.mark.parametrize("name", CHANGES)
def test_a_directory_that_cannot_be_written_says_so(name: str) -> None:
    """The answer is that it cannot be, and nothing is done."""

    async def work(bench: Bench) -> None:
        key = await bench.furnished()
        before = await bench.held()
        bench.directory.broken = True
        with pytest.raises(KeysUnavailable):
            await CHANGES[name](bench, key)
        bench.directory.broken = False
        assert await bench.held() == before

    run(work)


def test_a_change_says_which_version_it_is_for() -> None:
    """A stale or missing version is refused; what is there already is left alone, whatever version is named."""

    async def work(bench: Bench) -> None:
        await bench.furnished()
        put = bench.documents.put
        with pytest.raises(PreconditionRequired):
            await put(ROOT, WARD, {"concurrency": 9}, Match())
        with pytest.raises(PreconditionFailed):
            await put(ROOT, WARD, {"concurrency": 9}, Match((7,)))
        with pytest.raises(PreconditionFailed, match="exists"):
            await put(ROOT, WARD, {"concurrency": 9}, Match(new=True))
        with pytest.raises(PreconditionFailed, match="any more"):
            await put(ROOT, Where(Kind.TENANT, "", "gone"), {}, Match((1,)))
        assert (await put(ROOT, WARD, {"concurrency": 9}, Match((1,)))).document.version == 2
        written = len(bench.written)
        same = await put(ROOT, WARD, {"concurrency": 9}, Match((1,)))
        assert (same.changed, same.document.version, len(bench.written)) == (False, 2, written)

    run(work)


def test_what_depends_on_each_other() -> None:
    """A tenant with keys, users or projects stays, and a project with keys; what is named has to be there."""

    async def work(bench: Bench) -> None:
        key = await bench.furnished()
        letters = Where(Kind.PROJECT, "ward", "letters")
        await bench.keys.change(ROOT, key.id, {"owner": "k", "project": "letters"}, ANY)
        with pytest.raises(Conflict, match="keys"):
            await bench.documents.remove(ROOT, letters, ANY)
        with pytest.raises(Conflict, match="keys"):
            await bench.documents.remove(ROOT, WARD, ANY)
        await bench.keys.revoke(ROOT, key.id)
        with pytest.raises(Conflict, match="has a"):
            await bench.documents.remove(ROOT, WARD, ANY)
        for where in (letters, Where(Kind.USER, "ward", "uma"), WARD):
            await bench.documents.remove(ROOT, where, ANY)
        with pytest.raises(NotFound):
            await bench.documents.remove(ROOT, WARD, ANY)
        with pytest.raises(NotFound):
            await bench.keys.make(ROOT, "ward", {"owner": "k"})
        with pytest.raises(InvalidRequest):
            await bench.keys.make(ROOT, "default", {"owner": "k", "models": ["none"]})
        with pytest.raises(Conflict, match="settings"):
            await bench.documents.put(ROOT, Where(Kind.TENANT, "", "default"), {}, ANY)

    run(work)


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ({"models": frozenset({"small"})}, {}),
        ({"models": frozenset({"small"})}, {"models": ["big"]}),
        ({"routes": frozenset({"models"})}, {"routes": ["models", "chat.completions"]}),
        ({"project": "letters"}, {}),
        ({"limits": Limits(concurrency=2)}, {"concurrency": 3}),
        ({"limits": Limits(requests_per_minute=2)}, {}),
        ({"roles": frozenset({Role.TENANT_ADMIN})}, {"roles": ["admin"]}),
        ({"roles": frozenset({Role.ADMIN})}, {"roles": ["auditor"]}),
    ],
)
def test_a_key_is_never_wider_than_its_makers_credential(own: dict[str, Any], given: dict[str, Any]) -> None:
    """Neither made nor changed nor replaced: what its maker may not do, the key does not get."""
    principal = Principal("key_1", "ward", "somebody", **{"roles": frozenset({Role.TENANT_ADMIN}), **own})

    async def work(bench: Bench) -> None:
        await bench.documents.put(ROOT, WARD, {}, Match())
        await bench.documents.put(ROOT, Where(Kind.PROJECT, "ward", "letters"), {}, Match())
        actor = Actor.of(principal)
        _, wide = await bench.keys.make(ROOT, "ward", {"owner": "wide", **given})
        before = await bench.held()
        for attempt in (
            bench.keys.make(actor, "ward", {"owner": "x", **given}),
            bench.keys.rotate(actor, wide.id, overlap_seconds=0),
            bench.keys.change(actor, wide.id, {"owner": "wide", "expires": "2099-01-01T00:00:00Z", **given}, ANY),
        ):
            with pytest.raises(PermissionDenied):
                await attempt
        assert await bench.held() == before

    run(work)


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ({"models": frozenset({"small"})}, {}),
        ({"models": frozenset({"small"})}, {"models": ["big"]}),
        ({"project": "letters"}, {}),
        ({"limits": Limits(concurrency=2)}, {"concurrency": 3}),
        ({"limits": Limits(requests_per_minute=2)}, {}),
    ],
)
def test_users_and_projects_are_never_wider_than_their_writers_credential(
    own: dict[str, Any], given: dict[str, Any]
) -> None:
    """Neither their own bounds are lifted by it, nor others': not by writing, and not by removing what bounds them."""
    actor = Actor.of(Principal("key_1", "ward", "somebody", frozenset({Role.TENANT_ADMIN}), **own))

    async def work(bench: Bench) -> None:
        await bench.documents.put(ROOT, WARD, {}, Match())
        letters, uma = Where(Kind.PROJECT, "ward", "letters"), Where(Kind.USER, "ward", "uma")
        await bench.documents.put(ROOT, letters, {"models": ["small"], "concurrency": 1, **given}, Match())
        narrow = {"models": ["small"], "concurrency": 1, "requests_per_minute": 1, "project": "letters"}
        await bench.documents.put(ROOT, uma, narrow, Match())
        before = await bench.held()
        for attempt in (
            bench.documents.put(actor, letters, given, ANY),
            bench.documents.put(actor, Where(Kind.PROJECT, "ward", "new"), given, ANY),
            bench.documents.put(actor, uma, given, ANY),
            bench.documents.put(actor, Where(Kind.USER, "ward", "new"), given, ANY),
            bench.documents.remove(actor, uma, ANY),
        ):
            with pytest.raises(PermissionDenied):
                await attempt
        assert await bench.held() == before
        more = {"description": "as narrow as before"}
        assert (await bench.documents.put(actor, uma, {**narrow, **more}, ANY)).changed

    run(work)


def test_a_tenant_has_so_many_projects_and_no_more() -> None:
    """Every server knows all of them: one tenant's administrator cannot make the house slow. A change is no new one."""

    async def work(bench: Bench) -> None:
        await bench.furnished()
        for number in range(MOST_PROJECTS - 1):
            await bench.directory.write(Kind.PROJECT, "ward", f"p{number}", {})
        with pytest.raises(Conflict, match="1000 projects"):
            await bench.documents.put(ROOT, Where(Kind.PROJECT, "ward", "more"), {}, Match())
        letters = Where(Kind.PROJECT, "ward", "letters")
        assert (await bench.documents.put(ROOT, letters, {"description": "changed"}, ANY)).changed
        await bench.documents.remove(ROOT, Where(Kind.PROJECT, "ward", "p0"), ANY)
        assert (await bench.documents.put(ROOT, Where(Kind.PROJECT, "ward", "more"), {}, Match())).changed

    run(work)


def test_a_key_that_ends_makes_none_that_lives_longer() -> None:
    """Neither made, nor changed, nor replaced: else whoever has a key until Friday would have another by then."""

    async def work(bench: Bench) -> None:
        await bench.documents.put(ROOT, WARD, {}, Match())
        soon, later = "2098-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
        body = {"owner": "tess", "roles": ["tenant-admin"]}
        _, own = await bench.keys.make(ROOT, "ward", {**body, "expires": soon})
        _, lasting = await bench.keys.make(ROOT, "ward", body)
        actor = Actor.of(own.holder())
        before = await bench.held()
        for attempt in (
            bench.keys.make(actor, "ward", {"owner": "x"}),
            bench.keys.make(actor, "ward", {"owner": "x", "expires": later}),
            bench.keys.change(actor, own.id, body, ANY),
            bench.keys.change(actor, own.id, {**body, "expires": later}, ANY),
            bench.keys.rotate(actor, lasting.id, overlap_seconds=0),
        ):
            with pytest.raises(PermissionDenied) as refused:
                await attempt
            assert refused.value.param == "expires"
        assert await bench.held() == before
        assert (await bench.keys.make(actor, "ward", {"owner": "x", "expires": soon}))[0]
        assert (await bench.keys.rotate(actor, own.id, overlap_seconds=60))[0]
        assert (await bench.keys.make(Actor.of(lasting.holder()), "ward", {"owner": "x"}))[0]

    run(work)


def test_who_reaches_one_tenant_neither_stops_nor_lets_in_the_houses_keys() -> None:
    """A house's key is in some tenant: its administrator is not above it. Who reaches the house freezes and thaws."""

    async def work(bench: Bench) -> None:
        await bench.documents.put(ROOT, WARD, {}, Match())
        _, key = await bench.keys.make(ROOT, "ward", {"owner": "ada", "roles": ["admin"]})
        tess, olga = of(Role.TENANT_ADMIN), of(Role.OPERATOR, tenant="default")
        for frozen in (True, False):
            with pytest.raises(PermissionDenied):
                await bench.keys.freeze(tess, key.id, frozen=frozen)
            await bench.keys.freeze(olga, key.id, frozen=frozen)
        with pytest.raises(PermissionDenied):
            await bench.keys.revoke(tess, key.id)
        assert await bench.directory.key(key.id) is not None
        _, revoked = await bench.keys.revoke(of(Role.ADMIN, tenant="default"), key.id)
        assert revoked

    run(work)


def test_a_tenants_keys_are_not_read_for_a_change_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be any number of them, and while they are read nobody is served: one is enough to know of."""
    asked: list[int] = []

    async def keys(change: FakeChange, tenant: str, limit: int) -> list[Key]:
        asked.append(limit)
        return await read(change, tenant, limit)

    read = FakeChange.keys
    monkeypatch.setattr(FakeChange, "keys", keys)

    async def work(bench: Bench) -> None:
        await bench.furnished()
        tess, letters = of(Role.TENANT_ADMIN), Where(Kind.PROJECT, "ward", "letters")
        for disabled in (True, False):
            await bench.documents.put(tess, letters, {"disabled": disabled}, ANY)
        with pytest.raises(Conflict):
            await bench.documents.remove(ROOT, WARD, ANY)

    run(work)
    assert asked == [1]


def test_another_tenants_things_are_not_there() -> None:
    """Who has one tenant is told of another's what they are told of what there is not; nothing of it is changed."""

    async def work(bench: Bench) -> None:
        key = await bench.furnished()
        actor = of(Role.TENANT_ADMIN, tenant="default")
        before = await bench.held()
        project = Where(Kind.PROJECT, "ward", "letters")
        attempts: list[Awaitable[Any]] = [
            bench.documents.read(actor, WARD),
            bench.documents.read(actor, project),
            bench.documents.put(actor, project, {}, ANY),
            bench.documents.remove(actor, project, ANY),
            bench.documents.page(actor, Kind.USER, "ward", "", 10),
            bench.keys.read(actor, key.id),
            bench.keys.read(actor, "key_none"),
            bench.keys.page(actor, "ward", "", 10),
            bench.keys.make(actor, "ward", {"owner": "x"}),
            bench.keys.change(actor, key.id, {"owner": "x"}, ANY),
            bench.keys.freeze(actor, key.id, frozen=True),
            bench.keys.revoke(actor, key.id),
            bench.keys.rotate(actor, key.id, overlap_seconds=0),
        ]
        told = []
        for attempt in attempts:
            with pytest.raises(Refusal) as refused:
                await attempt
            told.append(refused.value.body())
        assert set(told) == {NotFound().body()}
        assert await bench.held() == before
        assert [each.document.name for each in await bench.documents.page(actor, Kind.TENANT, None, "", 10)] == [
            "default"
        ]
        assert await bench.keys.page(actor, None, "", 10) == []

    run(work)


def test_records_say_what_was_and_what_is() -> None:
    """Before and after of a document and of a key, who did it, and why."""

    async def work(bench: Bench) -> None:
        key = await bench.furnished()
        await bench.documents.put(ROOT, WARD, {"models": ["small"], "concurrency": 9}, ANY)
        changed = bench.written[-1]
        assert (changed["old"]["concurrency"], changed["new"]["concurrency"]) == (64, 9)
        await bench.keys.freeze(of(Role.OPERATOR, tenant="default"), key.id, frozen=True, reason="seen outside")
        frozen = bench.written[-1]
        assert (frozen["change"], frozen["reason"], frozen["actor_role"]) == ("freeze", "seen outside", "operator")
        assert "frozen" in frozen["new"]
        assert "frozen" not in frozen["old"]

    run(work)


@pytest.mark.parametrize("text", ['W/"1"', "1", '"x"', '""', '"1", 2', '"' + "9" * 40 + '"', '"-1"', '"²"'])
def test_what_is_no_entity_tag(text: str) -> None:
    """Only tags that this server gives are taken."""
    with pytest.raises(InvalidRequest):
        Match.read(text, None)
    with pytest.raises(InvalidRequest):
        Match.read(None, text)


def test_entity_tags() -> None:
    """One, several, any, or none."""
    assert Match.read('"3"', None) == Match((3,))
    assert Match.read('"3", "4"', None) == Match((3, 4))
    assert Match.read(" * ", None) == Match(any_version=True)
    assert Match.read(None, "*") == Match(new=True)
    assert Match.read(None, None) == Match()
