"""The laws of seams.Credentials for API keys, over every directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fakes.directory import FakeDirectory
from support.directories import STANDS, Pair, Stand, eventually, on
from support.keys import NOBODYS, head_with
from support.loops import until
from vestry.adapters.key_format import checksum, mint, mint_id
from vestry.adapters.keys import KeyCredentials
from vestry.adapters.memory import wall
from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.seams import Directory
from vestry.types import Key, Limits, Principal

ALICE: dict[str, Any] = {
    "roles": frozenset({Role.USER}),
    "models": frozenset({"small", "large"}),
    "limits": Limits(3, 60),
    "project": "triage",
    "routes": frozenset({"chat.completions"}),
}


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    """Each store in turn."""
    made: Stand = request.param(tmp_path)
    return made


async def give(directory: Directory, **rights: Any) -> tuple[str, Key]:
    """A new key: its text, and what is kept of it."""
    secret = mint()
    async with directory.changing() as change:
        return secret, await change.add_key(Key(mint_id(), "radiology", "alice", wall(), **rights), secret)


async def alter(directory: Directory, key_id: str, **fields: Any) -> None:
    """Change a key."""
    async with directory.changing() as change:
        key = await change.key(key_id)
        assert key is not None
        await change.put_key(replace(key, **fields))


async def ask(keys: KeyCredentials, secret: str, arrived: float | None = None) -> Principal | None:
    """Who holds a key: from memory, or from the directory."""
    head = head_with(secret, arrived)
    return keys.known(head) or await keys.find(head)


async def nobody(keys: KeyCredentials, secret: str) -> bool:
    """Whether the directory can be read, and nobody holds the key."""
    try:
        return await ask(keys, secret) is None
    except KeysUnavailable:
        return False


async def remembered(keys: KeyCredentials, secret: str) -> bool:
    """Whether memory has the key, once it was asked for. A change that is heard of late empties it in between."""
    assert await ask(keys, secret) is not None
    return keys.known(head_with(secret)) is not None


async def refused(keys: KeyCredentials, secret: str) -> bool:
    """Whether it is said that the directory cannot be read."""
    try:
        await ask(keys, secret)
    except KeysUnavailable:
        return True
    return False


def test_the_holder_has_what_the_key_was_made_with(stand: Stand) -> None:
    """Tenant, owner, roles, project and bounds; from the directory first, then from memory, the same."""

    async def work(pair: Pair) -> None:
        secret, key = await give(pair.theirs, **ALICE)
        keys = KeyCredentials(pair.mine, pair.freshness)
        head = head_with(secret)
        assert keys.known(head) is None
        assert await keys.find(head) == key.holder()
        await eventually(lambda: remembered(keys, secret))
        assert await ask(keys, secret) == key.holder()

    on(stand, work)


def test_every_key_is_its_own(stand: Stand) -> None:
    """Each finds its own holder, and one that was never made finds none, asked once or again."""

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness)
        (first, one), (second, two) = await give(pair.theirs), await give(pair.theirs, **ALICE)
        found = [await ask(keys, each) for each in (first, second, first, mint(), NOBODYS, NOBODYS)]
        assert found == [one.holder(), two.holder(), one.holder(), None, None, None]

    on(stand, work)


@pytest.mark.parametrize("fields", [{"revoked": 1}, {"frozen": 1}, {"expires": None}])
def test_what_ends_a_key_ends_it_within_two_seconds(stand: Stand, fields: dict[str, Any]) -> None:
    """Revoked, frozen or expired elsewhere while it is in memory; other keys go on."""

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness)
        (secret, key), (other, _) = await give(pair.mine), await give(pair.mine)
        assert await ask(keys, secret) is not None
        assert await ask(keys, secret) is not None
        await alter(pair.theirs, key.id, **{name: value or wall() for name, value in fields.items()})
        await eventually(lambda: nobody(keys, secret), seconds=2)
        assert await ask(keys, other) is not None

    on(stand, work)


def test_a_change_made_here_acts_on_the_next_call(stand: Stand) -> None:
    """Frozen it is nobody's at once; thawed it works at once."""

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness)
        secret, key = await give(pair.mine)
        assert await ask(keys, secret) is not None
        await alter(pair.mine, key.id, frozen=1)
        assert await ask(keys, secret) is None
        await alter(pair.mine, key.id, frozen=None)
        assert await ask(keys, secret) is not None

    on(stand, work)


