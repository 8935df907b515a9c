"""The house is kept current: as the directory changes, and as it was where the directory cannot be used."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from msgspec.structs import replace

from fakes.calls import head
from fakes.directory import FakeDirectory
from support.loops import until
from vestry import standing
from vestry.adapters.directory.faults import DamageFault, DirectoryFault
from vestry.adapters.directory.rows import NO_OBJECT
from vestry.adapters.keys import KeyCredentials
from vestry.errors import KeysUnavailable
from vestry.house import House
from vestry.settings.tree import Settings, Tenant
from vestry.standing import Abreast, Standing
from vestry.types import Document, Kind

SETTINGS = Settings(tenants={"default": Tenant()})


def kept(directory: FakeDirectory) -> tuple[Standing, list[House]]:
    """What keeps the house, and every house that it has placed."""
    placed: list[House] = []
    return Standing(SETTINGS, directory, directory, placed.append), placed


def test_the_house_is_read_when_something_has_changed() -> None:
    """Once at first, again after a change, and not for nothing; tenants of the settings stay."""

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        await house.refresh()
        await house.refresh()
        assert [set(each.tenants) for each in placed] == [{"default"}]
        await directory.write(Kind.TENANT, "", "radiology", {})
        await house.refresh()
        await house.refresh()
        assert [set(each.tenants) for each in placed[1:]] == [{"default", "radiology"}]
        assert directory.asked == 2

    asyncio.run(work())


def test_a_document_that_cannot_be_used_leaves_the_house_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, in the log, and when it is mended the house is read again."""

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        await directory.write(Kind.TENANT, "", "radiology", {})
        await house.refresh()
        assert not house.outdated
        await directory.write(Kind.TENANT, "", "radiology", {"no": "such field"})
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await house.refresh()
        assert len(placed) == 1
        assert house.outdated
        assert len([each for each in caplog.records if "cannot be used" in each.message]) == 1
        await directory.write(Kind.TENANT, "", "radiology", {})
        await directory.write(Kind.TENANT, "", "oncology", {})
        await house.refresh()
        assert set(placed[-1].tenants) == {"default", "radiology", "oncology"}
        assert not house.outdated

    asyncio.run(work())


GRANT = {"asker": {"subject": "ada"}, "role": "admin", "reason": "x", "minutes": 3, "asked": "2026-01-01T00:00:00Z"}
PROJECT = {"models": None, "concurrency": None, "requests_per_minute": None, "disabled": False}


@pytest.mark.parametrize(
    ("kind", "tenant", "body", "said"),
    [
        (Kind.TENANT, "", {"models": 5}, "the tenant damaged: models: "),
        (Kind.PROJECT, "default", {}, "the project default/damaged: it does not say models, concurrency, "),
        (Kind.PROJECT, "default", PROJECT | {"models": 5}, "the project default/damaged: models: "),
        (Kind.PROJECT, "default", PROJECT | {"concurrency": -1}, "the project default/damaged: concurrency: "),
        (Kind.PROJECT, "default", PROJECT | NO_OBJECT, "the project default/damaged: damaged: "),
        (Kind.POLICY, "", {"rules": 7}, "the policy damaged: rules: "),
        (Kind.BREAK_GLASS, "", GRANT | {"until": "soon"}, "the break-glass damaged: "),
    ],
)
def test_whatever_is_wrong_with_a_document_it_is_named(
    caplog: pytest.LogCaptureFixture, kind: Kind, tenant: str, body: dict[str, Any], said: str
) -> None:
    """Its kind and its name; the house before stays in its place, as long as it is there."""

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        await house.refresh()
        await directory.write(kind, tenant, "damaged", body)
        with caplog.at_level(logging.WARNING):
            await house.refresh()
        assert (len(placed), house.outdated) == (1, True)
        assert said in caplog.text
        async with directory.changing() as change:
            await change.remove(kind, tenant, "damaged")
        await house.refresh()
        assert (len(placed), house.outdated) == (2, False)

    asyncio.run(work())


class Slow(FakeDirectory):
    """What is read there waits for `gate` before it is told, where there is one; `fault` is raised in its place."""

    gate: asyncio.Event | None = None
    fault: Exception | None = None

    async def standing(self) -> list[Document]:
        if self.fault is not None:
            raise self.fault
        found = await super().standing()
        gate, self.gate = self.gate, None
        if gate is not None:
            await gate.wait()
            if self.fault is not None:
                raise self.fault
        return found


@pytest.mark.parametrize("fault", [None, RuntimeError("of a driver"), DamageFault("a row")])
def test_an_older_reading_that_takes_longer_puts_no_older_house_back(fault: Exception | None) -> None:
    """A tenant that was disabled while the house was being read is out at once and stays out, whatever comes of it."""

    async def work() -> None:
        directory = Slow()
        house, placed = kept(directory)
        await directory.write(Kind.TENANT, "", "radiology", {})
        gate = directory.gate = asyncio.Event()
        slow = asyncio.create_task(house.refresh())
        while directory.gate is not None:  # noqa: ASYNC110 - until it has read, and waits
            await asyncio.sleep(0)
        await directory.write(Kind.TENANT, "", "radiology", {"disabled": True})
        await house.refresh()
        assert ["radiology" in each.tenants for each in placed] == [False]
        directory.fault = fault
        gate.set()
        await asyncio.gather(slow, return_exceptions=True)
        assert (["radiology" in each.tenants for each in placed], house.outdated) == ([False], False)

    asyncio.run(work())


