"""What an operator is told of calls that fail at engines: nobody else learns more than that an engine failed."""

from __future__ import annotations

import logging
import socket
import ssl

from vestry.errors import EngineBusy, EngineFailed, EngineTimeout
from vestry.faults import cause_of
from vestry.seldom import Seldom

log = logging.getLogger("vestry")
CODES = frozenset({EngineFailed.code, EngineTimeout.code})


class Failing:
    """Says why calls fail at a replica: each reason once a minute, however many calls fail."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def say(self, replica: str, why: str, refusal: EngineFailed | None = None) -> None:
        """`why` in words of ours: an engine's own may repeat the prompt. Of a connection `refusal` knows more."""
        if refusal is not None and refusal.cause == "connect" and refusal.__cause__ is not None:
            why = f"it cannot be connected to ({_cause(refusal.__cause__)})"
        elif isinstance(refusal, EngineBusy):
            why = "it keeps no more calls waiting"
        if self._seldom.due((replica, why)):
            log.warning("a call to the engine %s failed: %s", replica, why)


def _cause(fault: BaseException) -> str:
    """Not by number alone: those of TLS and of the resolver are their own."""
    match fault:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {fault.verify_message}"
        case ssl.SSLError():
            return f"TLS: {fault.reason}"
        case socket.gaierror():
            return "its name has no address"
        case TimeoutError():
            return "it takes none in time"
        case _:
            return cause_of(fault) if getattr(fault, "errno", None) else str(fault)
