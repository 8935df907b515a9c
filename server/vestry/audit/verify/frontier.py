"""The tree, put together anew from what is in the copy: a root in order, and the tiles above the lowest."""

from __future__ import annotations

from pathlib import Path

from vestry.audit.tlog.merkle import HASH_BYTES, fold, node_hash, whole
from vestry.audit.tlog.tiles import HEIGHT, WIDTH, hashes_of
from vestry.audit.verify import disk
from vestry.audit.verify.disk import Unreadable
from vestry.audit.verify.findings import Findings


class Frontier:
    """The root of a tree that grows by whole subtrees, each where one of its size may begin. One hash a level."""

    def __init__(self) -> None:
        self.size = 0
        self._stack: list[tuple[int, bytes]] = []

    def push(self, level: int, value: bytes) -> None:
        """Append the whole subtree of 2**level leaves."""
        self.size += 1 << level
        while self._stack and self._stack[-1][0] == level:
            value = node_hash(self._stack.pop()[1], value)
            level += 1
        self._stack.append((level, value))

    def copy(self) -> Frontier:
        other = Frontier()
        other.size, other._stack = self.size, self._stack.copy()
        return other

    def root(self) -> bytes:
        return fold([value for _, value in self._stack])


class Upper:
    """Checks the tiles above the lowest level: each hash is the root of the tile below it.

    Holds one tile a level. Where a hash is not known, because what is below was pruned, the tile's own stands in; the
    root then tells whether it was right.
    """

    def __init__(self, home: Path, size: int, findings: Findings) -> None:
        self._home, self._size, self._findings = home, size, findings
        self._tiles: dict[int, tuple[int, dict[int, tuple[bytes, bytes]]]] = {}

    def put(self, level: int, number: int, value: bytes, said: bytes) -> None:
        """The root of tile `number` of the level below `level`: as the records give it, and as that tile has it.

        Where these differ, a fault was named below, at its very place; here either is right.
        """
        index, place = divmod(number, WIDTH)
        if level in self._tiles and self._tiles[level][0] != index:
            self._check(level)
        self._tiles.setdefault(level, (index, {}))[1][place] = value, said
        if place == WIDTH - 1:
            self._check(level)

    def finish(self) -> None:
        for level in range(1, 64 // HEIGHT):
            if level in self._tiles:
                self._check(level)

    def subtree(self, level: int, number: int) -> bytes | None:
        """The hash of a whole subtree of 2**level records, 2**8 or more, from a tile; None where there is none."""
        kept, above = divmod(level, HEIGHT)
        found = self._from(kept, number << above, above)
        if found is None and above == 0:
            return self._from(kept - 1, number << HEIGHT, HEIGHT)
        return found

    def _from(self, level: int, first: int, above: int) -> bytes | None:
        index, place = divmod(first, WIDTH)
        hashes = self._read(level, index)
        if hashes is None or len(hashes) < place + (1 << above):
            return None
        return whole(hashes[place : place + (1 << above)])

    def _read(self, level: int, index: int) -> list[bytes] | None:
        width = min(WIDTH, (self._size >> HEIGHT * level) - index * WIDTH)
        if width <= 0:
            return None
        try:
            data, _ = disk.tile(self._home, level, index, width)
        except Unreadable:
            return None
        return None if data is None else hashes_of(data[: width * HASH_BYTES])

    def _check(self, level: int) -> None:
        index, known = self._tiles.pop(level)
        width = min(WIDTH, (self._size >> HEIGHT * level) - index * WIDTH)
        first, each = index << HEIGHT * (level + 1), 1 << HEIGHT * level
        hashes = self._hashes(level, index, width, first)
        for place, values in sorted(known.items()):
            if place < len(hashes) and hashes[place] not in values:
                start = first + place * each
                self._findings.fail(
                    "upper-tile",
                    f"Hash {place} of tile {level}/{index} is not the root of records {start} to {start + each - 1}.",
                    start,
                    values[0].hex(),
                    hashes[place].hex(),
                )
        if width == WIDTH and (len(hashes) == WIDTH or len(known) == WIDTH):
            mine = [known[place][0] if place in known else hashes[place] for place in range(WIDTH)]
            self.put(level + 1, index, whole(mine), whole(hashes if len(hashes) == WIDTH else mine))

    def _hashes(self, level: int, index: int, width: int, first: int) -> list[bytes]:
        """The tile's hashes; none for one that is missing or no tile, which is reported."""
        end = first + (width << HEIGHT * level)
        try:
            data, path = disk.tile(self._home, level, index, width)
        except Unreadable as error:
            self._findings.fail("upper-tile", f"{error}; it should be the tile of records {first} to {end - 1}.", first)
            return []
        if data is None:
            self._findings.missing("tile", path, first, first + (WIDTH << HEIGHT * level) if width == WIDTH else end)
            return []
        if len(data) < width * HASH_BYTES or len(data) % HASH_BYTES:
            self._findings.fail(
                "upper-tile",
                f"{path} is no tile of {width} hashes.",
                first,
                f"{width * HASH_BYTES} bytes",
                f"{len(data)} bytes",
            )
            return []
        return hashes_of(data[: width * HASH_BYTES])
