"""The laws of seams.Credentials, for every store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.keys import FakeKeys
from support.house import until
from vestry.adapters.key_format import PROBE, checksum, mint
from vestry.adapters.keys_sqlite import SqliteKeys, now
from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.types import Limits, Principal

SECOND = 1_000_000
ALICE = Principal("", "radiology", "alice", frozenset({Role.USER}), frozenset({"small", "large"}), Limits(3, 60))


class Stand(Protocol):
    """A store, and what the laws do to it from outside."""

    store: FakeKeys | SqliteKeys

    def add(self, principal: Principal, expires: int | None = None) -> str: ...

    def revoke(self, key: str) -> None: ...

    def break_(self) -> None: ...

    def mend(self) -> None: ...


class FakeStand:
    def __init__(self, _: Path) -> None:
        self.store = FakeKeys()
        self.add = self.store.add
        self.revoke = self.store.revoke

    def break_(self) -> None:
        self.store.broken = True

    def mend(self) -> None:
        self.store.broken = False


class SqliteStand:
    """Changes are made through a second object, as a command in another process makes them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "keys.sqlite"
        pepper = os.urandom(32)
        self.store = SqliteKeys(self._path, pepper)
        self._operator = SqliteKeys(self._path, pepper)
        self._operator.prepare()

    def add(self, principal: Principal, expires: int | None = None) -> str:
        return self._operator.create(
            owner=principal.subject,
            tenant=principal.tenant,
            role=principal.role,
            models=principal.models,
            limits=principal.limits,
            expires=expires,
        )[0]

    def revoke(self, key: str) -> None:
        held = self._operator.identify(key)
        assert held is not None
        assert self._operator.revoke(held.id)

    def break_(self) -> None:
        self._path.rename(self._path.with_suffix(".away"))

    def mend(self) -> None:
        self._path.with_suffix(".away").rename(self._path)


@pytest.fixture(params=[FakeStand, SqliteStand])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    """Each store in turn."""
    made: Stand = request.param(tmp_path)
    return made


def answers(store: FakeKeys | SqliteKeys, key: str) -> bool:
    """Whether the store can be read, and knows the key."""
    try:
        return store.look_up(key) is not None
    except KeysUnavailable:
        return False


def refuses(store: FakeKeys | SqliteKeys, key: str) -> bool:
    """Whether the store says that it cannot be read."""
    try:
        store.look_up(key)
    except KeysUnavailable:
        return True
    return False


def test_a_key_is_found_with_all_that_it_was_made_with(stand: Stand) -> None:
    """The holder of a key has its tenant, subject, role, models and limits."""
    found = stand.store.look_up(stand.add(ALICE))
    assert found is not None
    assert (found.tenant, found.subject, found.role, found.models, found.limits) == (
        ALICE.tenant,
        ALICE.subject,
        ALICE.role,
        ALICE.models,
        ALICE.limits,
    )


def test_a_key_without_models_is_for_all_of_them(stand: Stand) -> None:
    """No list of models is not an empty list."""
    found = stand.store.look_up(stand.add(Principal("", "radiology", "bot")))
    assert found is not None
    assert found.models is None
    assert found.limits == Limits()


def test_every_key_is_its_own(stand: Stand) -> None:
    """Two keys of one owner are two keys, and each finds its own holder."""
    first, second = stand.add(ALICE), stand.add(Principal("", "research", "bob"))
    found = [stand.store.look_up(key) for key in (first, second, first)]
    assert [each.subject for each in found if each] == ["alice", "bob", "alice"]


def test_an_unknown_key_is_nobody(stand: Stand) -> None:
    """A well-formed key that was never made has no holder, asked once or again."""
    stand.add(ALICE)
    assert stand.store.look_up(mint()) is None
    assert stand.store.look_up(PROBE) is None
    assert stand.store.look_up(PROBE) is None


def test_a_revoked_key_is_nobody_at_once(stand: Stand) -> None:
    """The call right after a revocation finds no holder, though the key was in use."""
    key, other = stand.add(ALICE), stand.add(ALICE)
    assert stand.store.look_up(key) is not None
    stand.revoke(key)
    assert stand.store.look_up(key) is None
    assert stand.store.look_up(other) is not None


def test_an_expired_key_is_nobody(stand: Stand) -> None:
    """A key that is in use stops at its time, with no change to the store."""
    key = stand.add(ALICE, expires=now() + SECOND)
    assert stand.store.look_up(key) is not None
    until(lambda: stand.store.look_up(key) is None, what="the key's expiry")


def test_a_store_that_cannot_be_read_refuses_and_recovers(stand: Stand) -> None:
    """While the store is unreadable every well-formed key is refused, known or not; then all is as before."""
    key = stand.add(ALICE)
    assert stand.store.look_up(key) is not None
    stand.break_()
    until(lambda: refuses(stand.store, key), what="the store to be found unreadable")
    assert refuses(stand.store, mint())
    stand.mend()
    until(lambda: answers(stand.store, key), what="recovery")
    assert stand.store.look_up(mint()) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.text(alphabet="abcXYZ019", min_size=49, max_size=49).map("vst_".__add__),
        st.text(min_size=43, max_size=43).map("vst_".__add__).map(lambda body: body + "000000"),
        st.sampled_from(["", "vst_", "vst_" + "é" * 49, "vst_" + "1" * 49 + "\n", "vst_" + "\0" * 49, "x" * 1_048_576]),
    )
)
def test_what_is_no_key_is_nobody(stand: Stand, text: str) -> None:
    """Any text that is not a key's shape has no holder, and raises nothing."""
    stand.break_()
    try:
        if len(text) == 53 and text.isascii() and checksum(text[:47]) == text[47:]:
            return
        assert stand.store.look_up(text) is None
    finally:
        stand.mend()
