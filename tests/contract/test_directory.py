"""The laws of seams.Directory, seams.Change and seams.Freshness, for every store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from support.directories import STANDS, Pair, PostgresStand, SqliteStand, Stand, eventually, on
from support.keys import NOBODYS
from vestry.adapters.directory import store
from vestry.adapters.directory.rows import document_of
from vestry.adapters.key_format import mint, mint_id
from vestry.adapters.memory import wall
from vestry.composition.store import key_with
from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.seams import Directory
from vestry.types import Document, Key, Kind, Limits

HOUR = 3_600_000_000


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    """Each store in turn."""
    made: Stand = request.param(tmp_path)
    return made


def key(tenant: str = "default", **rights: Any) -> Key:
    """A key that is not kept yet."""
    return Key(mint_id(), tenant, "alice", wall(), **rights)


async def add(directory: Directory, made: Key, secret: str | None = None) -> Key:
    """Keep it."""
    async with directory.changing() as change:
        return await change.add_key(made, secret or mint())


async def put(directory: Directory, kind: Kind, tenant: str, name: str, body: dict[str, Any] | None = None) -> Document:
    """Write a document."""
    async with directory.changing() as change:
        return await change.put(kind, tenant, name, body or {})


# Keys.


def test_a_key_is_found_with_all_that_it_was_made_with(stand: Stand) -> None:
    """By its text, by its id and among the tenant's, with roles, project, bounds and times as they were."""
    secret = mint()
    made = key(
        "radiology",
        roles=frozenset({Role.TENANT_ADMIN, Role.AUDITOR}),
        project="triage",
        models=frozenset({"small", "org/large.v2"}),
        routes=frozenset({"chat.completions", "models"}),
        sources=(ip_network("2001:db8::/32"), ip_network("10.0.0.0/8")),
        limits=Limits(3, 60),
        expires=wall() + HOUR,
        frozen=wall(),
        replaces="key_0",
        made_by="the portal, for dana",
    )

    async def work(pair: Pair) -> None:
        kept = await add(pair.mine, made, secret)
        assert kept == made
        assert await key_with(pair.theirs, secret) == kept
        assert await pair.theirs.key(made.id) == kept
        assert await pair.theirs.keys("radiology", "", 10) == [kept]

    on(stand, work)


def test_a_key_without_bounds_has_none(stand: Stand) -> None:
    """No list of models, routes or sources is not an empty list."""
    made = key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, made)
        found = await pair.theirs.key(made.id)
        assert found == made
        assert (found.models, found.routes, found.sources, found.limits) == (None, None, (), Limits())

    on(stand, work)


def test_what_is_no_key_is_found_by_nothing(stand: Stand) -> None:
    """A text that was never a key's, or has no key's shape, and an id that there is not."""

    async def work(pair: Pair) -> None:
        await add(pair.mine, key())
        for text in (mint(), NOBODYS, "", "vst_short", "vst_" + "é" * 49):
            assert await key_with(pair.mine, text) is None
        assert await pair.mine.key("key_none") is None
        assert await pair.mine.keys("other", "", 10) == []

    on(stand, work)


def test_a_changed_key_has_a_new_version(stand: Stand) -> None:
    """Each change raises it by one, whatever the caller thinks it is; the text stays the key's."""
    secret, made = mint(), key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, made, secret)
        async with pair.theirs.changing() as change:
            frozen = await change.put_key(replace(made, frozen=5, version=70))
        assert (frozen.version, frozen.frozen) == (2, 5)
        assert await key_with(pair.mine, secret) == frozen
        async with pair.mine.changing() as change:
            await change.put_key(replace(frozen, frozen=None, revoked=9))
        found = await key_with(pair.theirs, secret)
        assert found is not None
        assert (found.version, found.frozen, found.revoked) == (3, None, 9)

    on(stand, work)


