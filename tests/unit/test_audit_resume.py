"""A log is resumed where its last checkpoint left it, or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fakes.audit import ORIGIN, SIGNING, FaultyFiles, kinds, read
from fakes.calls import intent
from support import forks
from vestry.audit import resume as module
from vestry.audit.files import Files
from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader
from vestry.audit.registry import REGISTRY
from vestry.audit.scan import LogDamaged, LogUnusable, segments
from vestry.audit.store import Store
from vestry.audit.tlog.merkle import prove_consistency, verify_consistency
from vestry.audit.tlog.notes import Checkpoint, Signer
from vestry.audit.tlog.tiles import Tiles

PUBLIC = SIGNING.signer.public.of(ORIGIN)
SEGMENT = 1 << 20


def opened(
    directory: Path, *, files: Files | None = None, signer: Signer | None = None, segment: int = SEGMENT
) -> Store:
    signing = SIGNING if signer is None else msgspec.structs.replace(SIGNING, signer=signer)
    return open_store(directory, ORIGIN, signing=signing, segment_bytes=segment, files=files)


def written(directory: Path, covered: int, above: int = 0, *, segment: int = SEGMENT) -> Path:
    """A log of a checkpoint, and records above it that a crash left without one. Returns its directory."""
    store = opened(directory, segment=segment)
    for number in range(covered):
        store.commit([intent(f"covered-{number}")])
    store.notary.ask()
    store.notary.work()
    for number in range(above):
        store.commit([intent(f"above-{number}")])
    store.abandon()
    return directory / ORIGIN


def head_of(home: Path) -> Checkpoint:
    return Checkpoint.open((home / "checkpoint").read_text(), PUBLIC)


def assert_continued(home: Path, old: Checkpoint) -> None:
    """The newest checkpoint covers every record, and its tree begins with that of `old`."""
    new = head_of(home)
    tiles = Tiles(home, new.size)
    assert new.size == len(list(LogReader(home).leaves()))
    proof = prove_consistency(old.size, new.size, tiles.subtree)
    verify_consistency(old.size, new.size, old.root, new.root, proof)


def everything(home: Path) -> dict[str, bytes]:
    """What a refused start must leave as it was."""
    return {
        each.relative_to(home).as_posix(): each.read_bytes()
        for each in home.rglob("*")
        if each.is_file() and each.name != "lock"
    }


# What a crash can leave.


@pytest.mark.parametrize("covered", [1, 255, 256, 300])
@pytest.mark.parametrize("above", [0, 1, 300])
def test_records_above_the_checkpoint_are_taken_up(tmp_path: Path, covered: int, above: int) -> None:
    """Killed between journal and checkpoint: the next start signs what the last one could not."""
    home = written(tmp_path, covered, above)
    old = head_of(home)
    opened(tmp_path).close()
    assert_continued(home, old)
    assert kinds(tmp_path).count("intent") == covered + above
    assert kinds(tmp_path).count("intent.closed") == covered + above


class Unsigned(FaultyFiles):
    """Nothing keeps tiles from being written; the checkpoint never is."""

    def rename(self, old: Path, new: Path) -> None:
        if new.name == "checkpoint":
            raise OSError(errno.EIO, "the power is gone")
        super().rename(old, new)


@pytest.mark.parametrize("covered", [0, 10])
def test_partial_tiles_that_were_never_signed_go(tmp_path: Path, covered: int) -> None:
    """Killed when a checkpoint's partial tiles were written, and it was not: they go when the whole ones are there."""
    home = written(tmp_path, covered)
    store = opened(tmp_path, files=Unsigned())
    for number in range(300):
        store.commit([intent(f"unsigned-{number}")])
    store.notary.ask()
    store.notary.work()
    assert (home / "tile/0/001.p").is_dir()
    store.abandon()
    store = opened(tmp_path)
    store.commit([intent(f"after-{number}") for number in range(300)])
    store.close()
    assert (home / "tile/0/001").is_file()
    assert not [each for each in (home / "tile").rglob("*.p") if each.with_suffix("").exists()]


def test_more_than_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stretch above the checkpoint goes through memory in pieces, over several segments."""
    monkeypatch.setattr(module, "_TAKEN", 16)
    home = written(tmp_path, 10, 200, segment=5000)
    assert len(segments(home)) > 5
    old = head_of(home)
    opened(tmp_path).close()
    assert_continued(home, old)


def test_a_log_without_a_checkpoint_is_taken_whole(tmp_path: Path) -> None:
    """A first start over a log of the version before: all its segments go into the tree, and are signed."""
    store = opened(tmp_path, segment=3000)
    for number in range(100):
        store.commit([intent(f"r{number}")])
    store.abandon()
    home = tmp_path / ORIGIN
    (tmp_path / REGISTRY).unlink()
    assert not (home / "tile").exists()
    assert not (home / "checkpoint").exists()
    before = [leaf for _, leaf in LogReader(home).leaves()]
    opened(tmp_path).close()
    assert head_of(home).size > 100
    assert [leaf for _, leaf in LogReader(home).leaves()][: len(before)] == before
    assert len(segments(home)) == 2
    opened(tmp_path).close()
    read(tmp_path)


PROGRAM = """
import os, sys
from pathlib import Path
from fakes.audit import ORIGIN, SIGNING
from fakes.calls import intent
from vestry.audit.files import Files
from vestry.audit.opening import open_store

