"""What a connection held is free once it has ended: a collector that comes seldom has nothing to find there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from fakes.engine import FakeEngine
from support.house import House, chat, until
from support.refusal import Visit
from support.site import Site
from support.wire import Wire, chat_request, request
from vestry.edge.door import Door

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
    door = {"header_seconds": 0.4, "body_seconds": 0.4, "body_bytes": 65_536}
    with House(tmp_path_factory.mktemp("house"), [shared_engine], door=door, server=server) as house:
        yield house


@pytest.fixture
def visit(house: House, engine: FakeEngine, site: Site) -> Visit:
    """A client of it."""
    return Visit(house, engine, context=site.context(None) if house.url.startswith("https") else None)


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
    before = doors()
    with visit.wire() as wire:
        MANNERS[name](visit, wire)
    until(lambda: doors() <= before, what="the connection being freed")


def doors() -> int:
    """Connections of clients in memory, ended or not."""
    return sum(isinstance(each, Door) for each in gc.get_objects())
