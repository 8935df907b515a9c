"""Ports: a busy or impossible address is a sentence before anything slow begins."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from vestry.models.catalog import ModelError
from vestry.models.ports import reachable, require_free


def test_a_free_port_passes() -> None:
    """A port that nothing listens on, and port 0, which means any, are free; asking leaves them free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        require_free("the API", "127.0.0.1", port, "server.port")
    require_free("the API", "127.0.0.1", 0, "server.port")


def test_a_busy_port_is_named_with_its_setting() -> None:
    """A port that is taken is named with what wanted it and the setting that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ModelError, match=rf"Port {port} on 127.0.0.1, for the API, is in use.*`server.port`"):
            require_free("the API", "127.0.0.1", port, "server.port")


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_of_a_name_the_address_counts_that_is_listened_on(taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may mean `::1` first, as `localhost` often does; the server listens on its address of IPv4."""

    def both(_host: str, port: int, family: int = 0, *_: object, **__: object) -> list[tuple[Any, ...]]:
        found = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        return [(kind, socket.SOCK_STREAM, 6, "", at) for kind, at in found if family in {0, kind}]

    listened = taken == "127.0.0.1"
    with socket.create_server((taken, 0), family=socket.AF_INET if listened else socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", both)
        with pytest.raises(ModelError, match="is in use") if listened else contextlib.nullcontext():
            require_free("the API", "localhost", port, "server.port")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_named(host: str) -> None:
    """An address that is not this machine's, or a name that means none, cannot be listened on."""
    with pytest.raises(ModelError, match=rf"Nothing can listen on {host} port 8100, .*`server.host`"):
        require_free("the API", host, 8100, "server.host")


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("::", "[::1]"), ("fd00::1", "[fd00::1]"), ("10.0.0.1", "10.0.0.1")],
)
def test_a_listener_is_reached(host: str, address: str) -> None:
    """A listener on every interface is reached by loopback, and IPv6 addresses stand in brackets."""
    assert reachable(host) == address
