"""Health checks: who is asked how often, and what counts as well."""

from __future__ import annotations

import asyncio

import pytest

from fakes.wires import MemoryEngine, until
from vestry.adapters.health import HealthChecks, check

PATIENCE = 5.0


class Verdicts:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.probes: list[tuple[str, str, bool]] = []
        self.looks: list[float] = []

    def probed(self, model: str, replica: str, *, healthy: bool) -> None:
        self.probes.append((model, replica, healthy))

    def look(self, now: float) -> None:
        self.looks.append(now)


def verdict(status: int | None, error: str | None = None) -> bool:
    """What a check says of an engine that answers so; `status` None is none at all."""

    async def run() -> bool:
        engine = MemoryEngine()
        task = asyncio.ensure_future(check(engine, PATIENCE))
        wire = await engine.wire()
        assert (wire.method, wire.path, wire.body) == ("GET", "/health", b"")
        if status is not None:
            wire.head(status)
            wire.data(b"whatever")
        wire.end(error)
        wire.end("told twice")
        return await task

    return asyncio.run(run())


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, False), (401, False), (500, False), (503, False)])
def test_only_200_is_well(status: int, well: bool) -> None:
    """What the body says is not read."""
    assert verdict(status) is well


def test_an_answer_that_breaks_off_is_not_well() -> None:
    """Neither before its head nor behind it."""
    assert not verdict(200, "the engine closed the connection")
    assert not verdict(None, "the engine closed the connection")


def test_an_engine_that_cannot_be_connected_to_is_not_well() -> None:
    """EngineFailed is a verdict here."""

    async def run() -> bool:
        engine = MemoryEngine()
        engine.refusing = True
        return await check(engine, PATIENCE)

    assert not asyncio.run(run())


def test_an_engine_that_hangs_is_not_well_and_is_let_go() -> None:
    """After the time that it was given; its connection is closed."""

    async def run() -> None:
        engine = MemoryEngine()
        assert not await check(engine, 0.05)
        assert engine.wires[0].closed

    asyncio.run(run())


def test_a_check_that_is_given_up_as_its_answer_ends_leaves_the_connection_alone() -> None:
    """Its time is over in the turn in which the answer came: by then the connection may be another's."""

    async def run() -> None:
        engine = MemoryEngine()
        task = asyncio.ensure_future(check(engine, PATIENCE))
        wire = await engine.wire()
        await asyncio.sleep(0)
        wire.head(200)
        wire.end()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not wire.closed

    asyncio.run(run())


def test_a_stale_connection_says_nothing_of_the_engine() -> None:
    """The check is made again on a fresh connection, once."""

    async def run(last: int) -> bool:
        engine = MemoryEngine()
        task = asyncio.ensure_future(check(engine, PATIENCE))
        (await engine.wire()).drop_stale()
        second = await engine.wire(2)
        assert second.fresh
        second.head(last)
        second.end()
        return await task

    assert asyncio.run(run(200))
    assert not asyncio.run(run(500))


def test_every_replica_is_asked_again_and_again_and_the_router_looks_in_between() -> None:
    """One that hangs does not keep the others waiting; verdicts name the model and the replica."""

    async def run() -> Verdicts:
        good, hung, verdicts = MemoryEngine(), MemoryEngine(), Verdicts()
        checks = HealthChecks({("small", "a"): good, ("small", "b"): hung}, verdicts, seconds=0.02, patience=0.2)
        task = asyncio.ensure_future(checks.run())
        for number in range(1, 4):
            wire = await good.wire(number)
            wire.head(200)
            wire.end()
        await until(lambda: len(verdicts.looks) > 1 and any(replica == "b" for _, replica, _ in verdicts.probes))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hung.wires[0].closed
        return verdicts

    verdicts = asyncio.run(run())
    assert verdicts.probes[:3] == [("small", "a", True)] * 3
    assert ("small", "b", False) in verdicts.probes
    assert verdicts.looks == sorted(verdicts.looks)