def test_a_key_expires_by_the_clock(stand: Stand) -> None:
    """At its very microsecond, in memory or not, with no change to the store."""
    expires = wall() + 3_600_000_000
    moment = [expires - 1]

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness, clock=lambda: moment[0])
        secret, _ = await give(pair.mine, expires=expires)
        await eventually(lambda: remembered(keys, secret))
        moment[0] = expires
        assert keys.known(head_with(secret)) is None
        assert await ask(keys, secret) is None

    on(stand, work)


def test_memory_is_bounded(stand: Stand) -> None:
    """More keys than it holds all work."""

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness, most=3)
        secrets = [(await give(pair.mine))[0] for _ in range(7)]

        async def three() -> bool:
            assert all([await ask(keys, each) is not None for each in secrets])
            return sum(keys.known(head_with(each)) is not None for each in secrets) == 3

        await eventually(three)

    on(stand, work)


def test_use_is_noted_once_and_of_keys_that_were_let_in(stand: Stand) -> None:
    """A key that was used is; one that was only asked for in vain is not, and nothing is noted twice."""
    moment = wall() + 5

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness, clock=lambda: moment)
        (used, key), (frozen, other), (_, idle) = [await give(pair.mine) for _ in range(3)]
        await alter(pair.mine, other.id, frozen=1)
        await ask(keys, used)
        await ask(keys, used)
        await ask(keys, frozen)
        await keys.note_use()
        found = {each.id: each.last_used for each in await pair.theirs.keys(None, "", 9)}
        assert found == {key.id: moment, other.id: None, idle.id: None}
        await pair.theirs.note_used([key.id], moment + 1)
        await keys.note_use()
        assert (await pair.theirs.keys(None, "", 9)) != []
        noted = await pair.theirs.key(key.id)
        assert noted is not None
        assert noted.last_used == moment + 1

    on(stand, work)


def test_what_cannot_be_read_is_not_called_wrong(stand: Stand) -> None:
    """A key that is not in memory is refused while the store is out of reach, and its holder found when it is back."""

    async def work(pair: Pair) -> None:
        keys = KeyCredentials(pair.mine, pair.freshness)
        secret, key = await give(pair.mine)
        stand.break_()
        await eventually(lambda: refused(keys, secret))
        assert await refused(keys, mint())
        stand.mend()
        await eventually(lambda: _found(keys, secret))
        assert await ask(keys, secret) == key.holder()
        assert await ask(keys, mint()) is None

    on(stand, work)


async def _found(keys: KeyCredentials, secret: str) -> bool:
    try:
        return await ask(keys, secret) is not None
    except KeysUnavailable:
        return False


# What holds of the keys themselves, whatever is behind them.


def with_fake(work: Callable[[FakeDirectory], Awaitable[None]]) -> None:
    """Do this with a directory in memory."""
    asyncio.run(_with_fake(work))


