"""The operations port: the same door, three pages, and nothing of the API."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fakes.engine import FakeEngine
from support.house import House
from support.refusal import check_shape
from support.wire import Wire, chat_request, request

SECONDS = 1.2


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that is quick to lose patience."""
    door = {"header_seconds": SECONDS, "body_seconds": SECONDS}
    with House(tmp_path_factory.mktemp("operations"), [shared_engine], door=door) as house:
        yield house


@pytest.fixture
def port(house: House) -> int:
    """The operations port."""
    return int(house.ops.rsplit(":", 1)[1])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_the_three_pages_answer_get_and_nothing_else(path: str, port: int) -> None:
    """GET is answered, many times on one connection; POST is 405 in OpenAI's shape."""
    with Wire(port) as wire:
        for _ in range(3):
            wire.send(request("GET", path))
            assert wire.answer().status_code == 200
        wire.send(request("POST", path, body=b"{}"))
        answer = wire.answer()
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=nonsense", "a/b; version=1.x.y", ";;;=,"])
def test_whatever_is_asked_for_metrics_come(accept: str, port: int) -> None:
    """A scraper that asks for what nobody knows gets Prometheus' text format."""
    with Wire(port) as wire:
        wire.send(request("GET", "/metrics", f"Accept: {accept}"))
        answer = wire.answer()
    assert answer.status_code == 200
    assert "vestry_build_info" in answer.text


@pytest.mark.parametrize("path", ["/", "/v1/models", "/docs", "/openapi.json", "/livez/", "//metrics", "/x/../livez"])
def test_nothing_else_is_there(path: str, port: int) -> None:
    """The API is not on this port, nor FastAPI's own pages."""
    with Wire(port) as wire:
        wire.send(request("GET", path))
        answer = wire.answer()
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_pages_are_not_on_the_apis_port(house: House, engine: FakeEngine) -> None:
    """Nobody learns from the API's port how the server is."""
    for path in ("/livez", "/readyz", "/metrics"):
        assert house.get(path).status_code == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /metr", 408),
        (request("GET", "/metrics", "X-A: " + "a" * 100_000), 431),
        (request("GET", "/metrics", *["X-A: a"] * 200), 431),
        (b"GET /metrics HTTP/1.1\nHost: localhost\n\n", 400),
        (request("GET", "/metrics", host=None), 400),
        (request("GET", "http://localhost/metrics"), 400),
        (request("FOO", "/metrics"), 405),
    ],
)
def test_the_door_is_the_same(data: bytes, status: int, port: int) -> None:
    """Half-sent, oversized and malformed requests are refused here as on the API's port."""
    began = time.monotonic()
    with Wire(port) as wire:
        wire.send(data)
        answer = wire.answer()
        assert wire.closed()
    assert time.monotonic() - began < 10
    assert answer.status_code == status
    check_shape(answer)


def test_a_call_to_the_api_is_not_here(port: int, house: House, engine: FakeEngine) -> None:
    """A good call on the wrong port reaches no engine, whatever its body."""
    with Wire(port) as wire:
        wire.send(chat_request(house.key, {"model": "small", "messages": [{"role": "user", "content": "hello"}]}))
        assert wire.answer().status_code == 404
    assert engine.calls == []