def test_calls_go_on_while_a_large_house_is_put_together() -> None:
    """With thousands of tenants that takes a third of a second: others have their turn meanwhile."""

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        async with directory.changing() as change:
            for number in range(2000):
                await change.put(Kind.TENANT, "", f"tenant-{number}", {})
        reading, turns = asyncio.create_task(house.refresh()), 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(placed[0].tenants) == 2001
        assert turns > 10

    asyncio.run(work())


def test_a_key_that_is_made_builds_no_house() -> None:
    """It is read again, and found to be as it was: so it stays, with what is remembered in it. It is in its place again
    when what damaged it is undone.
    """

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        await directory.write(Kind.TENANT, "", "radiology", {})
        await house.refresh()
        await directory.give("radiology")
        await directory.write(Kind.USER, "radiology", "ada", {})
        await house.refresh()
        assert directory.asked == 2
        assert placed[-1] is placed[0]
        await directory.write(Kind.PROJECT, "radiology", "triage", {})
        await house.refresh()
        assert house.outdated
        async with directory.changing() as change:
            await change.remove(Kind.PROJECT, "radiology", "triage")
        await house.refresh()
        assert (placed[-1] is placed[0], house.outdated) == (True, False)
        await directory.write(Kind.PROJECT, "radiology", "triage", PROJECT)
        await house.refresh()
        assert set(placed[-1].projects) == {("radiology", "triage")}

    asyncio.run(work())


def test_nobody_is_remembered_before_the_house_is_as_new() -> None:
    """A caller who was looked up after a change waits for the house, and whoever comes meanwhile with the same key is
    not answered from memory.
    """

    async def work() -> None:
        directory = Slow()
        house, placed = kept(directory)
        await house.refresh()
        keys = KeyCredentials(Abreast(directory, house.refresh), directory)
        secret, _ = await directory.give("radiology")
        await directory.write(Kind.TENANT, "", "radiology", {})
        shown = replace(head(), credential=secret)
        gate = directory.gate = asyncio.Event()
        finding = asyncio.create_task(keys.find(shown))
        await asyncio.sleep(0.01)
        assert (finding.done(), keys.known(shown), len(placed)) == (False, None, 1)
        gate.set()
        found = await finding
        assert (found, "radiology" in placed[-1].tenants) == (keys.known(shown), True)
        assert found is not None
        directory.fault = RuntimeError("of a driver")
        await directory.write(Kind.TENANT, "", "radiology", {"disabled": True})
        assert keys.known(shown) is None
        with pytest.raises(KeysUnavailable):
            await keys.find(shown)

    asyncio.run(work())


def test_who_is_cancelled_while_the_house_is_read_takes_it_from_nobody() -> None:
    """The reading that they began goes on for those who wait for the same."""

    async def work() -> None:
        directory = Slow()
        house, placed = kept(directory)
        gate = directory.gate = asyncio.Event()
        first, second = asyncio.create_task(house.refresh()), asyncio.create_task(house.refresh())
        await asyncio.sleep(0.01)
        first.cancel()
        gate.set()
        await second
        assert (len(placed), directory.asked, first.cancelled()) == (1, 1, True)

    asyncio.run(work())


@pytest.mark.parametrize("fault", [RuntimeError("of a driver"), DirectoryFault("it is locked"), DamageFault("a row")])
def test_no_fault_ends_the_reading(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """It is told once, shows in `outdated`, and once it is over what has changed is in force."""
    monkeypatch.setattr(standing, "LOOK_SECONDS", 0.01)

    async def work() -> None:
        directory = Slow()
        house, placed = kept(directory)
        await house.refresh()
        directory.fault = fault
        await directory.write(Kind.TENANT, "", "radiology", {})
        with caplog.at_level(logging.WARNING):
            task = asyncio.create_task(house.run())
            await until(lambda: house.outdated)
            await asyncio.sleep(0.1)
        assert (len(placed), house.outdated, task.done()) == (1, True, False)
        assert len([each for each in caplog.records if (getattr(fault, "why", "") or str(fault)) in each.message]) == 1
        directory.fault = None
        await directory.write(Kind.TENANT, "", "oncology", {})
        async with asyncio.timeout(20):
            while len(placed) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (set(placed[1].tenants), house.outdated) == ({"default", "radiology", "oncology"}, False)
        task.cancel()

    asyncio.run(work())


def test_a_directory_that_cannot_be_read_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task goes on through an outage, and places what it finds afterwards."""
    monkeypatch.setattr(standing, "LOOK_SECONDS", 0.01)

    async def work() -> None:
        directory = FakeDirectory()
        house, placed = kept(directory)
        directory.broken = True
        with pytest.raises(KeysUnavailable):
            await house.refresh()
        task = asyncio.create_task(house.run())
        await asyncio.sleep(0.05)
        assert placed == []
        directory.broken = False
        async with asyncio.timeout(20):
            while not placed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(work())
