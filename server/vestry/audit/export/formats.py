"""The formats by name: each makes one line of a record, without a line end."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vestry.audit.export import cef, ocsf

Render = Callable[[bytes], bytes]
"""From a record's bytes. Raises LogDamaged for what is no record."""


def jsonl(leaf: bytes) -> bytes:
    """The record as it stands in the log."""
    ocsf.decoded(leaf)
    return leaf


def as_ocsf(leaf: bytes) -> bytes:
    return msgspec.json.encode(ocsf.event(leaf))


def as_cef(leaf: bytes) -> bytes:
    return cef.line(leaf).encode("utf-8", "replace")


FORMATS: dict[str, Render] = {"jsonl": jsonl, "ocsf": as_ocsf, "cef": as_cef}
