"""Faults of the configuration: where, what, and the mend.

A fault is a sentence for the person who runs the server. It names places and settings; it repeats no value
that could be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class Fault(Struct, frozen=True):
    """One fault. `place` is a line of the file, a variable, or a path; `mend` says what to do about it."""

    place: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}. {self.mend}"


class ConfigurationError(Exception):
    """The settings cannot be used. `faults` names every reason, and `str()` lists them, one a line."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list(faults)
        super().__init__("\n".join(f"- {fault}" for fault in self.faults))