class Dies(Files):
    left = None
    def _one(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os._exit(9)
    def create(self, path): self._one(); return super().create(path)
    def write(self, *given): self._one(); return super().write(*given)
    def gather(self, *given): self._one(); return super().gather(*given)
    def rename(self, *given): self._one(); super().rename(*given)
    def remove(self, path): self._one(); super().remove(path)

files = Dies()
store = open_store(Path(sys.argv[1]), ORIGIN, signing=SIGNING, segment_bytes=4000, files=files)
for number in range(40):
    store.commit([intent(f"{sys.argv[2]}-{number}")])
store.notary.ask()
files.left = int(sys.argv[2])
store.notary.work()
"""


def test_killed_at_any_point_of_a_checkpoint(tmp_path: Path) -> None:
    """Dead at the n-th call of making one, for every n: each next start goes on, and nothing is lost."""
    old = None
    turn = 0
    while True:
        done = forks.run(["-c", PROGRAM, str(tmp_path), str(turn)], env={})
        assert done.returncode in (0, 9), done.stderr
        if old is not None:
            assert head_of(tmp_path / ORIGIN).size >= old.size
        opened(tmp_path, segment=4000).close()
        if old is not None:
            assert_continued(tmp_path / ORIGIN, old)
        old = head_of(tmp_path / ORIGIN)
        if done.returncode == 0:
            break
        turn += 1
    assert turn > 8
    found = [each["request_id"] for each in read(tmp_path) if each["type"] == "intent"]
    assert found == [f"{each}-{number}" for each in range(turn + 1) for number in range(40)]


# What no crash leaves: nothing is opened, nothing is signed, nothing is changed.


def altered(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data, f"{path} has no {old!r}"
    path.write_bytes(data.replace(old, new, 1))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))


def journal_of(home: Path) -> Path:
    return segments(home)[-1]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a record of the journal below the checkpoint": (
        lambda home: altered(journal_of(home), b"covered-7", b"covered-8"),
        "record 8 in the journal is not the one that was signed",
    ),
    "a hash in the lowest tile": (
        lambda home: flipped(home / "tile/0/001.p/45"),
        "record 256 in its bundle is not that of its tile",
    ),
    "a hash in a whole tile": (
        lambda home: flipped(home / "tile/0/000"),
        "record 0 in the journal is not the one that was signed",
    ),
    "a hash above": (lambda home: flipped(home / "tile/1/000.p/1"), "not of the tree that its checkpoint of 301"),
    "a record in the last bundle": (
        lambda home: altered(home / "tile/entries/001.p/45", b"covered-290", b"covered-291"),
        "record 291 in its bundle is not that of its tile",
    ),
    "no lowest tile": (lambda home: (home / "tile/0/001.p/45").unlink(), "tile/0/001.p/45 is missing"),
    "no whole tile": (lambda home: (home / "tile/0/000").unlink(), "tile/0/000 is missing"),
    "no bundle": (lambda home: (home / "tile/entries/001.p/45").unlink(), "tile/entries/001.p/45 is missing"),
    "a cut tile": (lambda home: (home / "tile/1/000.p/1").write_bytes(b"x"), "has 1 bytes; 32 are needed"),
    "no tiles": (lambda home: shutil.rmtree(home / "tile"), "is missing"),
    "a journal that ends below the checkpoint": (
        lambda home: journal_of(home).write_bytes(b"".join(journal_of(home).read_bytes().splitlines(True)[:100])),
        "signs 301 records, but the journal ends before record 100",
    ),
    "no journal": (lambda home: journal_of(home).unlink(), "signs 301 records, but the journal ends before record 0"),
    "a record of the journal above the checkpoint, taken out": (
        lambda home: journal_of(home).write_bytes(
            b"".join(line for line in journal_of(home).read_bytes().splitlines(True) if b"above-3" not in line)
        ),
        "there should be record 304",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_named_and_left_alone(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    """The sentence says what, and no byte is changed by the refused start."""
    home = written(tmp_path, 300, 10)
    assert head_of(home).size == 301
    damage(home)
    before = everything(home)
    for _ in range(2):
        with pytest.raises(LogDamaged, match=said) as fault:
            opened(tmp_path)
        assert "Restore it from a copy" in str(fault.value)
    assert everything(home) == before


def test_a_journal_altered_above_the_checkpoint(tmp_path: Path) -> None:
    """Nothing has signed those records yet, so an altered one that fits its place is taken: what is at stake above the
    last checkpoint is why one is signed every minute. One that does not fit is damage.
    """
    home = written(tmp_path, 300, 10)
    altered(journal_of(home), b'"index":305', b'"index":306')
    with pytest.raises(LogDamaged, match="there should be record 305"):
        opened(tmp_path)
    altered(journal_of(home), b'"index":306', b'"index":305')
    altered(journal_of(home), b'"above-4"', b'"above-X"')
    old = head_of(home)
    opened(tmp_path).close()
    assert_continued(home, old)
    assert "above-X" in {each.get("request_id") for each in read(tmp_path)}


@pytest.mark.parametrize("name", ["house.test/vestry", "another.example"])
def test_a_checkpoint_by_another_key(tmp_path: Path, name: str) -> None:
    """A log is continued with the key that it was begun with; a forged checkpoint is not continued at all."""
    home = written(tmp_path, 5)
    head = head_of(home)
    (home / "checkpoint").write_text(Signer.generate(name).of(ORIGIN).sign(head.text()))
    before = everything(home)
    with pytest.raises(LogUnusable, match=r"cannot be continued: it is not signed by house\.test/vestry/server"):
        opened(tmp_path)
    assert everything(home) == before


def test_a_server_with_another_key(tmp_path: Path) -> None:
    """The registry says it first."""
    written(tmp_path, 5)
    with pytest.raises(LogUnusable, match="cannot be trusted: it is not signed by"):
        opened(tmp_path, signer=Signer.generate("house.test/vestry"))


def test_a_checkpoint_of_another_log_of_the_house(tmp_path: Path) -> None:
    """Same key, other name."""
    home = written(tmp_path, 5)
    head = head_of(home)
    other = Checkpoint("house.test/vestry/cli", head.size, head.root)
    (home / "checkpoint").write_text(SIGNING.signer.of("cli").sign(other.text()))
    with pytest.raises(LogUnusable, match=r"it is not signed by house\.test/vestry/server"):
        opened(tmp_path)
    (home / "checkpoint").write_text(SIGNING.signer.of(ORIGIN).sign(other.text()))
    with pytest.raises(LogUnusable, match=r"it is a checkpoint of house\.test/vestry/cli"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"vestry", b"a\n1\nb\n\n", b"x" * 100_000])
def test_a_checkpoint_that_is_none(tmp_path: Path, content: bytes) -> None:
    """A sentence with the file's name."""
    home = written(tmp_path, 5)
    (home / "checkpoint").write_bytes(content)
    with pytest.raises(LogUnusable, match=f"{home}/checkpoint cannot be continued: "):
        opened(tmp_path)


def test_a_checkpoint_that_was_taken_away(tmp_path: Path) -> None:
    """Where older segments are gone, the journal alone does not begin at the beginning. (Where none is gone yet, the
    log is signed anew, from the records there; whether it is the same tree only a copy kept outside can tell.)
    """
    home = written(tmp_path, 100, segment=2000)
    opened(tmp_path).close()
    assert len(segments(home)) == 2
    (home / "checkpoint").unlink()
    with pytest.raises(LogDamaged, match="its first segment should begin with record 0 or before"):
        opened(tmp_path)


def test_an_older_copy_of_the_whole_log_opens(tmp_path: Path) -> None:
    """As the module says: rolled back as a whole, checkpoint and all, it shows against an outside copy alone."""
    home = written(tmp_path / "now", 10)
    shutil.copytree(tmp_path / "now", tmp_path / "old")
    opened(tmp_path / "now").close()
    newest = head_of(home)
    opened(tmp_path / "old").close()
    assert head_of(tmp_path / "old" / ORIGIN).size == newest.size
    assert head_of(tmp_path / "old" / ORIGIN).root != newest.root, "two trees of one size: a fork, for whoever has both"


def test_a_disk_that_fails_while_it_resumes(tmp_path: Path) -> None:
    """A sentence; the next start goes on."""
    home = written(tmp_path, 5, 1)
    files = FaultyFiles()
    (home / "checkpoint").rename(home / "aside")
    (home / "checkpoint").mkdir()
    with pytest.raises(LogUnusable, match=r"cannot be opened: .*Is a directory"):
        opened(tmp_path, files=files)
    (home / "checkpoint").rmdir()
    (home / "aside").rename(home / "checkpoint")
    opened(tmp_path).close()
    read(tmp_path)