def test_a_key_is_made_once_and_changed_only_if_there_is_one(stand: Stand) -> None:
    """The same id or the same text again, and a change of none, are ValueErrors and change nothing."""
    secret, made = mint(), key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, made, secret)
        with pytest.raises(ValueError, match="such a key"):
            await add(pair.mine, key(), secret)
        with pytest.raises(ValueError, match="such a key"):
            await add(pair.mine, made)
        with pytest.raises(ValueError, match="no such key"):
            async with pair.mine.changing() as change:
                await change.put_key(key())
        assert await pair.theirs.keys(None, "", 10) == [made]

    on(stand, work)


def test_keys_come_in_pages_in_byte_order(stand: Stand) -> None:
    """Of one tenant or of all, by id, after a given one; capitals before small letters, as bytes are."""
    ids = ["key_B", "key_a", "key_Z9", "key_b", "key_A"]

    async def work(pair: Pair) -> None:
        for number, each in enumerate(ids):
            await add(pair.mine, replace(key("odd" if number % 2 else "even"), id=each))
        ordered = sorted(ids, key=str.encode)
        assert [each.id for each in await pair.mine.keys(None, "", 3)] == ordered[:3]
        assert [each.id for each in await pair.mine.keys(None, ordered[2], 3)] == ordered[3:]
        assert [each.id for each in await pair.mine.keys("odd", "", 9)] == ["key_a", "key_b"]
        assert [each.id for each in await pair.mine.keys("odd", "key_a", 9)] == ["key_b"]

    on(stand, work)


def test_a_change_sees_the_tenants_keys_that_are_not_revoked(stand: Stand) -> None:
    """Those that it made before in itself included, no more than asked for, and none of another tenant."""

    async def work(pair: Pair) -> None:
        gone, kept = replace(key(), id="key_1"), replace(key(), id="key_2")
        await add(pair.mine, gone)
        await add(pair.mine, kept)
        await add(pair.mine, key("other"))
        async with pair.mine.changing() as change:
            await change.put_key(replace(gone, revoked=1))
            await change.add_key(replace(key(), id="key_3"), mint())
            assert [each.id for each in await change.keys("default", 9)] == ["key_2", "key_3"]
            assert [each.id for each in await change.keys("default", 1)] == ["key_2"]
            assert (await change.key("key_1")) == replace(gone, revoked=1, version=2)
            assert await change.key("key_none") is None

    on(stand, work)


def test_a_change_sees_who_belongs_to_a_project(stand: Stand) -> None:
    """Keys that are not revoked, and users: of the tenant alone, with changes of its own, no more than asked for."""

    async def work(pair: Pair) -> None:
        mine = [await add(pair.mine, key("a", project="p")) for _ in range(3)]
        for other in (key("a"), key("a", project="q"), key("b", project="p"), key("a", project="p", revoked=wall())):
            await add(pair.mine, other)
        for tenant, name, project in (
            ("a", "x", "p"),
            ("a", "y", "p"),
            ("a", "z", None),
            ("a", "w", "q"),
            ("b", "x", "p"),
        ):
            await put(pair.mine, Kind.USER, tenant, name, {"project": project})
        await put(pair.mine, Kind.PROJECT, "a", "p", {"project": "p"})
        ids = sorted(each.id for each in mine)
        async with pair.theirs.changing() as change:
            assert await change.members("a", "p", 10) == (ids, ["x", "y"])
            assert await change.members("a", "p", 1) == (ids[:1], ["x"])
            assert await change.members("a", "none", 10) == ([], [])
            assert await change.members("a", "p\x00", 10) == ([], [])
            await change.remove(Kind.USER, "a", "x")
            await change.put(Kind.USER, "a", "y", {"project": "q"})
            assert await change.members("a", "p", 10) == (ids, [])

    on(stand, work)


