"""The journal beside the bundles: what both hold must be equal; what came after the checkpoint must go on in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from vestry.audit import scan
from vestry.audit.canonical import LEAF_BYTES
from vestry.audit.verify import disk
from vestry.audit.verify.chronicle import record_of
from vestry.audit.verify.findings import Findings


class Journal:
    """The records of the segments, each with the index that its place gives it. Read once, in order."""

    def __init__(self, home: Path, findings: Findings) -> None:
        self._findings = findings
        try:
            found = scan.segments(home)
        except OSError:
            found = []
        self._paths = [each for each in found if disk.regular(each)]
        for path in found:
            if path not in self._paths:
                findings.fail("journal-damaged", f"{path.name} is no file.", scan.first_index(path))
        self.start = scan.first_index(self._paths[0]) if self._paths else None
        """Index of the first record; None where there is no segment."""
        self.next = self.start or 0
        """Index of the record that was not read yet."""
        self._altered = False
        self._lines = self._read()
        self._waiting: tuple[int, bytes] | None = None

    def compare(self, index: int, leaf: bytes) -> None:
        """Hold a record of the bundles against the journal's, where it has it. Indices only grow."""
        if self.start is None or index < self.start:
            return
        found = self._at(index)
        if found is not None and found != leaf and not self._altered:
            self._altered = True
            self._findings.fail(
                "journal-differs",
                f"Record {index} of the journal is not the one in the bundles.",
                index,
                excerpt(leaf),
                excerpt(found),
            )

    def beyond(self, size: int) -> Iterator[tuple[int, bytes]]:
        """The records from `size` on; those before must have been compared, or do not matter any more."""
        if self.start is None:
            return
        if self.start > size:
            self._findings.fail(
                "journal-gap",
                f"The journal begins with record {self.start}; records {size} to {self.start - 1} are in no file.",
                size,
                f"record {size}",
                f"record {self.start}",
            )
        found = self._at(max(size, self.start))
        if found is None:
            if self.next < size and not self._altered:
                self._findings.fail(
                    "journal-short",
                    f"The journal ends before record {self.next}, but the checkpoint covers {size} records. Somebody "
                    "has cut it, or the copy was taken while the server wrote, the checkpoint last.",
                    self.next,
                    f"record {self.next}",
                    "the end",
                )
            return
        yield max(size, self.start), found
        yield from self._lines

    def torn(self, index: int) -> None:
        """The line of record `index` is no record: a crash can leave that at the end, and nowhere else."""
        if not _followed(self._lines, index):
            self._findings.note(
                "torn-tail", f"What stands where record {index} would be is no record: a crash can leave that.", index
            )
        else:
            self._findings.fail("journal-damaged", f"The journal holds no record where {index} should be.", index)

    def _at(self, index: int) -> bytes | None:
        while self._waiting is None or self._waiting[0] < index:
            self._waiting = next(self._lines, None)
            if self._waiting is None:
                return None
        return self._waiting[1] if self._waiting[0] == index else None

    def _read(self) -> Iterator[tuple[int, bytes]]:
        ends = [scan.first_index(following) for _, following in pairwise(self._paths)]
        for path, end in zip(self._paths, [*ends, None], strict=True):
            index = scan.first_index(path)
            try:
                for line in scan.lines(path):
                    if end is not None and index >= end:
                        break  # written, but never acknowledged: the log went on in a new segment
                    if not line.endswith(b"\n") or len(line) > LEAF_BYTES + 1:
                        if end is None:
                            self._torn_end(path, index, line)
                        break
                    self.next = index + 1
                    yield index, line[:-1]
                    index += 1
            except OSError as error:
                self._findings.fail("journal-damaged", f"{path.name} cannot be read: {error.strerror}.", index)
                self._altered = True
                continue
            if end is not None and index < end:
                self._findings.fail(
                    "journal-gap",
                    f"{path.name} ends before record {index}; the next segment begins with record {end}.",
                    index,
                    f"record {index}",
                    f"record {end}",
                )
                self._altered = True

    def _torn_end(self, path: Path, index: int, line: bytes) -> None:
        if line.endswith(b"\n") or len(line) > scan.TAIL_BYTES:
            self._findings.fail("journal-damaged", f"{path.name} holds no record where {index} should be.", index)
        else:
            self._findings.note(
                "torn-tail",
                f"{path.name} ends with {len(line)} bytes where record {index} would be: a crash, or a copy taken "
                "while the server wrote, leaves that.",
                index,
            )


def _followed(lines: Iterator[tuple[int, bytes]], index: int) -> bool:
    """Whether more stands behind a line that is no record than a crash can leave: a later record, or too much."""
    size = 0
    for _, leaf in lines:
        size += len(leaf) + 1
        record = record_of(leaf) if leaf.startswith(b"{") else None
        own = record.get("index") if isinstance(record, dict) else None
        if size > scan.TAIL_BYTES or (own.__class__ is int and own is not None and own >= index):
            return True
    return False


def excerpt(leaf: bytes) -> str:
    """A record in a report: its hash, never more of it."""
    return f"a record of {len(leaf)} bytes, SHA-256 {hashlib.sha256(leaf).hexdigest()}"
