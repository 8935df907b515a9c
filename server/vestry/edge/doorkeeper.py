"""What the door goes by, and whom it tells."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from vestry.errors import Refusal
from vestry.settings import tree as settings


class Doorkeeper(Protocol):
    """Is told what happens at the door before a call exists."""

    def refused(self, refusal: Refusal, request_id: str, source: str) -> None:
        """A request was refused before it could be read."""

    def connections(self, change: int) -> None:
        """A connection was opened (+1) or closed (-1)."""


class Nobody:
    """A doorkeeper who tells nobody: for a port whose visitors are neither counted nor recorded."""

    def refused(self, refusal: Refusal, request_id: str, source: str) -> None:
        """Nothing."""

    def connections(self, change: int) -> None:
        """Nothing."""


class Rules(Struct, frozen=True):
    """What the door checks: the settings' bounds, allowed hosts (lower case), and who is told."""

    limits: settings.Door
    allowed_hosts: frozenset[bytes]
    keeper: Doorkeeper