def test_a_change_sees_whether_a_project_has_a_key_of_the_house(stand: Stand) -> None:
    """By any role of it, be it one among others; of the project alone, and not of revoked ones."""

    async def work(pair: Pair) -> None:
        of_tenants = ({Role.USER}, {Role.TENANT_ADMIN}, {Role.USER, Role.TENANT_ADMIN})
        for roles in of_tenants:
            await add(pair.mine, key("a", project="p", roles=frozenset(roles)))
        for other in (key("a", project="q"), key("a"), key("b", project="p"), key("a", project="p", revoked=wall())):
            await add(pair.mine, replace(other, roles=frozenset({Role.ADMIN})))
        async with pair.theirs.changing() as change:
            assert not await change.reaches_house("a", "p")
            assert not await change.reaches_house("a", "p\x00")
            for roles in ({Role.OPERATOR}, {Role.USER, Role.AUDITOR}, {Role.ADMIN, Role.TENANT_ADMIN}):
                made = await change.add_key(key("a", project="p", roles=frozenset(roles)), mint())
                assert await change.reaches_house("a", "p")
                await change.put_key(replace(made, revoked=wall()))
                assert not await change.reaches_house("a", "p")

    on(stand, work)


def test_noting_use_changes_nothing_else(stand: Stand) -> None:
    """The time is the latest that was noted, ids that there are not are nobody's, and a change of the key leaves it."""
    made, other = key(), key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, made)
        await add(pair.mine, other)
        await pair.mine.note_used({made.id, "key_none"}, 20)
        await pair.theirs.note_used([made.id], 10)
        await pair.theirs.note_used([], 10)
        assert await pair.mine.key(made.id) == replace(made, last_used=20)
        assert await pair.mine.key(other.id) == other
        async with pair.mine.changing() as change:
            await change.put_key(replace(made, frozen=1))
        found = await pair.theirs.key(made.id)
        assert found == replace(made, last_used=20, frozen=1, version=2)

    on(stand, work)


# Documents.


def test_a_document_is_what_was_written_last(stand: Stand) -> None:
    """With a version more for each change, the time of its making kept, and the same name in another kind or tenant
    apart.
    """

    async def work(pair: Pair) -> None:
        first = await put(pair.mine, Kind.PROJECT, "radiology", "triage", {"models": ["small"]})
        other = await put(pair.mine, Kind.USER, "radiology", "triage", {"of": "another kind"})
        second = await put(pair.theirs, Kind.PROJECT, "radiology", "triage", {})
        assert second.version == first.version + 1
        assert abs(first.created - wall()) < HOUR
        assert (second.created, second.body) == (first.created, {})
        assert second.updated >= first.updated
        assert await pair.mine.read(Kind.PROJECT, "radiology", "triage") == second
        assert await pair.mine.read(Kind.USER, "radiology", "triage") == other
        assert await pair.mine.read(Kind.PROJECT, "research", "triage") is None

    on(stand, work)


def test_a_removed_document_is_gone(stand: Stand) -> None:
    """Removed twice it stays gone."""

    async def work(pair: Pair) -> None:
        await put(pair.mine, Kind.TENANT, "", "radiology")
        for _ in range(2):
            async with pair.theirs.changing() as change:
                await change.remove(Kind.TENANT, "", "radiology")
        assert await pair.mine.read(Kind.TENANT, "", "radiology") is None

    on(stand, work)


def test_no_version_of_a_name_comes_twice(stand: Stand) -> None:
    """However often it is removed and made anew, in one transaction or in several, and whatever else changes: else who
    has read the one would change the other with `If-Match`.
    """

    async def work(pair: Pair) -> None:
        seen = []
        for _ in range(3):
            seen += [(await put(pair.mine, Kind.TENANT, "", "radiology")).version for _ in range(3)]
            await put(pair.theirs, Kind.TENANT, "", "oncology")
            async with pair.theirs.changing() as change:
                await change.remove(Kind.TENANT, "", "radiology")
                seen.append((await change.put(Kind.TENANT, "", "radiology", {})).version)
                await change.remove(Kind.TENANT, "", "radiology")
        assert seen == sorted(set(seen))

    on(stand, work)


