"""Reads records of a log that its server goes on writing to: nothing twice, nothing left out, from any place.

Records whose bundles were pruned stand at the beginning of a log only (C2SP tlog-tiles, Pruning).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vestry.audit import scan
from vestry.audit.reading import LINEAR_BYTES, Leaves, LogReader, persistent
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.tiles import WIDTH, TileMissing, Tiles, tile_path
from vestry.regular import status

UNSETTLED = 4096
"""Records at the end of a journal that its writer might yet take back, because their `fdatasync` fails: two batches."""


class Walker:
    """One log. Methods raise NoLog, LogDamaged (a sentence that says where) or OSError."""

    def __init__(self, home: Path) -> None:
        self._reader = LogReader(home)
        self.home = home

    def signed(self) -> int:
        """How many records the newest checkpoint covers; 0 without one."""
        return self._reader.signed()

    def first(self) -> int:
        """Index of the first record that is kept: 0, but where records were pruned.

        A log that lacks its first bundle and others further up is damaged; what is found in it then may be any
        beginning of a stretch that is there, which only verifying tells.
        """
        low, high = 0, self.signed() // WIDTH
        if high == 0 or self._has(0):
            return 0
        while low < high:
            middle = (low + high) // 2
            if self._has(middle):
                high = middle
            else:
                low = middle + 1
        return low * WIDTH

    def _has(self, bundle: int) -> bool:
        return status(self.home / tile_path("entries", bundle)) is not None

    def end(self) -> int:
        """How many whole records there are at this moment, those included that are not durable yet."""
        signed = self.signed()
        paths = scan.segments(self.home)
        if not paths:
            return signed
        size = paths[-1].stat().st_size
        for window in (LINEAR_BYTES, size):
            found = [record.index for line in _tail(paths[-1], window) if (record := scan.parse(line)) is not None]
            if found:
                return max(signed, found[-1] + 1)
        return max(signed, scan.first_index(paths[-1]))

    def settled(self) -> int:
        """How many records there are that nothing but damage can change any more."""
        return max(self.signed(), self.end() - UNSETTLED)

    def records(self, start: int, stop: int | None = None, *, gone: Callable[[int, int], None] | None = None) -> Leaves:
        """Records in order, each with its index, from `start` to before `stop`, or to the end of the log.

        `gone` is told from where and up to where records were pruned meanwhile, and are left out; without it that is
        damage.
        """
        try:
            yield from persistent(partial(self._once, stop), start, signed=self.signed, first=self.first, gone=gone)
        except (TileMissing, LogDamaged, FileNotFoundError, ValueError) as error:
            raise damage(error) from error

    def _once(self, stop: int | None, start: int, covered: int) -> Leaves:
        if start < covered:
            yield from Tiles(self.home, covered).leaves(start, stop)
        if stop is None or max(start, covered) < stop:
            yield from self._reader.journal(max(start, covered), stop)


def damage(error: Exception) -> LogDamaged:
    """What is wrong with a log, as a sentence."""
    return error if isinstance(error, LogDamaged) else LogDamaged(f"{str(error).rstrip('.')}.")


def _tail(path: Path, window: int) -> Iterator[bytes]:
    size = path.stat().st_size
    return scan.lines(path, start=max(0, size - window))
