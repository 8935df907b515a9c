"""Tiles and entry bundles as they lie on the disk (C2SP tlog-tiles): their paths, their bytes, and reading them.

The directory of a log is the *prefix* of the specification: `checkpoint`, `tile/L/N`, `tile/entries/N`, with `.p/W`
behind the last ones, which are partial. Served by any web server as it is, it is a tlog-tiles log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from vestry import regular
from vestry.audit.tlog.merkle import HASH_BYTES, whole

WIDTH = 256
HEIGHT = 8
TILE_BYTES = WIDTH * HASH_BYTES
BUNDLE_BYTES = WIDTH * (2 + 65_535)
CHECKPOINT = "checkpoint"


class TileMissing(LookupError):  # noqa: N818 - what is wrong
    """A tile or bundle is not there, or not as long as it must be. `path` says which; `first` is the index of the
    first record under it.
    """

    def __init__(self, path: Path, first: int, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.first, self.why = path, first, why


def number(index: int) -> str:
    """A tile's number as path elements of three digits: 1234067 is `x001/x234/067`."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Path of a tile below the log's directory; level `entries` is that of the bundles."""
    return f"tile/{level}/{number(index)}" + ("" if width == WIDTH else f".p/{width}")


def bundled(leaf: bytes) -> bytes:
    """A record as it stands in a bundle: its length in two bytes, big-endian, and itself."""
    return len(leaf).to_bytes(2) + leaf


def unbundled(data: bytes) -> list[bytes]:
    """The records of a bundle. Raises ValueError where it ends inside of one."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise ValueError(f"it ends inside of its record {len(found)}")
        found.append(data[at + 2 : end])
        at = end
    return found


def hashes_of(tile: bytes) -> list[bytes]:
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


class Tiles:
    """Reads the tiles of a tree of `size` records. Hashes are as they stand on the disk: verifying is the caller's.

    `subtree` is what `merkle` asks for.
    """

    def __init__(self, home: Path, size: int) -> None:
        self.home, self.size = home, size
        self.tile = lru_cache(maxsize=64)(self._read_tile)

    def raw(self, index: int) -> bytes:
        """A bundle as it lies on the disk: for whoever looks whether it has some bytes at all. Raises TileMissing."""
        return self._read("entries", index, self._width(index))[0]

    def bundle(self, index: int) -> list[bytes]:
        """All records of a bundle. Raises TileMissing, and ValueError for one that is malformed."""
        width = self._width(index)
        data, path = self._read("entries", index, width)
        try:
            leaves = unbundled(data)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if len(leaves) < width:
            raise TileMissing(path, index * WIDTH, f"holds {len(leaves)} records; {width} are needed")
        return leaves[:width]

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Records in order, each with its index."""
        stop = self.size if stop is None else min(stop, self.size)
        for index in range(start // WIDTH, -(-stop // WIDTH)):
            base = index * WIDTH
            for place, leaf in enumerate(self.bundle(index)):
                if start <= base + place < stop:
                    yield base + place, leaf

    def leaf_hash(self, index: int) -> bytes:
        """Hash of one record, from its tile."""
        return self.subtree(0, index)

    def subtree(self, level: int, index: int) -> bytes:
        """merkle.Subtrees: from the tile of the next level below that is kept."""
        kept, above = divmod(level, HEIGHT)
        first = index << above
        tile = self.tile(kept, first // WIDTH)
        at = first % WIDTH * HASH_BYTES
        return whole(hashes_of(tile[at : at + (HASH_BYTES << above)]))

    def _read_tile(self, level: int, index: int) -> bytes:
        """All hashes of a tile. Raises TileMissing."""
        width = min(WIDTH, (self.size >> HEIGHT * level) - index * WIDTH)
        data, path = self._read(level, index, width)
        if len(data) < width * HASH_BYTES:
            first = index << HEIGHT * (level + 1)
            raise TileMissing(path, first, f"has {len(data)} bytes; {width * HASH_BYTES} are needed")
        return data[: width * HASH_BYTES]

    def _width(self, bundle: int) -> int:
        return min(WIDTH, self.size - bundle * WIDTH)

    def _read(self, level: int | str, index: int, width: int) -> tuple[bytes, Path]:
        """A file's bytes; of a partial one the whole one where it is there already, which begins the same.

        Raises TileMissing, ValueError for what is larger than it can be, and OSError.
        """
        names = [tile_path(level, index, width)]
        if width != WIDTH:
            names.append(tile_path(level, index))
        for name in names:
            path = self.home / name
            try:
                return regular.whole(path, BUNDLE_BYTES if level == "entries" else TILE_BYTES), path
            except FileNotFoundError:
                continue
        depth = 1 if isinstance(level, str) else level + 1
        raise TileMissing(self.home / names[0], index << HEIGHT * depth, "is missing")


def edges(size: int) -> Sequence[tuple[int, int, int]]:
    """The partial tiles of a tree: `(level, number, width)`, for all levels that have one."""
    found: list[tuple[int, int, int]] = []
    level = 0
    while width_below := size >> HEIGHT * level:
        index, width = divmod(width_below, WIDTH)
        if width:
            found.append((level, index, width))
        level += 1
    return found
