"""Ports for programs that must be told one."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_GIVEN: set[int] = set()


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nothing has, each given once. The kernel gives them to no connection by itself,
    so they are free still when a program takes them later, or takes them again.
    """
    lowest, highest = map(int, _RANGE.read_text().split())
    left = [*range(10_000, lowest), *range(highest + 1, 65_536)]
    random.SystemRandom().shuffle(left)  # Hypothesis seeds the usual one
    found: list[int] = []
    while len(found) < count:
        port = left.pop()
        if port not in _GIVEN and _nobody_has(port):
            found.append(port)
            _GIVEN.add(port)
    return found


def free_port() -> int:
    """One of them."""
    (port,) = free_ports(1)
    return port


def _nobody_has(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
