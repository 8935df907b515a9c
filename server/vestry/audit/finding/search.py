"""Finding: which records fit a filter, through the index or without it, each of them read from the log and looked at.

`Search` is over one log; `merged` puts what several found in the order of time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from vestry.audit.finding.filters import Filter, row_of
from vestry.audit.finding.index import Advance, IndexUnusable, opened
from vestry.audit.finding.walk import Walker
from vestry.audit.tlog.tiles import WIDTH

_AT_ONCE = 4
"""Blocks that are held in memory where the log is read backwards."""


class Found(Struct, frozen=True):
    """A record that fits: where it stands, when it was made (microseconds since the epoch), and its bytes."""

    moment: int
    origin: str
    index: int
    leaf: bytes


Progress = Callable[[str, int], Advance]
"""Told of long work: what it is and how many records it takes; gives whom to tell of every so many that are done."""


def _nothing(_what: str, _records: int) -> Advance:
    return lambda _done: None


class Search:
    """What fits a filter in one log, as it stands at this moment. Raises as Walker does.

    `index` is where the index is or will be; None reads the whole log. `told` hears why an index was not used, and of
    records that were pruned while they were read.
    """

    def __init__(
        self,
        home: Path,
        origin: str,
        wanted: Filter,
        *,
        index: Path | None,
        progress: Progress = _nothing,
        told: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._walker = Walker(home)
        self.origin, self._wanted = origin, wanted
        self._progress, self._told = progress, told
        self.first, self.end = self._walker.first(), self._walker.end()
        self._blocks: list[int] | None = None
        self._indexed = self.first
        if index is not None and wanted.narrow:
            try:
                self._look_up(index)
            except IndexUnusable as error:
                told(f"The whole log `{origin}` is read: {error}.")
            self.first, self.end = self._walker.first(), max(self._indexed, self._walker.end())

    def _look_up(self, path: Path) -> None:
        with opened(self._walker, path) as index:
            if due := index.due():
                index.grow(self._progress(f"indexing {self.origin}", due))
            self._blocks = index.blocks(self._wanted)
            self._indexed = index.end
            if index.first > self.first:  # a log that was restored to more than was there when the index was begun
                self._blocks = [*range(self.first // WIDTH, index.first // WIDTH), *self._blocks]

    def count(self) -> int | None:
        """How many records there are, where the filter leaves none out; else None."""
        return None if self._wanted.narrow else self.end - self.first

    def forward(self) -> Iterator[Found]:
        """Oldest first."""
        for blocks in self._where():
            yield from self._in(blocks.start * WIDTH, blocks.stop * WIDTH)

    def backward(self) -> Iterator[Found]:
        """Newest first."""
        for blocks in reversed(list(self._where())):
            for stop in range(blocks.stop, blocks.start, -_AT_ONCE):
                start = max(blocks.start, stop - _AT_ONCE)
                yield from reversed(list(self._in(start * WIDTH, stop * WIDTH)))

    def following(self) -> Iterator[Found]:
        """What has come since it was last looked."""
        start, self.end = self.end, self._walker.end()
        yield from self._in(start, self.end)

    def _where(self) -> Iterator[range]:
        """Where to look, as stretches of blocks, in order."""
        last = -(-self.end // WIDTH)
        if self._blocks is None:
            yield range(self.first // WIDTH, last)
            return
        start = stop = -1
        for block in self._blocks:
            if block != stop:
                yield range(start, stop)
                start = block
            stop = block + 1
        yield range(start, stop)
        yield range(self._indexed // WIDTH, last)

    def _in(self, start: int, stop: int) -> Iterator[Found]:
        start, stop = max(start, self.first), min(stop, self.end)
        for index, leaf in self._walker.records(start, stop, gone=self._gone) if start < stop else ():
            row, moment = row_of(leaf, f"record {index} of {self._walker.home}")
            if self._wanted.fits(row, moment):
                yield Found(moment, self.origin, index, leaf)

    def _gone(self, _at: int, first: int) -> None:
        """The log begins later than when it was begun to be read."""
        self.first = first
        self._told(
            f"Records before {first} of `{self.origin}` were pruned while it was read; what was not read by then is "
            "left out."
        )


def merged(found: Iterable[Iterator[Found]], *, newest_first: bool = False) -> Iterator[Found]:
    """What several logs gave, in the order of time; within one log its own order stays."""
    return heapq.merge(*found, key=lambda each: each.moment, reverse=newest_first)
