"""The growing Merkle tree of a log: takes leaves in order, knows its root, writes tiles and entry bundles.

Rules:
1. `add` only works in memory, so it cannot fail. What it completes waits, bytes and all, until `flush` has written
   and synced it; a flush that failed is simply done again, into new files.
2. A whole tile is written once. A partial one is written for the size at which it is asked for (C2SP tlog-tiles,
   Partial Tiles), and removed when the whole one is durable.
3. No file is ever missing or half written under its name, so what a checkpoint stands on survives a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestry.audit.files import Files, Pieces
from vestry.audit.tlog.merkle import HASH_BYTES, fold, leaf_hash, whole
from vestry.audit.tlog.tiles import HEIGHT, TILE_BYTES, WIDTH, Tiles, bundled, edges, hashes_of, tile_path

_AT_ONCE = 64
"""Files that are open at once: a server needs its descriptors for connections."""


class Tree:
    """The tree of the log in `home`. Not for two threads."""

    def __init__(self, home: Path, files: Files, *, reach: int = 0) -> None:
        """`reach` is the greatest size at which partial tiles may have been written before."""
        self.size = 0
        self._home = home
        self._files = files
        self._reach = reach
        self._edges: list[bytearray] = [bytearray()]
        self._bundle: list[bytes] = []
        self._waiting: dict[str, Pieces] = {}
        self._partial: list[str] = []
        self.waiting_bytes = 0

    @classmethod
    def load(cls, home: Path, files: Files, size: int, *, reach: int = 0) -> Tree:
        """The tree as its tiles say it was at `size`. Raises tiles.TileMissing, ValueError or OSError.

        That these are the right ones only a comparison of `root` with a signed one can tell.
        """
        tree = cls(home, files, reach=max(reach, size))
        tiles = Tiles(home, size)
        for level, index, _ in edges(size):
            while len(tree._edges) <= level:
                tree._edges.append(bytearray())
            tree._edges[level][:] = tiles.tile(level, index)
        if size % WIDTH:
            for place, leaf in enumerate(tiles.bundle(size // WIDTH)):
                tree._bundle.append(bundled(leaf))
                if leaf_hash(leaf) != tiles.leaf_hash(size // WIDTH * WIDTH + place):
                    raise ValueError(f"record {size // WIDTH * WIDTH + place} in its bundle is not that of its tile")
        tree.size = size
        return tree

    def add(self, leaves: Sequence[bytes]) -> None:
        """Append leaves, each of at most 65,535 bytes."""
        lowest, at = self._edges[0], 0
        while at < len(leaves):
            some = leaves[at : at + (TILE_BYTES - len(lowest)) // HASH_BYTES]
            self._bundle += map(bundled, some)
            lowest += b"".join(map(leaf_hash, some))
            self.size += len(some)
            at += len(some)
            if len(lowest) == TILE_BYTES:
                self._complete()

    def root(self) -> bytes:
        """Root of the tree as it is now."""
        subtrees = []
        for tile in reversed(self._edges):
            hashes = hashes_of(bytes(tile))
            while hashes:
                many = 1 << (len(hashes).bit_length() - 1)
                subtrees.append(whole(hashes[:many]))
                del hashes[:many]
        return fold(subtrees)

    def flush(self) -> None:
        """Make what is complete durable. Raises OSError; then all of it is still waiting."""
        self._write(self._waiting)
        for path in self._partial:
            self._remove_partials(self._home / f"{path}.p")
        self._waiting, self._partial, self.waiting_bytes = {}, [], 0

    def settle(self) -> None:
        """Make everything durable that a checkpoint of this size needs, partial tiles included. Raises OSError."""
        self.flush()
        partial: dict[str, Pieces] = {}
        for level, index, width in edges(self.size):
            partial[tile_path(level, index, width)] = [self._edges[level]]
            if level == 0:
                partial[tile_path("entries", index, width)] = self._bundle
        self._reach = self.size
        self._write(partial)

    def _complete(self) -> None:
        """The lowest tile is full: it and its bundle are ready to be written, and so perhaps are tiles above it."""
        self._wait("entries", 0, self._bundle)
        self._bundle = []
        level = 0
        while len(self._edges[level]) == TILE_BYTES:
            tile = bytes(self._edges[level])
            self._wait(level, level, [tile])
            self._edges[level].clear()
            level += 1
            if level == len(self._edges):
                self._edges.append(bytearray())
            self._edges[level] += whole(hashes_of(tile))

    def _wait(self, name: int | str, level: int, pieces: Pieces) -> None:
        """The file of this level that ends where the tree does now is complete."""
        index = (self.size >> HEIGHT * (level + 1)) - 1
        path = tile_path(name, index)
        self._waiting[path] = pieces
        self.waiting_bytes += sum(map(len, pieces)) + HASH_BYTES
        if index << HEIGHT * (level + 1) < self._reach:
            self._partial.append(path)

    def _write(self, wanted: dict[str, Pieces]) -> None:
        """Whole files, each in one piece: a checkpoint may stand on one that is written again."""
        files = {self._home / name: data for name, data in wanted.items()}
        folders: dict[Path, None] = {}  # all, each time: an earlier attempt may have made one, and then failed
        for parent in {path.parent for path in files}:
            above = [each for each in (parent, *parent.parents) if self._home in each.parents]
            folders |= dict.fromkeys(reversed(above))
        for folder in folders:  # but for the log's own: where that is gone, this is no place for a new one
            folder.mkdir(mode=0o700, exist_ok=True)
        paths = list(files)
        for at in range(0, len(paths), _AT_ONCE):
            self._files.put({path: files[path] for path in paths[at : at + _AT_ONCE]})
        for folder in (self._home, *folders):
            self._files.sync_directory(folder)

    def _remove_partials(self, folder: Path) -> None:
        if folder.is_dir():
            for each in folder.iterdir():
                self._files.remove(each)
            folder.rmdir()
