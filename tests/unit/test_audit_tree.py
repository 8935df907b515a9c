"""The tree that grows: the same root as merkle's, durable before it is signed, whole through any fault."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.audit import FaultyFiles
from vestry.audit.files import Files
from vestry.audit.tlog.merkle import EMPTY_ROOT, leaf_hash, root, whole
from vestry.audit.tlog.tiles import TileMissing, Tiles, bundled, edges, tile_path
from vestry.audit.tree import Tree

BIG = 66_000
"""More than one tile of the second level."""


def leaves(count: int, start: int = 0) -> list[bytes]:
    return [b'{"index":%d}' % index for index in range(start, start + count)]


def expected(count: int) -> bytes:
    """The root by merkle alone, over hashes that no tree has kept."""
    hashes = [leaf_hash(each) for each in leaves(count)]
    return root(count, lambda level, number: whole(hashes[number << level : (number + 1) << level]))


def read_back(home: Path, count: int) -> bytes:
    """The root by merkle over the tiles on the disk, after every record was compared with its bundle."""
    tiles = Tiles(home, count)
    assert [leaf for _, leaf in tiles.leaves()] == leaves(count)
    return root(count, tiles.subtree)


def settled(home: Path, count: int, files: Files | None = None) -> Tree:
    home.mkdir(exist_ok=True)
    tree = Tree(home, files or Files())
    tree.add(leaves(count))
    tree.settle()
    return tree


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 700)),
        st.tuples(st.sampled_from(["flush", "settle", "load"]), st.just(0)),
    ),
    max_size=12,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_any_history_gives_the_root_of_merkle(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However records came, were written and were taken up again: the root is that of RFC 6962 over all of them."""
    home = tmp_path_factory.mktemp("tree")
    tree, size = Tree(home, Files()), 0
    for step, count in steps:
        if step == "add":
            tree.add(leaves(count, size))
            size += count
        elif step == "flush":
            tree.flush()
            assert tree.waiting_bytes == 0
        else:
            tree.settle()
            assert read_back(home, size) == expected(size)
            if step == "load":
                tree = Tree.load(home, Files(), size)
        assert (tree.size, tree.root()) == (size, expected(size))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 1000])
def test_sizes_at_the_edges_of_tiles(tmp_path: Path, size: int) -> None:
    """Nothing, a full tile, one more, one less."""
    tree = settled(tmp_path, size)
    assert tree.root() == (expected(size) if size else EMPTY_ROOT)
    again = Tree.load(tmp_path, Files(), size)
    assert again.root() == tree.root()
    again.add(leaves(300, size))
    again.settle()
    assert read_back(tmp_path, size + 300) == expected(size + 300)


def test_three_levels(tmp_path: Path) -> None:
    """Beyond 65,536 records there is a third level, and taking up where it ended gives the same tree."""
    settled(tmp_path, BIG)
    assert (tmp_path / "tile/1/000").stat().st_size == 8192
    assert (tmp_path / "tile/2/000.p/1").stat().st_size == 32
    tree = Tree.load(tmp_path, Files(), BIG)
    tree.add(leaves(200, BIG))
    assert tree.root() == expected(BIG + 200)


def test_the_files_are_those_of_the_specification(tmp_path: Path) -> None:
    """C2SP tlog-tiles: whole tiles and bundles by number, partial ones by width; no other files, and all private."""
    settled(tmp_path, 600)
    found = {each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if each.is_file()}
    whole_ones = {f"tile/{level}/00{number}" for level in ("0", "entries") for number in (0, 1)}
    assert found == whole_ones | {"tile/0/002.p/88", "tile/entries/002.p/88", "tile/1/000.p/2"}
    assert (tmp_path / "tile/entries/002.p/88").read_bytes() == b"".join(map(bundled, leaves(88, 512)))
    assert not [each for each in tmp_path.rglob("*") if each.stat().st_mode & 0o077]


def test_partial_files_go_when_the_whole_one_is_durable(tmp_path: Path) -> None:
    """Those of several checkpoints stay until then."""
    tree = settled(tmp_path, 100)
    tree.add(leaves(100, 100))
    tree.settle()
    assert sorted(each.name for each in (tmp_path / "tile/0/000.p").iterdir()) == ["100", "200"]
    tree.add(leaves(56, 200))
    tree.flush()
    assert not (tmp_path / "tile/0/000.p").exists()
    assert not (tmp_path / "tile/entries/000.p").exists()


@pytest.mark.parametrize("size", [100, 255, 300])
def test_partial_files_of_an_earlier_process_go_too(tmp_path: Path, size: int) -> None:
    """It died when they were written, and before its checkpoint was: no checkpoint names them."""
    settled(tmp_path, 50)
    dead = Tree.load(tmp_path, Files(), 50)
    dead.add(leaves(size - 50, 50))
    dead.settle()
    again = Tree.load(tmp_path, Files(), 50, reach=size)
    again.add(leaves(512 - 50, 50))
    again.flush()
    assert not [*tmp_path.glob("tile/0/*.p"), *tmp_path.glob("tile/entries/*.p")]


def test_a_draft_that_was_left_is_replaced(tmp_path: Path) -> None:
    """A process died while it wrote one, or a write failed."""
    left = tmp_path / "tile/entries/000.new"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of a bun")
    settled(tmp_path, 256)
    assert read_back(tmp_path, 256) == expected(256)
    assert not left.exists()