def test_what_stands_is_all_but_users(stand: Stand) -> None:
    """Tenants, projects, policy and break-glass grants; users may be many, and are asked for one by one."""

    async def work(pair: Pair) -> None:
        assert await pair.mine.standing() == []
        made = [await put(pair.mine, kind, "", f"a-{kind}") for kind in Kind]
        found = await pair.theirs.standing()
        assert {each.kind for each in found} == set(Kind) - {Kind.USER}
        assert sorted(found, key=str) == sorted((each for each in made if each.kind != Kind.USER), key=str)

    on(stand, work)


def test_documents_come_in_pages_in_byte_order(stand: Stand) -> None:
    """By `tenant/name` as one text, of one tenant or of all, after a given place."""
    places = [("a", "x"), ("a-b", "x"), ("a", "Z"), ("a", "z"), ("b", "a"), ("a", "x-y")]

    async def work(pair: Pair) -> None:
        for tenant, name in places:
            await put(pair.mine, Kind.USER, tenant, name)
        await put(pair.mine, Kind.PROJECT, "a", "y")
        ordered = sorted((f"{tenant}/{name}" for tenant, name in places), key=str.encode)

        async def page(tenant: str | None, after: str, limit: int) -> list[str]:
            found = await pair.theirs.page(Kind.USER, tenant, after, limit)
            return [f"{each.tenant}/{each.name}" for each in found]

        assert await page(None, "", 4) == ordered[:4]
        assert await page(None, ordered[3], 4) == ordered[4:]
        assert await page("a", "", 9) == ["a/Z", "a/x", "a/x-y", "a/z"]
        assert await page("a", "a/x", 1) == ["a/x-y"]
        async with pair.mine.changing() as change:
            assert await change.names(Kind.USER, "a", 9) == ["Z", "x", "x-y", "z"]
            assert await change.names(Kind.USER, "a", 2) == ["Z", "x"]

    on(stand, work)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_a_body_comes_back_as_it_was(stand: Stand, body: dict[str, Any]) -> None:
    """Whatever JSON it is, in any script."""

    async def work(pair: Pair) -> None:
        await put(pair.mine, Kind.POLICY, "", "rules", body)
        found = await pair.mine.read(Kind.POLICY, "", "rules")
        assert found is not None
        assert found.body == body

    on(stand, work)


def test_a_name_that_no_database_holds_is_not_there(stand: Stand) -> None:
    """Asked for with NUL or half a character, as a stranger may: nothing is found, and nothing fails."""

    async def work(pair: Pair) -> None:
        for name in ("a\0b", "half \ud800"):
            assert await pair.mine.read(Kind.USER, "default", name) is None
            assert await pair.mine.read(Kind.USER, name, "a") is None
            assert await pair.mine.key(name) is None
            assert await pair.mine.keys(name, "", 9) == []
            assert await pair.mine.page(Kind.USER, name, "", 9) == []
            async with pair.mine.changing() as change:
                assert await change.read(Kind.USER, "default", name) is None
                assert await change.key(name) is None
                await change.remove(Kind.USER, "default", name)

    on(stand, work)


# Transactions.


class Stopped(Exception):  # noqa: N818 - stands for whatever a change raises
    pass


def test_what_is_raised_in_a_change_undoes_it(stand: Stand) -> None:
    """All of it, and passes on; the next change works."""
    kept = key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, kept)
        with pytest.raises(Stopped):  # noqa: PT012
            async with pair.mine.changing() as change:
                await change.put(Kind.TENANT, "", "radiology", {})
                await change.add_key(key(), mint())
                await change.put_key(replace(kept, revoked=1))
                raise Stopped
        assert await pair.theirs.standing() == []
        assert await pair.theirs.keys(None, "", 9) == [kept]
        await put(pair.mine, Kind.TENANT, "", "radiology")
        assert len(await pair.theirs.standing()) == 1

    on(stand, work)


def test_a_change_that_is_cancelled_is_undone(stand: Stand) -> None:
    """Whoever asked has gone before its end: nothing is left of it, and nothing is locked."""

    async def work(pair: Pair) -> None:
        begun = asyncio.Event()

        async def never() -> None:
            async with pair.mine.changing() as change:
                await change.put(Kind.TENANT, "", "radiology", {})
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(never())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pair.theirs.read(Kind.TENANT, "", "radiology") is None
        await put(pair.theirs, Kind.TENANT, "", "radiology")

    on(stand, work)


