"""The guard in front of an engine's routes: an allow-list, and the key for all but health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from vestry.models.guard.vestry_guard import Guard

KEY = "engine-key"
Header = tuple[bytes, bytes]
MINE: tuple[Header, ...] = ((b"authorization", b"Bearer engine-key"),)


async def engine(_scope: Any, _receive: Any, send: Any) -> None:
    """An engine that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"engine"})


def ask(method: str, path: str, headers: Iterable[Header] = (), kind: str = "http") -> list[dict[str, Any]]:
    """What the guarded engine sends in answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": kind, "method": method, "path": path, "headers": list(headers)}
    asyncio.run(Guard(engine)(scope, receive, send))
    return sent


def status(method: str, path: str, headers: Iterable[Header] = ()) -> int:
    """The status of the answer."""
    return int(ask(method, path, headers)[0]["status"])


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_health_and_metrics_are_open(path: str) -> None:
    """A prober and a scraper need no key, and get nothing but a GET."""
    assert status("GET", path) == 200
    assert status("POST", path) == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("POST", "/tokenize")],
)
def test_our_routes_want_the_key(method: str, path: str) -> None:
    """With the key the engine answers; without it, with another, or with two, it is not reached."""
    assert status(method, path, MINE) == 200
    assert status(method, path) == 401
    assert status(method, path, [(b"authorization", b"Bearer other")]) == 401
    assert status(method, path, [(b"authorization", b"engine-key")]) == 401
    assert status(method, path, [*MINE, *MINE]) == 401


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/collective_rpc",
        "/update_weights",
        "/pause",
        "/inference/v1/generate",
        "/scale_elastic_ep",
        "/v1/load_lora_adapter",
        "/v1/responses",
        "/docs",
        "/openapi.json",
        "/v1/chat/completions/",
        "//v1/models",
        "/health/",
    ],
)
def test_other_routes_are_not_there(path: str) -> None:
    """Control routes and everything else that vLLM serves do not exist, even for who holds the key."""
    assert status("POST", path, MINE) == 404
    assert status("GET", path, MINE) == 404
    assert status("POST", path) == 401


def test_without_a_key_nothing_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that was started without a key refuses every call, also one with an empty key."""
    monkeypatch.delenv("VLLM_API_KEY")
    assert status("POST", "/v1/completions", [(b"authorization", b"Bearer ")]) == 401
    monkeypatch.setenv("VLLM_API_KEY", "")
    assert status("POST", "/v1/completions", [(b"authorization", b"Bearer ")]) == 401
    assert status("GET", "/health") == 200


def test_websockets_are_closed() -> None:
    """A websocket is closed before it reaches the engine."""
    assert ask("GET", "/v1/realtime", MINE, "websocket") == [{"type": "websocket.close", "code": 1008}]


def test_the_lifespan_passes() -> None:
    """The engine's own start and stop are not in the guard's way."""
    assert ask("", "", (), "lifespan")[0]["status"] == 200
