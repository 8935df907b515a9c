"""Faults of the configuration: where, what, and the mend; and the short names of what went wrong.

A fault is a sentence for the person who runs the server. It names places and settings; it repeats no value
that could be a secret.
"""

from __future__ import annotations

import difflib
import errno
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


def meant(written: str, known: list[str], otherwise: str) -> str:
    """The mend of a name that there is not: the one that may have been meant, or what is said `otherwise`."""
    close = difflib.get_close_matches(written[:128].lower(), known, n=1, cutoff=0.6)
    return f"Did you mean `{close[0]}`?" if close else otherwise


def cause_of(error: BaseException) -> str:
    """A short name of what went wrong: `ENOSPC` for an OSError, else the exception's type."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__