def test_nobody_sees_a_change_before_it_is_done(stand: Stand) -> None:
    """It sees itself; the others see what was before, until its end."""

    async def work(pair: Pair) -> None:
        await put(pair.mine, Kind.TENANT, "", "radiology", {"before": True})
        async with pair.mine.changing() as change:
            await change.put(Kind.TENANT, "", "radiology", {"before": False})
            seen = await change.read(Kind.TENANT, "", "radiology")
            assert seen is not None
            assert seen.body == {"before": False}
            for side in (pair.mine, pair.theirs):
                found = await side.read(Kind.TENANT, "", "radiology")
                assert found is not None
                assert found.body == {"before": True}
        found = await pair.theirs.read(Kind.TENANT, "", "radiology")
        assert found is not None
        assert found.body == {"before": False}

    on(stand, work)


def test_changes_do_not_overlap(stand: Stand) -> None:
    """Of many that read a number and write the next one, on both sides at once, none is lost."""

    async def count(directory: Directory) -> None:
        async with directory.changing() as change:
            found = await change.read(Kind.POLICY, "", "number")
            await change.put(Kind.POLICY, "", "number", {"is": 1 if found is None else found.body["is"] + 1})

    async def work(pair: Pair) -> None:
        await asyncio.gather(*(count(each) for each in (pair.mine, pair.theirs) for _ in range(6)))
        found = await pair.mine.read(Kind.POLICY, "", "number")
        assert found is not None
        assert found.body == {"is": 12}

    on(stand, work)


# Freshness.


def test_every_change_begins_an_epoch(stand: Stand) -> None:
    """One made here counts for what arrives next; one made elsewhere within two seconds. Reading begins none."""
    made = key()

    async def revoke(directory: Directory) -> None:
        async with directory.changing() as change:
            await change.put_key(replace(made, revoked=1))

    async def forget(directory: Directory) -> None:
        async with directory.changing() as change:
            await change.remove(Kind.TENANT, "", "radiology")

    changes: list[Callable[[Directory], Awaitable[object]]] = [
        lambda directory: add(directory, made),
        lambda directory: put(directory, Kind.TENANT, "", "radiology"),
        lambda directory: put(directory, Kind.TENANT, "", "radiology", {"again": 1}),
        forget,
        revoke,
    ]

    async def work(pair: Pair) -> None:
        for number, change in enumerate(changes):
            side = (pair.mine, pair.theirs)[number % 2]
            before = pair.freshness.epoch(time.monotonic())
            await pair.mine.standing()
            await change(side)
            if side is not pair.mine:
                done = time.monotonic()
                await eventually(lambda before=before: _changed(pair, before))  # type: ignore[misc]
                assert time.monotonic() - done < 2
            assert pair.freshness.epoch(time.monotonic()) != before

    on(stand, work)


async def _changed(pair: Pair, before: int) -> bool:
    return pair.freshness.epoch(time.monotonic()) != before


def test_noting_use_begins_no_epoch(stand: Stand) -> None:
    """Neither here nor elsewhere, so that once a minute no memory is emptied for it."""
    made = key()

    async def work(pair: Pair) -> None:
        await add(pair.mine, made)
        before = await _settled(pair)
        for side in (pair.mine, pair.theirs):
            await side.note_used([made.id], wall())
        assert await _settled(pair) == before
        assert (await pair.mine.key(made.id)) != made

    on(stand, work)


async def _settled(pair: Pair) -> int:
    """The epoch when everything was heard that has happened so far: by a look at SQLite, by a notification."""
    found, before = pair.freshness.epoch(time.monotonic()), -1
    while found != before:
        await asyncio.sleep(0.4)
        found, before = pair.freshness.epoch(time.monotonic()), found
    return found


# Faults.