async def _with_fake(work: Callable[[FakeDirectory], Awaitable[None]]) -> None:
    await work(FakeDirectory())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.text(alphabet="abcXYZ019", min_size=49, max_size=49).map("vst_".__add__),
        st.text(min_size=43, max_size=43).map("vst_".__add__).map(lambda body: body + "000000"),
        st.sampled_from(["", "vst_", "vst_" + "é" * 49, "vst_" + "1" * 49 + "\n", "vst_" + "\0" * 49, "x" * 1_048_576]),
    )
)
def test_what_is_no_key_is_nobody(text: str) -> None:
    """Any text that has not a key's shape has no holder, asks nobody, and raises nothing, whatever is broken."""
    if len(text) == 53 and text.isascii() and checksum(text[:47]) == text[47:]:
        return

    async def work(directory: FakeDirectory) -> None:
        keys = KeyCredentials(directory, directory)
        for broken in (False, True):
            directory.broken = broken
            assert await ask(keys, text) is None
        assert directory.asked == 0

    with_fake(work)


def test_without_a_credential_there_is_nobody() -> None:
    """Nothing was shown: nobody is asked."""

    async def work(directory: FakeDirectory) -> None:
        keys = KeyCredentials(directory, directory)
        head = replace(head_with(""), credential=None)
        assert keys.known(head) is None
        assert await keys.find(head) is None
        assert directory.asked == 0

    with_fake(work)


