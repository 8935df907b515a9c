"""Where engines with names are: what the resolver does not say in time, or cannot at the moment, and how often it is
asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.scripted import OK, answering, ask, pool, serving
from vestry.adapters import names
from vestry.adapters.upstream import Upstream
from vestry.errors import EngineFailed
from vestry.failing import _cause


class Resolver:
    """What stands in the place of the system's: asked for `engine.internal`, it says what `said` holds, or hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.said: list[str] | OSError | None = ["127.0.0.1"]
        self.hangs = asyncio.Event()

    async def __call__(self, _host: str, port: int, **_options: Any) -> list[Any]:
        self.asked += 1
        while self.said is None:
            await self.hangs.wait()
        if isinstance(self.said, OSError):
            raise self.said
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.said]


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[Resolver, Upstream], Awaitable[None]], **options: Any) -> None:
    """With a resolver of ours, and an engine with a name."""

    async def begin() -> None:
        resolver = Resolver()
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolver)
        async with serving(answering(OK)) as server:
            await main(resolver, pool(server.port, "engine.internal", **options))

    asyncio.run(begin())


async def why(engine: Upstream) -> str:
    """Why the engine cannot be connected to, as the log says it."""
    with pytest.raises(EngineFailed) as refused:
        await ask(engine, fresh=True)
    assert refused.value.cause == "connect"
    assert refused.value.__cause__ is not None
    return _cause(refused.value.__cause__)


def test_a_name_that_is_not_answered_for_is_asked_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's threads are few, and each question may take it tens of seconds: engines with other names need
    them, too. Those who have given up leave the question behind, and its answer is good for whoever comes then.
    """

    async def main(resolver: Resolver, engine: Upstream) -> None:
        resolver.said = None
        for _ in range(2):
            found = await asyncio.gather(*(why(engine) for _ in range(5)))
            assert found == ["its name is not resolved in time"] * 5
        assert resolver.asked == 1
        resolver.said = ["127.0.0.1"]
        resolver.hangs.set()
        assert (await ask(engine))[0].body == b"ok"
        assert resolver.asked == 1
        await ask(engine, fresh=True)
        assert resolver.asked == 2

    run(monkeypatch, main, connect_seconds=0.3)


@pytest.mark.parametrize("outage", [None, socket.gaierror(socket.EAI_AGAIN, "again")], ids=["hangs", "fails"])
def test_an_outage_of_the_resolver_takes_no_engine_out(monkeypatch: pytest.MonkeyPatch, outage: OSError | None) -> None:
    """What it has said last holds for a while, and not for ever: the address may be somebody else's then."""
    monkeypatch.setattr(names, "PATIENCE_SECONDS", 0.01)

    async def main(resolver: Resolver, engine: Upstream) -> None:
        await ask(engine)
        resolver.said = outage
        for _ in range(3):
            assert (await ask(engine, fresh=True))[0].body == b"ok"
        monkeypatch.setattr(names, "KNOWN_SECONDS", 0)
        assert await why(engine) in {"its name is not resolved in time", "its name has no address"}

    run(monkeypatch, main, connect_seconds=0.8)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "none"), "its name has no address"),
        (["8.8.8.8"], "the engine's name does not resolve to a permitted address"),
    ],
    ids=["gone", "public"],
)
def test_what_the_resolver_does_say_counts(
    monkeypatch: pytest.MonkeyPatch, said: list[str] | OSError, reason: str
) -> None:
    """A name that is gone, or moved to where nothing may be called, is not called where it was."""

    async def main(resolver: Resolver, engine: Upstream) -> None:
        await ask(engine)
        resolver.said = said
        for _ in range(2):
            assert await why(engine) == reason

    run(monkeypatch, main)