FAULTS: list[tuple[str, int | str]] = [
    ("create", errno.ENOSPC),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("sync", errno.EIO),
    ("sync", "lie"),
    ("rename", errno.EIO),
    ("sync_directory", errno.EIO),
    ("remove", errno.EACCES),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{fault}" for name, fault in FAULTS])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_what_failed_is_done_again(tmp_path: Path, name: str, fault: int | str, after: int) -> None:
    """A call fails at some point: OSError, what waits goes on waiting, more may come, and the next try is whole."""
    files = FaultyFiles()
    tree = settled(tmp_path, 200, files)
    tree.add(leaves(400, 200))
    waiting = tree.waiting_bytes
    assert waiting > 0
    files.fail(name, fault)
    spared, real = iter([True] * (min(after, 1) if name == "remove" else after)), files._strikes

    def strikes(name_: str) -> OSError | str | None:
        return None if name_ == name and next(spared, False) else real(name_)

    files._strikes = strikes  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="injected"):
        tree.settle()
    assert (tree.size, tree.root()) == (600, expected(600)), "a fault of the disk changes nothing in memory"
    tree.add(leaves(100, 600))
    files.mend()
    tree.settle()
    assert tree.waiting_bytes == 0
    assert read_back(tmp_path, 700) == expected(700)


def test_a_short_write_is_completed(tmp_path: Path) -> None:
    """write(2) may take less than it was given."""
    files = FaultyFiles()
    files.fail("write", "short", times=3)
    settled(tmp_path, 300, files)
    assert read_back(tmp_path, 300) == expected(300)


@pytest.mark.parametrize("name", ["create", "write", "sync", "rename", "sync_directory", "remove"])
def test_what_a_checkpoint_stands_on_is_never_gone(tmp_path: Path, name: str) -> None:
    """Growing writes some files of the last checkpoint again, and removes others: a crash anywhere leaves its tree."""
    for size, count in ((300, 10), (300, 400), (1, 255)):
        for crash in range(12):
            home = tmp_path / f"{size}-{count}-{crash}"
            files = FaultyFiles()
            tree = settled(home, size, files)
            tree.add(leaves(count, size))
            calls = 0

            def strikes(called: str, limit: int = crash) -> OSError | None:
                nonlocal calls
                calls += called == name
                return OSError(errno.EIO, "the power is gone") if calls > limit else None

            files._strikes = strikes  # type: ignore[method-assign, assignment]
            with suppress(OSError):
                tree.settle()
            assert Tree.load(home, Files(), size).root() == expected(size)
            assert read_back(home, size) == expected(size)


def test_directories_are_synced_again_after_a_failure(tmp_path: Path) -> None:
    """A folder that a failed attempt has made is durable when the one above it was synced: the next try does it."""
    synced: list[Path] = []

    class Noting(FaultyFiles):
        def sync_directory(self, path: Path) -> None:
            super().sync_directory(path)
            synced.append(path)

    files = Noting()
    files.fail("sync_directory", times=1)
    tree = Tree(tmp_path, files)
    tree.add(leaves(1))
    with pytest.raises(OSError, match="injected"):
        tree.settle()
    synced.clear()
    tree.settle()
    assert set(synced) == {
        tmp_path / each for each in ("", "tile", "tile/0", "tile/0/000.p", "tile/entries", "tile/entries/000.p")
    }


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_tree_without_its_edge_is_not_loaded(tmp_path: Path, path: str, damage: str) -> None:
    """What is missing, or too short, is named."""
    settled(tmp_path, 300)
    if damage == "gone":
        (tmp_path / path).unlink()
    else:
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:-1])
    with pytest.raises((TileMissing, ValueError), match=path):
        Tree.load(tmp_path, Files(), 300)


def test_a_changed_record_in_the_last_bundle_is_not_carried_on(tmp_path: Path) -> None:
    """The partial bundle becomes part of a whole one: its records must be those of the tile."""
    settled(tmp_path, 300)
    path = tmp_path / "tile/entries/001.p/44"
    path.write_bytes(path.read_bytes().replace(b'{"index":270}', b'{"index":170}'))
    with pytest.raises(ValueError, match="record 270 in its bundle is not that of its tile"):
        Tree.load(tmp_path, Files(), 300)


def test_a_changed_edge_has_another_root(tmp_path: Path) -> None:
    """Which is what `resume` compares with the signed one."""
    settled(tmp_path, 512)
    path = tmp_path / "tile/1/000.p/2"
    path.write_bytes(bytes(64))
    assert Tree.load(tmp_path, Files(), 512).root() != expected(512)


def test_a_whole_tile_stands_in_for_a_partial_one(tmp_path: Path) -> None:
    """After a crash behind a flush and before its checkpoint, the partial files of the last checkpoint are gone."""
    tree = settled(tmp_path, 100)
    tree.add(leaves(300, 100))
    tree.flush()
    assert [each[:2] for each in edges(100)] == [(0, 0)]
    assert not (tmp_path / tile_path(0, 0, 100)).exists()
    again = Tree.load(tmp_path, Files(), 100)
    assert again.root() == expected(100)
    again.add(leaves(300, 100))
    again.settle()
    assert read_back(tmp_path, 400) == expected(400)