class SlowDirectory(FakeDirectory):
    """One that answers when it is let; `at_once` is the most that it was asked at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.now = self.at_once = 0

    async def identify_all(self, presented: Collection[str]) -> dict[str, Key | KeysUnavailable]:
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        try:
            found = await super().identify_all(presented)
            await self.let.wait()
        finally:
            self.now -= 1
        return found


def test_look_ups_of_one_key_are_one() -> None:
    """A hundred calls that come together with a key that nobody remembers ask once, and all get the answer."""

    async def run() -> None:
        directory = SlowDirectory()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory)
        asking = [asyncio.create_task(ask(keys, secret)) for _ in range(100)]
        await asyncio.sleep(0)
        asking[0].cancel()  # whoever asked first may leave
        directory.let.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [key.holder()] * 99
        assert directory.asked == 1

    asyncio.run(run())


def test_who_asks_after_a_change_is_not_answered_from_before() -> None:
    """A look-up is under way when the key is revoked: a call that arrives afterwards has one of its own."""

    async def run() -> None:
        directory = SlowDirectory()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory)
        early = asyncio.create_task(ask(keys, secret))
        await asyncio.sleep(0.01)
        await alter(directory, key.id, revoked=1)
        late = asyncio.create_task(ask(keys, secret))
        await asyncio.sleep(0.01)
        directory.let.set()
        assert await late is None
        await early
        assert keys.known(head_with(secret)) is None

    asyncio.run(run())


def test_only_so_many_look_ups_are_under_way() -> None:
    """A flood of well-formed keys asks a few at a time; who waits too long is refused with 503, not forgotten."""

    async def run() -> None:
        directory = SlowDirectory()
        keys = KeyCredentials(directory, directory, at_once=3, together=1, wait_seconds=0.1)
        began = time.monotonic()
        asking = [asyncio.create_task(refused(keys, mint())) for _ in range(50)]
        await until(lambda: sum(each.done() for each in asking) == 47)
        directory.let.set()
        said = await asyncio.gather(*asking)
        assert sum(said) == 47
        assert directory.at_once == 3
        assert time.monotonic() - began < 10
        assert await ask(keys, mint()) is None

    asyncio.run(run())


def test_a_flood_is_read_together() -> None:
    """While a look-up is slow, a thousand unknown keys and a known one wait; then four reads answer them all."""

    async def run() -> None:
        directory = SlowDirectory()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory, at_once=1, wait_seconds=60)
        first = asyncio.create_task(ask(keys, mint()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking = [asyncio.create_task(ask(keys, mint())) for _ in range(1000)]
        good = asyncio.create_task(ask(keys, secret))
        await asyncio.sleep(0.01)
        directory.let.set()
        assert await asyncio.gather(first, *asking) == [None] * 1001
        assert await good == key.holder()
        assert directory.asked == 1 + 4

    asyncio.run(run())


def test_who_asks_again_after_waiting_too_long_is_answered() -> None:
    """And so is everybody who is looked up together with them: what was given up is not looked up any more."""

    async def run() -> None:
        directory = SlowDirectory()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory, at_once=1, wait_seconds=0.1)
        first = asyncio.create_task(ask(keys, mint()))
        await asyncio.sleep(0.01)
        assert await refused(keys, secret)
        again = [asyncio.create_task(ask(keys, each)) for each in (secret, mint(), secret, mint())]
        await asyncio.sleep(0.01)
        directory.let.set()
        assert await asyncio.gather(first, *again) == [None, key.holder(), None, key.holder(), None]
        assert directory.asked == 2
        await asyncio.sleep(0.15)  # no timer is left that would fail what was answered

    asyncio.run(run(), debug=True)


def test_a_server_that_stood_still_refuses_nobody_who_waits() -> None:
    """A process that was paused for longer than anybody waits for a look-up has looked up nothing meanwhile."""

    async def run() -> None:
        directory = SlowDirectory()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory, at_once=1, wait_seconds=0.5)
        first = asyncio.create_task(ask(keys, mint()))
        await asyncio.sleep(0)
        waits = asyncio.create_task(ask(keys, secret))
        await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 - the process stands still
        asyncio.get_running_loop().call_later(0.02, directory.let.set)
        assert (await first, await waits) == (None, key.holder())

    asyncio.run(run())


def test_one_damaged_key_spoils_no_other() -> None:
    """A key that is kept as no program has written it is refused; those that are looked up with it are let in."""

    class Damaged(FakeDirectory):
        async def identify_all(self, presented: Collection[str]) -> dict[str, Key | KeysUnavailable]:
            return {**await super().identify_all(presented), bad: KeysUnavailable()}

    bad = mint()

    async def run() -> None:
        directory = Damaged()
        secret, key = await directory.give()
        keys = KeyCredentials(directory, directory)
        refusal, found, unknown = await asyncio.gather(
            *(ask(keys, each) for each in (bad, secret, mint())), return_exceptions=True
        )
        assert isinstance(refusal, KeysUnavailable)
        assert (found, unknown) == (key.holder(), None)
        assert directory.asked == 1

    asyncio.run(run())


def test_what_came_of_look_ups_is_told() -> None:
    """Found, unknown, failed: once for each that was made."""

    async def work(directory: FakeDirectory) -> None:
        told: list[str] = []
        keys = KeyCredentials(directory, directory, observe=told.append)
        secret, _ = await directory.give()
        for _ in range(3):
            await ask(keys, secret)
        await ask(keys, mint())
        await ask(keys, "vst_short")
        directory.broken = True
        assert await refused(keys, mint())
        assert told == ["found", "unknown"]  # memory said already that nothing can be told
        with pytest.raises(KeysUnavailable):
            await keys.find(head_with(mint()))
        assert told == ["found", "unknown", "failed"]

    with_fake(work)


def test_use_that_cannot_be_noted_is_noted_later() -> None:
    """The directory is out of reach for a while: what was used stays to be noted."""

    async def work(directory: FakeDirectory) -> None:
        keys = KeyCredentials(directory, directory)
        secret, key = await directory.give()
        await ask(keys, secret)
        directory.broken = True
        with pytest.raises(KeysUnavailable):
            await keys.note_use()
        directory.broken = False
        await keys.note_use()
        noted = await directory.key(key.id)
        assert noted is not None
        assert noted.last_used is not None

    with_fake(work)


def test_memory_holds_no_key() -> None:
    """What is kept of a key between calls holds neither its text nor what the store has of it."""

    async def work(directory: FakeDirectory) -> None:
        keys = KeyCredentials(directory, directory)
        secret, _ = await directory.give()
        await ask(keys, secret)
        kept = keys._memory._held
        assert len(kept) == 1
        assert not any(secret.encode() in name or secret[4:47].encode() in name for name in kept)
        assert secret not in repr(kept)

    with_fake(work)
