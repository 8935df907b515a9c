"""Ports: a busy or impossible address is a sentence before anything slow begins."""

from __future__ import annotations

import socket

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
