"""How far an export has come, on the disk: `<log>/export/<name>.cursor`. The log itself is the spool.

The cursor holds the index of the next record, and the SHA-256 of the one before, which tells that it is a cursor of
this very log. Where it is missing, damaged, or of another log, the export begins anew: twice is better than never.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestry.audit.finding.walk import Walker
from vestry.audit.scan import LogDamaged

_LOG = logging.getLogger("vestry.audit")
FOLDER = "export"


class _Kept(Struct, frozen=True):
    next: Annotated[int, Meta(ge=0)]
    sha256: str


class Cursor:
    """One export's place in one log."""

    def __init__(self, home: Path, name: str) -> None:
        self.path = home / FOLDER / f"{name}.cursor"
        self._stored = -1

    def load(self, walker: Walker) -> int:
        """Index of the next record to send. Raises OSError and LogDamaged where the log cannot be read."""
        try:
            kept = msgspec.json.decode(self.path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return 0
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _LOG.warning("the export's cursor %s is damaged (%s); everything is sent again", self.path, error)
            return 0
        if kept.next == 0 or (kept.next <= walker.end() and self._is_of(walker, kept)):
            self._stored = kept.next
            return kept.next
        _LOG.warning("the export's cursor %s is of another log; everything is sent again", self.path)
        return 0

    def store(self, index: int, last: bytes) -> None:
        """Everything before `index` has arrived; `last` is the record before it. If the machine dies it is this that is
        found, or what was stored before: then some records are sent again.
        """
        if index == self._stored:
            return
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self.path.with_suffix(".new")
        data = msgspec.json.encode(_Kept(index, hashlib.sha256(last).hexdigest()))
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(descriptor)
        draft.replace(self.path)
        self._stored = index

    @staticmethod
    def _is_of(walker: Walker, kept: _Kept) -> bool:
        if kept.next - 1 < walker.first():
            return True  # pruned: what is left cannot tell
        try:
            found = [leaf for _, leaf in walker.records(kept.next - 1, kept.next)]
        except LogDamaged:
            return False
        return bool(found) and hashlib.sha256(found[0]).hexdigest() == kept.sha256
