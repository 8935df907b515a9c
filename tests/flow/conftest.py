"""One good engine and one whole server, shared by the tests of a module. A test that breaks either makes its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import Behaviour, FakeEngine
from support.house import House
from support.office import WORDS, Office

RATES = {
    "concurrency": 256,
    "key_concurrency": 256,
    "requests_per_minute": 1_000_000,
    "key_requests_per_minute": 1_000_000,
}


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[FakeEngine]:
    """The engine behind `house`, up as long as the module's tests."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A whole server whose limits on rates do not come in the way."""
    with House(tmp_path_factory.mktemp("house"), [shared_engine], tenants={"default": RATES}) as house:
        yield house


@pytest.fixture
def engine(shared_engine: FakeEngine) -> Iterator[FakeEngine]:
    """The same engine, with nothing asked of it yet; its good behaviour is given back afterwards."""
    shared_engine.asked.clear()
    yield shared_engine
    shared_engine.behaviour = Behaviour()


@pytest.fixture
def office(tmp_path: Path, engine: FakeEngine) -> Iterator[Office]:
    """A server that keeps content, and runs; its engine's answer holds a word that is nowhere else."""
    engine.behave(words=WORDS)
    office = Office(tmp_path, engine)
    with office.server:
        office.server.start()
        yield office
