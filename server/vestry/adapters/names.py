"""Where an engine is that has a name: the resolver is asked for each connection, for names move.

Rules:
- One question at a time a name, whoever waits for its answer. The resolver has clocks of its own (resolv.conf(5)), and
  a few threads for all names: asked once a connection, one name that it gets no answer for would hold up all others.
- Where it does not answer soon, or cannot at the moment, what it has said last holds for a while.
- Only permitted addresses are told, whatever a name resolves to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from vestry.addresses import Address

PATIENCE_SECONDS = 0.5
KNOWN_SECONDS = 300.0
"""An address may be somebody else's by then."""


class Addresses:
    """The permitted addresses of one host. Belongs to one event loop."""

    def __init__(self, host: str, port: int, permitted: Callable[[Address], bool]) -> None:
        self._host, self._port, self._permitted = host, port, permitted
        self._literal = _address(host)
        self._question: asyncio.Task[list[str] | OSError] | None = None
        self._asked = 0.0
        self._known: list[str] = []
        self._told = 0.0

    async def find(self, end: float) -> list[str]:
        """One at least, by `end` (the loop's time). Raises OSError."""
        if self._literal is not None:
            if not self._permitted(self._literal):
                raise OSError("the engine's address is not permitted")
            return [self._host]
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._question is None:
            self._question, self._asked = loop.create_task(self._ask(loop)), now
        known = self._known if now - self._told < KNOWN_SECONDS else []
        until = min(end, self._asked + PATIENCE_SECONDS) if known else end
        question = self._question
        await asyncio.wait({question}, timeout=max(0.0, until - now))
        found = question.result() if question.done() else OSError("its name is not resolved in time")
        if not isinstance(found, OSError):
            return found
        if known and (not question.done() or found.errno == socket.EAI_AGAIN):
            return known
        raise type(found)(*found.args)

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> list[str] | OSError:
        """The answer, or why there is none: nobody may be waiting for it any more."""
        try:
            resolved = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as fault:
            return fault
        finally:
            self._question = None
        found = dict.fromkeys(str(address[0]) for *_, address in resolved)
        self._known = [each for each in found if self._permitted(ipaddress.ip_address(each))]
        self._told = loop.time()
        return self._known or OSError("the engine's name does not resolve to a permitted address")


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
