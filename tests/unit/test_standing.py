"""The house is kept current: as the directory changes, and as it was where the directory cannot be used."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fakes.directory import FakeDirectory
from vestry import standing
from vestry.errors import KeysUnavailable
from vestry.house import House
from vestry.settings.tree import Settings, Tenant
from vestry.standing import Standing
from vestry.types import Kind

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
        async with asyncio.timeout(5):
            while not placed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(work())