def test_what_cannot_be_read_refuses_and_recovers(stand: Stand) -> None:
    """While the store is out of reach every method says so, and soon; then all is as before."""
    secret, made = mint(), key()

    async def change(directory: Directory) -> None:
        async with directory.changing() as change:
            await change.put(Kind.TENANT, "", "b", {})

    async def refused(directory: Directory) -> bool:
        try:
            await key_with(directory, secret)
        except KeysUnavailable:
            return True
        return False

    async def works(directory: Directory) -> bool:
        return not await refused(directory)

    async def work(pair: Pair) -> None:
        await add(pair.mine, made, secret)
        await put(pair.mine, Kind.TENANT, "", "a")
        stand.break_()
        await eventually(lambda: refused(pair.mine))
        ways: list[Callable[[Directory], Awaitable[object]]] = [
            lambda directory: directory.standing(),
            lambda directory: directory.read(Kind.TENANT, "", "a"),
            lambda directory: directory.page(Kind.TENANT, None, "", 9),
            lambda directory: directory.key(made.id),
            lambda directory: directory.keys(None, "", 9),
            lambda directory: key_with(directory, secret),
            lambda directory: directory.note_used([made.id], 1),
            change,
        ]
        for way in ways:
            for side in (pair.mine, pair.theirs):
                async with asyncio.timeout(10):
                    with pytest.raises(KeysUnavailable):
                        await way(side)
        stand.mend()
        for side in (pair.mine, pair.theirs):
            await eventually(lambda side=side: works(side))  # type: ignore[misc]
            assert await key_with(side, secret) == made
            assert [each.name for each in await side.standing()] == ["a"]
        await eventually(lambda: _tells(pair))

    on(stand, work)


async def _tells(pair: Pair) -> bool:
    try:
        pair.freshness.epoch(time.monotonic())
    except KeysUnavailable:
        return False
    return True


@pytest.mark.parametrize("kind", [SqliteStand, PostgresStand])
def test_calls_go_on_while_much_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], Stand]
) -> None:
    """A house of thousands of tenants and projects is read with each change: others have their turn meanwhile."""
    monkeypatch.setattr(store, "MADE_AT_ONCE", 10)
    turn, made = 0, Counter[int]()

    def seen(row: Mapping[Any, Any]) -> Document:
        made[turn] += 1
        return document_of(row)

    monkeypatch.setattr(store, "document_of", seen)

    async def work(pair: Pair) -> None:
        nonlocal turn
        async with pair.mine.changing() as change:
            for number in range(95):
                await change.put(Kind.TENANT, "", f"tenant-{number}", {})
        reading = asyncio.create_task(pair.mine.standing())
        while not reading.done():
            await asyncio.sleep(0)
            turn += 1
        assert {each.name for each in reading.result()} == {f"tenant-{number}" for number in range(95)}
        assert sorted(made.values()) == [5, *[10] * 9]

    on(kind(tmp_path), work)


@pytest.mark.parametrize("kind", [SqliteStand, PostgresStand])
def test_what_stands_as_it_did_is_not_made_again(tmp_path: Path, kind: Callable[[Path], Stand]) -> None:
    """Every key that is made has all tenants and projects read again: those that have not changed cost little."""

    async def work(pair: Pair) -> None:
        await put(pair.theirs, Kind.TENANT, "", "radiology", {"models": ["small"]})
        await put(pair.theirs, Kind.PROJECT, "radiology", "triage", {"models": None})
        before = {each.name: each for each in await pair.mine.standing()}
        await add(pair.theirs, key("radiology"))
        await put(pair.theirs, Kind.TENANT, "", "radiology", {"models": ["large"]})
        after = {each.name: each for each in await pair.mine.standing()}
        assert after["triage"] is before["triage"]
        assert (before["radiology"].body, after["radiology"].body) == ({"models": ["small"]}, {"models": ["large"]})
        async with pair.theirs.changing() as change:
            await change.remove(Kind.PROJECT, "radiology", "triage")
        assert await pair.mine.standing() == [after["radiology"]]

    on(kind(tmp_path), work)
