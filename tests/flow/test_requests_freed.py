"""What connections and calls held is free once they have ended: a collector that comes seldom finds nothing there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fakes.engine import Behaviour, FakeEngine
from support.house import House, chat, until
from support.refusal import Visit
from support.site import Site
from support.wire import Wire, chat_request, request
from vestry.adapters.upstream import Connection
from vestry.edge.door import Door
from vestry.relay import _Attempt

T = TypeVar("T")
Manner = Callable[[Visit, Wire], None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The files of a server that speaks TLS."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module", params=["plain", "TLS"])
def house(
    request: pytest.FixtureRequest, shared_engine: FakeEngine, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A server that is quick to lose patience."""
    server = site.settings("none") if request.param == "TLS" else {}
    door = {"header_seconds": 1, "body_seconds": 1}
    with House(tmp_path_factory.mktemp("house"), [shared_engine], door=door, server=server) as house:
        yield house


@pytest.fixture
def visit(house: House, engine: FakeEngine, site: Site) -> Visit:
    """A client of it."""
    return Visit(house, engine, context=site.context(None) if house.url.startswith("https") else None)


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """What was there before is out of the way: of a million objects, each look at all of them would take a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed but what nobody refers to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def answered(*, stream: bool = False, lines: tuple[str, ...] = ()) -> Manner:
    """A call with its answer."""

    def run(visit: Visit, wire: Wire) -> None:
        wire.send(chat_request(visit.key, chat(stream=stream), *lines))
        assert wire.answer().status_code == 200

    return run


def refused(status: int, raw: bytes) -> Manner:
    """A request that is refused."""

    def run(_: Visit, wire: Wire) -> None:
        wire.send(raw)
        assert wire.answer().status_code == status

    return run


def half_sent(visit: Visit, wire: Wire) -> None:
    """A body that does not arrive whole in time."""
    refused(408, chat_request(visit.key, b"{", "Content-Length: 50"))(visit, wire)


def left(visit: Visit, wire: Wire, *, stream: bool = False) -> None:
    """A client that leaves while the engine works."""
    visit.engine.behave(hang_after=2) if stream else visit.engine.behave(hang=True)
    wire.send(chat_request(visit.key, chat(stream=stream)))
    until(lambda: visit.engine.calls, what="the call")
    if stream:
        wire.line()


def left_in_body(visit: Visit, wire: Wire) -> None:
    """A client that leaves before its request is whole."""
    wire.send(chat_request(visit.key, b"{", "Content-Length: 50", "Expect: 100-continue"))
    assert wire.answer().status_code == 100


MANNERS: dict[str, Manner] = {
    "connects": lambda _visit, _wire: None,
    "calls": answered(),
    "streams": answered(stream=True),
    "calls once": answered(lines=("Connection: close",)),
    "is no HTTP": refused(400, b"what?\r\n\r\n"),
    "has no key": refused(401, chat_request("vst_wrong", b"{}")),
    "asks for what is not there": refused(404, request("GET", "/nothing")),
    "sends half a head": refused(408, b"GET / HTTP/1.1\r\n"),
    "sends half a body": half_sent,
    "leaves in its body": left_in_body,
    "leaves before its answer": left,
    "leaves in its stream": lambda visit, wire: left(visit, wire, stream=True),
}


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", MANNERS)
def test_a_connection_is_freed_when_it_ends(name: str, visit: Visit) -> None:
    """However it ended, nothing is left of it for the collector, which is made to come seldom."""
    assert visit.key  # made before the connection is there, whose patience is short
    before = doors()
    with visit.wire() as wire:
        MANNERS[name](visit, wire)
    until(lambda: doors() <= before, what="the connection being freed")


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [{"status": 500}, {"raw": b"what?"}, {"hang": True}])
def test_a_call_that_fails_is_freed_when_it_ends(fault: dict[str, Any], stream: bool, tmp_path: Path) -> None:
    """Of a call that failed at two engines, and of their connections, nothing is left for the collector either."""
    relay = {"first_byte_seconds": 0.3, "answer_seconds": 0.3, "probe_seconds": 60}
    behaviour = Behaviour(**fault)
    with (
        FakeEngine(behaviour=behaviour) as one,
        FakeEngine(behaviour=behaviour) as other,
        House(tmp_path / "state", [one, other], relay=relay, wait=False) as house,
    ):
        until(lambda: one.asked and other.asked, what="the first look at the engines")
        assert house.post(json=chat(stream=stream)).status_code in {502, 504}
        assert one.calls
        assert other.calls
        until(lambda: not left_of(_Attempt), what="both tries being freed")
        until(lambda: not [each for each in left_of(Connection) if each.closed], what="their connections being freed")


def doors() -> int:
    """Connections of clients in memory, ended or not."""
    return len(left_of(Door))


def left_of(kind: type[T]) -> list[T]:
    """What there is of a kind in memory, of what these tests have made."""
    return [each for each in gc.get_objects() if isinstance(each, kind)]
