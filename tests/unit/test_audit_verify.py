"""Whatever is changed in a copy of the record is found, with its place, by both verifiers alike."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.alone import asked, both, first_bad
from support.audit_logs import (
    BEGAN,
    NAME,
    FastFiles,
    House,
    Log,
    bundle_of,
    calls,
    change,
    copied,
    flip,
    leaf,
    signer,
    tile_of,
)
from vestry.audit.canonical import encode
from vestry.audit.records import rfc3339
from vestry.audit.tlog.merkle import leaf_hash
from vestry.audit.tlog.notes import Checkpoint, split
from vestry.audit.tlog.tiles import Tiles, bundled, tile_path
from vestry.audit.tree import Tree
from vestry.audit.verify import house as verifier
from vestry.audit.verify.findings import BadInput, Report

SIZE = 1000


class Copy:
    """A house whose log `server` has 1000 records, six more beyond, and checkpoints at 300, 512 and 1000; and `cli`."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder / "audit")
        self.log = Log(self.house.directory, "server", self.house.signer)
        records = list(calls(SIZE + 6))
        self.log.add(records[:300]).checkpoint()
        self.log.add(records[300:512]).checkpoint()
        self.log.add(records[512:SIZE]).checkpoint()
        self.log.add(records[SIZE:])
        self.house.log("cli", 3)
        self.house.register("cli", "server")
        self.home, self.directory = self.log.home, self.house.directory

    def report(self, *checkpoints: str, registries: tuple[str, ...] = ()) -> Report:
        found = both(self.directory, self.house.key, *checkpoints, registries=registries)
        assert found is not None
        return found


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def kinds(report: Report) -> set[str]:
    return {each.kind for each in report.findings() if each.failure}


def test_a_good_copy(copy: Copy) -> None:
    """Both verifiers accept it; what is open and what is not covered is told."""
    report = copy.report(*copy.log.checkpoints)
    assert report.passed
    cli, server = report.logs
    assert (cli.size, server.size, server.beyond, server.first_kept) == (3, SIZE, 6, 0)
    assert (server.root, server.root_matches) == (Checkpoint.parse(split(copy.log.checkpoints[-1])[0]).root.hex(), True)
    assert {each.kind for each in server.findings} == {"intents-open", "not-covered"}
    assert server.open_request_ids == [f"req_{502:032x}"]
    assert server.types == {"server.start": 1, "intent": 503, "outcome": 502}
    assert server.began < server.ended


# One thing changed -------------------------------------------------------------------------------------------------


def other_record(leaves: list[bytes], place: int, *, index: int) -> None:
    leaves[place] = leaf({"type": "outcome", "request_id": "req_forged"}, index, "server")


def swapped(leaves: list[bytes], place: int) -> None:
    leaves[place], leaves[place + 1] = leaves[place + 1], leaves[place]


def removed(leaves: list[bytes], place: int) -> None:
    del leaves[place]


def one_byte(copy: Copy) -> None:
    change(copy.home, 700, lambda leaves, place: leaves.__setitem__(place, leaves[place].replace(b"radio", b"Radio")))


def with_its_tile(copy: Copy, *, all_above: bool = False) -> None:
    """A record, and all that would tell: its hash in the tile, and perhaps the tiles above, but no signature."""
    index = 700
    change(copy.home, index, partial(other_record, index=index))
    tree = Tree(copy.home, FastFiles())
    leaves = [each for _, each in Tiles(copy.home, SIZE).leaves()]
    if all_above:
        tree.add(leaves)
        tree.settle()
    else:
        path = tile_of(copy.home, 0, index // 256)
        data = bytearray(path.read_bytes())
        place = index % 256 * 32
        data[place : place + 32] = leaf_hash(leaves[index])
        path.write_bytes(data)


def without_journal(copy: Copy) -> None:
    for path in copy.home.glob("*.jsonl"):
        path.unlink()


def journal_line(copy: Copy, index: int, edit: Callable[[bytes], bytes]) -> None:
    """Edit the line of one record in the journal."""
    first = index - index % 300
    path = copy.home / f"{first:018d}.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[index - first] = edit(lines[index - first])
    path.write_bytes(b"\n".join(each for each in lines if each != b"GONE"))


def resigned(copy: Copy, seed: int, name: str = NAME) -> None:
    note = (copy.home / "checkpoint").read_text().split("\n\n")[0] + "\n"
    (copy.home / "checkpoint").write_text(signer(seed, name).of("server").sign(note))


def cut_bundles(copy: Copy) -> None:
    for number in (2, 3):
        path = bundle_of(copy.home, number * 256)
        path.unlink()


Damage = Callable[[Copy], object]
DAMAGES: dict[str, tuple[Damage, int | None, set[str]]] = {
    "one byte of a record": (one_byte, 700, {"record", "root", "journal-differs"}),
    "one bit of a bundle": (lambda c: flip(bundle_of(c.home, 0), 40), 0, {"record", "root", "not-canonical"}),
    "one bit of the length of a record": (lambda c: flip(bundle_of(c.home, 0), 1), 0, {"bundle"}),
    "a record replaced": (
        lambda c: change(c.home, 700, partial(other_record, index=700)),
        700,
        {"record", "root", "journal-differs"},
    ),
    "a record replaced, and its hash in the tile": (with_its_tile, 512, {"upper-tile", "root", "journal-differs"}),
    "a record replaced, and all tiles": (partial(with_its_tile, all_above=True), 700, {"root", "journal-differs"}),
    "two swapped": (lambda c: change(c.home, 400, swapped), 400, {"record", "root", "wrong-index"}),
    "one removed": (lambda c: change(c.home, 400, removed), 400, {"bundle", "wrong-index"}),
    "the last one removed": (lambda c: change(c.home, SIZE - 1, removed), SIZE - 1, {"bundle"}),
    "one inserted": (lambda c: change(c.home, 400, lambda x, at: x.insert(at, x[at])), 401, {"bundle"}),
    "a whole bundle removed": (lambda c: bundle_of(c.home, 256).unlink(), 256, {"bundle-missing"}),
    "the tail of the bundles cut": (cut_bundles, 512, {"bundle-missing"}),
    "the last bundle emptied": (lambda c: bundle_of(c.home, 999).write_bytes(b""), 768, {"bundle"}),
    "a tile changed": (lambda c: flip(tile_of(c.home, 0, 1), 32 * 10), 266, {"record"}),
    "a tile removed": (lambda c: tile_of(c.home, 0, 1).unlink(), 256, {"tile-missing"}),
    "a tile cut": (lambda c: os.truncate(tile_of(c.home, 0, 1), 100), 256, {"tile"}),
    "an upper tile changed": (lambda c: flip(tile_of(c.home, 1, 0), 70), 512, {"upper-tile"}),
    "an upper tile removed": (lambda c: tile_of(c.home, 1, 0).unlink(), 0, {"tile-missing"}),
    "an upper tile cut": (lambda c: os.truncate(tile_of(c.home, 1, 0), 64), 0, {"upper-tile"}),
    "the journal changed below the checkpoint": (
        lambda c: journal_line(c, 950, lambda line: line.replace(b"radio", b"Radio")),
        950,
        {"journal-differs"},
    ),
    "a line of the journal removed below the checkpoint": (
        lambda c: journal_line(c, 950, lambda _: b"GONE"),
        950,
        {"journal-differs"},
    ),
    "a line of the journal removed beyond": (
        lambda c: journal_line(c, 1002, lambda _: b"GONE"),
        1002,
        {"wrong-index"},
    ),
    "a line of the journal torn in the middle": (
        lambda c: journal_line(c, 1002, lambda line: line[:-5]),
        1002,
        {"journal-damaged"},
    ),
    "the journal cut below the checkpoint": (
        lambda c: os.truncate(c.home / f"{900:018d}.jsonl", 169 * 50),
        949,
        {"journal-short"},
    ),
    "a segment removed in the middle": (
        lambda c: (c.home / f"{600:018d}.jsonl").rename(c.home / f"{300:018d}.jsonl"),
        300,
        {"journal-differs", "journal-gap"},
    ),
    "the checkpoint removed": (lambda c: (c.home / "checkpoint").unlink(), None, {"checkpoint-missing"}),
    "the checkpoint torn": (lambda c: os.truncate(c.home / "checkpoint", 60), None, {"checkpoint-damaged"}),
    "the checkpoint signed by another key": (lambda c: resigned(c, 2), None, {"checkpoint-signature"}),
    "the checkpoint of another house": (lambda c: resigned(c, 1, "x.example"), None, {"checkpoint-signature"}),
    "one bit of the signed root": (
        lambda c: flip(c.home / "checkpoint", len(NAME) + 20),
        None,
        {"checkpoint-signature"},
    ),
    "the checkpoint of another log": (
        lambda c: shutil.copy(c.directory / "cli" / "checkpoint", c.home / "checkpoint"),
        None,
        {"checkpoint-signature"},
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_changed_is_found(copy: Copy, what: str) -> None:
    """Both verifiers say no, name the log and the same first bad index, and the other log is as good as before."""
    damage, index, expected = DAMAGES[what]
    damage(copy)
    report = copy.report()
    assert not report.passed
    assert first_bad(report) == {"server": index}
    assert expected <= kinds(report)
    assert all(each.origin == "server" for each in report.findings() if each.failure)


def test_the_journal_tells_the_place_that_the_tiles_do_not(copy: Copy) -> None:
    """A record of the tail that was replaced with all its tiles: the root fails, and the journal has the true one."""
    with_its_tile(copy, all_above=True)
    found = {each.kind: each.index for each in copy.report().findings() if each.failure}
    assert found["journal-differs"] == 700


def test_an_older_checkpoint_narrows_the_place(copy: Copy) -> None:
    """Where only the root fails, what an older checkpoint covers is known to be good."""
    with_its_tile(copy, all_above=True)
    without_journal(copy)
    assert first_bad(copy.report()) == {"server": 0}
    assert first_bad(copy.report(*copy.log.checkpoints[:2])) == {"server": 512}


# The registry, and whole logs --------------------------------------------------------------------------------------


def test_an_entry_of_the_registry_removed(copy: Copy) -> None:
    """Signed anew without one log: that log is unlisted, and its neighbour's start knew it."""
    copy.log.add([{"type": "server.start", "origins": ["cli", "server"]}])
    copy.house.register("server")
    report = copy.report()
    assert kinds(report) >= {"log-unlisted"}
    assert "cli" in first_bad(report)


def test_an_older_registry(copy: Copy) -> None:
    """A log and its entry both removed: the starts of another log still know it."""
    copy.log.add([{"type": "outcome", "request_id": f"req_{502:032x}"}, {"type": "server.start", "origins": ["cli"]}])
    shutil.rmtree(copy.directory / "cli")
    copy.house.register("server")
    report = copy.report()
    assert (kinds(report), first_bad(report)) == ({"registry-short"}, {"cli": None})


def test_a_whole_log_removed(copy: Copy) -> None:
    """The registry names it."""
    shutil.rmtree(copy.directory / "cli")
    report = copy.report()
    assert (kinds(report), first_bad(report)) == ({"log-missing"}, {"cli": 0})


def test_a_log_that_only_an_outside_checkpoint_knows(copy: Copy) -> None:
    """Registry and starts rolled back too: the checkpoint that was kept outside names the log."""
    kept = (copy.directory / "cli" / "checkpoint").read_text()
    shutil.rmtree(copy.directory / "cli")
    copy.house.register("server")
    assert copy.report().passed
    report = copy.report(kept)
    assert (kinds(report), first_bad(report)) == ({"log-missing"}, {"cli": 0})


def test_a_log_that_only_a_kept_registry_knows(copy: Copy) -> None:
    """Removed by who holds the key, with its entry; or begun anew under its old name: the kept registry names it."""
    older = (copy.directory / "origins").read_text()
    copy.house.log("late", 3)
    kept = (copy.directory / "origins").read_text()
    assert copy.report(registries=(older, kept)).passed
    again = copied(copy.directory / "late", copy.directory.parent / "again")
    shutil.rmtree(copy.directory / "late")
    (copy.directory / "origins").write_text(older)
    assert copy.report().passed
    report = copy.report(registries=(older, kept))
    assert (kinds(report), first_bad(report)) == ({"registry-short"}, {"late": None})
    copied(again, copy.directory / "late")
    text = split(kept)[0].replace(f"late {rfc3339(BEGAN)}", f"late {rfc3339(BEGAN + 1)}")
    (copy.directory / "origins").write_text(signer().sign(text))
    assert copy.report().passed
    report = copy.report(registries=(kept,))
    assert (kinds(report), first_bad(report)) == ({"registry-short"}, {"late": None})


def test_what_is_no_kept_registry(copy: Copy) -> None:
    """Of another house, changed, a checkpoint, or given for one log alone: bad input to both."""
    kept = (copy.directory / "origins").read_text()
    for each in (signer(2).sign(split(kept)[0]), kept.replace("cli ", "clj "), copy.log.checkpoints[0], "no note"):
        assert both(copy.directory, copy.house.key, registries=(each,)) is None
    assert both(copy.home, copy.house.key, registries=(kept,)) is None


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("registry-missing", lambda path: path.unlink()),
        ("registry-damaged", lambda path: path.write_text("nothing")),
        ("registry-damaged", lambda path: path.write_bytes(b"\xff")),
        ("registry-signature", lambda path: path.write_text(path.read_text().replace("2027-", "2026-"))),
        ("registry-damaged", lambda path: path.write_text(signer().sign("vestry origins v1\nelsewhere\n"))),
        ("registry-damaged", lambda path: path.write_text(signer().sign(f"vestry origins v1\n{NAME}\nserver now\n"))),
    ],
)
def test_a_registry_that_counts_for_nothing(copy: Copy, kind: str, edit: Callable[[Path], None]) -> None:
    """Missing, damaged, changed, of another house, malformed: a failure, whatever the logs are."""
    edit(copy.directory / "origins")
    report = copy.report()
    assert not report.passed
    assert kind in kinds(report)


def test_one_log_alone(copy: Copy) -> None:
    """The directory of one log is verified for itself, and it is said that the registry was not looked at."""
    report = both(copy.home, copy.house.key)
    assert report is not None
    assert (report.passed, report.alone, report.logs[0].origin) == (True, True, "server")
    one_byte(copy)
    report = both(copy.home, copy.house.key)
    assert report is not None
    assert first_bad(report) == {"server": 700}


# Older and outside checkpoints -------------------------------------------------------------------------------------


def test_rolled_back_to_an_older_copy(tmp_path: Path) -> None:
    """A copy of last week is good for itself; the checkpoint kept outside since says both sizes."""
    house = House(tmp_path / "audit")
    log = house.log("server", 500)
    old = copied(house.directory, tmp_path / "old")
    kept = log.add(list(calls(300))[1:]).checkpoint()
    assert both(house.directory, house.key, kept) is not None
    report = both(old, house.key)
    assert report is not None
    assert report.passed
    report = both(old, house.key, kept)
    assert report is not None
    assert first_bad(report) == {"server": 500}
    (finding,) = [each for each in report.findings() if each.failure]
    assert (finding.kind, finding.expected, finding.found) == ("rolled-back", "799 records", "500 records")


def test_rewritten_and_signed_again(copy: Copy) -> None:
    """Whoever has the key can sign another history; not one that agrees with a checkpoint kept outside."""
    kept = copy.log.checkpoints[1]
    shutil.rmtree(copy.home)
    forged = Log(copy.directory, "server", copy.house.signer)
    records = list(calls(SIZE))
    records[200] = {**records[200], "tenant": "nobody"}
    forged.add(records).checkpoint()
    assert copy.report().passed
    report = copy.report(kept)
    assert (kinds(report), first_bad(report)) == ({"checkpoint-differs"}, {"server": 0})
    assert first_bad(copy.report(*copy.log.checkpoints)) == {"server": 0}


@pytest.mark.parametrize("size", [512, SIZE, SIZE + 6])
def test_two_histories_of_one_size(copy: Copy, size: int) -> None:
    """Kept checkpoints may be of a log that was rewritten, and of this one, with as many records: they part after the
    last smaller one, whichever is given first.
    """
    key, smaller = copy.log.key, {512: 300, SIZE: 512, SIZE + 6: SIZE}
    good = [*copy.log.checkpoints, key.sign(Checkpoint(key.public.name, SIZE + 6, copy.log.tree.root()).text())]
    for filling in range(8):
        other = key.sign(Checkpoint(key.public.name, size, bytes([filling]) * 32).text())
        for kept in ([other, *good], [*good, other]):
            report = copy.report(*kept)
            assert (kinds(report), first_bad(report)) == ({"checkpoint-differs"}, {"server": smaller[size]})


def test_the_root_of_a_rewritten_log_beside_a_kept_checkpoint_of_its_size(copy: Copy) -> None:
    """The checkpoint in the copy was signed for another history than the records are of: they part before its end."""
    key = copy.log.key
    (copy.home / "checkpoint").write_text(key.sign(Checkpoint(key.public.name, SIZE, bytes(32)).text()))
    report = copy.report(*copy.log.checkpoints)
    assert (kinds(report), first_bad(report)) == ({"root"}, {"server": 512})


def test_a_newer_checkpoint_covers_the_journal(copy: Copy) -> None:
    """A checkpoint kept outside may be newer than the copy's own: the journal has the records it covers."""
    kept = copy.log.key.sign(Checkpoint(copy.log.key.public.name, SIZE + 6, copy.log.tree.root()).text())
    assert copy.report(kept).passed
    journal_line(copy, 1002, lambda line: line.replace(b"radio", b"Radio"))
    report = copy.report(kept)
    assert (kinds(report), first_bad(report)) == ({"checkpoint-differs"}, {"server": SIZE})


@pytest.mark.parametrize("tiles", ["older", "newer"])
@pytest.mark.parametrize(("covered", "signed"), [(255, 256), (1, 300), (600, 768), (600, 780), (100, 1100)])
def test_a_newer_checkpoint_over_more_than_a_group(tmp_path: Path, covered: int, signed: int, tiles: str) -> None:
    """Of what is beyond the copy's own checkpoint the records of the journal count: not tiles that were copied later,
    nor that there are none yet.
    """
    house = House(tmp_path / "audit")
    log = house.log("server", covered, segment=2000)
    own = copied(log.home / "tile", tmp_path / "tile")
    log.add({"type": "x"} for _ in range(signed - covered))
    note = log.checkpoint()
    (log.home / "checkpoint").write_text(log.checkpoints[0])
    if tiles == "older":
        shutil.rmtree(log.home / "tile")
        own.rename(log.home / "tile")
    report = both(house.directory, house.key, note)
    assert report is not None
    assert report.passed
    [journal] = log.home.glob("*.jsonl")
    journal.write_bytes(journal.read_bytes().replace(b'"type":"x"', b'"type":"y"'))
    report = both(house.directory, house.key, note)
    assert report is not None
    assert kinds(report) == {"checkpoint-differs"}


def test_checkpoints_that_cannot_be_compared_with(copy: Copy, tmp_path: Path) -> None:
    """Of another key, of another house, or no checkpoint at all: bad input, not a verdict."""
    other = House(tmp_path / "other", seed=2).log("server", 10)
    for note in (other.checkpoints[0], "nothing\n", signer(1, "x.example").sign("x.example\n1\n" + "A" * 43 + "=\n")):
        assert both(copy.directory, copy.house.key, note) is None
    assert both(copy.home, copy.house.key, (copy.directory / "cli" / "checkpoint").read_text()) is None


# Pruning -----------------------------------------------------------------------------------------------------------


def pruned(folder: Path, minimum: int) -> tuple[House, Log]:
    house = House(folder / "audit")
    log = house.log("server", 2000, segment=500)
    log.prune(minimum)
    return house, log


@pytest.mark.parametrize("allowed", [True, False])
def test_a_copy_that_was_taken_while_records_went(tmp_path: Path, allowed: bool) -> None:
    """Of what was pruned meanwhile some may be there, with a hole behind it: a call whose outcome went is none that a
    restart left open, and the log is kept from where all of it is there. A hole that no pruning allows is told alone.
    """
    house = House(tmp_path / "audit")
    log = house.log("server", 1500)
    log.add([{"type": "outcome", "request_id": f"req_{749:032x}"}, {"type": "server.start", "origins": ["server"]}])
    copied(log.home / "tile", tmp_path / "tile")
    log.prune(1024 if allowed else 768)
    if not allowed:
        bundle_of(log.home, 768).unlink()
    for path in (tile_path("entries", 2), tile_path(0, 2)):
        shutil.copy(tmp_path / path, log.home / path)
    report = both(house.directory, house.key)
    assert report is not None
    assert kinds(report) == (set() if allowed else {"bundle-missing"})
    assert first_bad(report) == ({} if allowed else {"server": 768})
    assert report.logs[0].first_kept == (1024 if allowed else 512)
    assert asked(str(house.directory), "--public-key", str(house.key))[1].count(
        f"those below {report.logs[0].first_kept} not here"
    )


def test_a_copy_without_its_last_bundle(tmp_path: Path) -> None:
    """As one that was taken while the server wrote: that is all it is told of, and not of a call whose outcome was in
    that bundle, though the server started again behind it.
    """
    house = House(tmp_path / "audit")
    log = house.log("server", 300)
    log.add([{"type": "outcome", "request_id": f"req_{149:032x}"}, {"type": "server.start", "origins": ["server"]}])
    bundle_of(log.home, 299).unlink()
    report = both(house.directory, house.key)
    assert report is not None
    assert (kinds(report), first_bad(report)) == ({"bundle-missing"}, {"server": 256})


def test_what_was_pruned_by_a_record_may_be_missing(tmp_path: Path) -> None:
    """Proofs and roots of what is kept stay good; checkpoints from before the kept part cannot be compared any more."""
    house, log = pruned(tmp_path, 768)
    report = both(house.directory, house.key, *log.checkpoints)
    assert report is not None
    assert report.passed
    assert report.logs[0].first_kept == 768
    assert "pruned" in {each.kind for each in report.logs[0].findings}
    early = log.key.sign(Checkpoint(log.key.public.name, 100, bytes(32)).text())
    report = both(house.directory, house.key, early)
    assert report is not None
    assert kinds(report) == {"checkpoint-unknown"}


@pytest.mark.parametrize("number", [3, 4, 7])
def test_more_missing_than_was_pruned(tmp_path: Path, number: int) -> None:
    """The first record that should be there is named."""
    house, log = pruned(tmp_path, 768)
    (log.home / tile_path("entries", number, 256 if number < 7 else 209)).unlink()
    report = both(house.directory, house.key)
    assert report is not None
    # The record of the pruning stands in the last bundle: without that, nothing says what may be missing.
    assert first_bad(report) == {"server": number * 256 if number < 7 else 0}


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"\xff"), lambda path: path.mkdir()])
def test_a_group_of_which_nothing_can_be_read(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """The tile above has the hash of bundle and tile: so the root and the pruning count, and the place is told."""
    house, log = pruned(tmp_path, 768)
    for level in (0, "entries"):
        path = log.home / tile_path(level, 5)
        path.unlink()
        spoil(path)
    report = both(house.directory, house.key, log.checkpoints[-1])
    assert report is not None
    assert report.logs[0].root_matches
    assert first_bad(report) == {"server": 5 * 256}


def test_a_directory_in_the_place_of_a_bundle(tmp_path: Path) -> None:
    """It is no missing bundle, of which nothing would be looked at: the tiles over it are compared as ever."""
    house, log = pruned(tmp_path, 768)
    path = log.home / tile_path("entries", 5)
    path.unlink()
    path.mkdir()
    flip(tile_of(log.home, 1, 0), 32 * 5)
    report = both(house.directory, house.key)
    assert report is not None
    assert kinds(report) == {"bundle", "upper-tile"}
    assert first_bad(report) == {"server": 5 * 256}


def test_missing_without_a_pruning(tmp_path: Path) -> None:
    """A prefix that is missing is a failure, if no signed record of the log says that it may be."""
    house = House(tmp_path / "audit")
    log = house.log("server", 2000)
    log.add([{"type": "log.prune", "minimum_index": 768, "cause": "retention"}])  # not covered by a checkpoint
    for number in range(3):
        (log.home / tile_path("entries", number)).unlink()
    report = both(house.directory, house.key)
    assert report is not None
    assert (kinds(report), first_bad(report)) == ({"bundle-missing"}, {"server": 0})


def test_a_pruning_that_stopped_half_way(tmp_path: Path) -> None:
    """Some of what may be missing is still there: it is verified like the rest."""
    house, log = pruned(tmp_path, 768)
    good = House(tmp_path / "good").log("server", 2000)
    for level in (0, "entries"):
        shutil.copy(good.home / tile_path(level, 1), log.home / tile_path(level, 1))
    report = both(house.directory, house.key)
    assert report is not None
    assert report.passed
    change(log.home, 300, swapped)
    report = both(house.directory, house.key)
    assert report is not None
    # Where the root fails, the record of the pruning proves nothing either.
    assert first_bad(report) == {"server": 0}
    assert 300 in {each.index for each in report.findings() if each.kind == "record"}


@pytest.mark.parametrize("minimum", [100, -256, "768", 2560, None, True])
def test_a_pruning_that_says_nothing_valid(tmp_path: Path, minimum: object) -> None:
    """A `minimum_index` that is no multiple of 256, or lies beyond its own record, allows nothing."""
    house = House(tmp_path / "audit")
    log = house.log("server", 1000)
    log.add([{"type": "log.prune", "minimum_index": minimum}]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert (kinds(report), first_bad(report)) == ({"wrong-pruning"}, {"server": 1000})


# What records say --------------------------------------------------------------------------------------------------


def test_intents_that_a_start_did_not_close(tmp_path: Path) -> None:
    """Opening a log closes what a crash left open: an intent open across a start was tampered with, or never closed."""
    house = House(tmp_path / "audit")
    log = house.log("server", 10)
    log.add([{"type": "server.start", "origins": ["server"]}]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert (kinds(report), first_bad(report)) == ({"intent-not-closed"}, {"server": 9})
    log = house.log("cli", 10)
    closed = {"type": "intent.closed", "request_id": f"req_{4:032x}"}
    log.add([closed, {"type": "server.start", "origins": ["server"]}]).checkpoint()
    report = both(log.home, house.key)
    assert report is not None
    assert report.passed


BAD_LEAVES = {
    "no JSON": b"{",
    "no object": b"[1]",
    "spaces": b'{"index": 10}',
    "unsorted": b'{"origin":"server","index":10}',
    "a fraction": encode({"index": 10, "origin": "server"})[:-1] + b',"z":1.5}',
    "a great integer": encode({"index": 10, "origin": "server"})[:-1] + b',"z":9007199254740993}',
    "doubled": b'{"index":10,"index":10,"origin":"server"}',
    "deep": b'{"index":10,"origin":"server","z":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deeper than a record": b'{"index":10,"origin":"server","z":' + b"[" * 17 + b"]" * 17 + b"}",
    "a surrogate": b'{"index":10,"origin":"server","z":"\\ud800"}',
    "no UTF-8": b'{"index":10,"origin":"server","z":"\xff"}',
    "escaped needlessly": b'{"index":10,"origin":"server","z":"\\u0041"}',
    "a strange key": '{"index":10,"origin":"server","\u00e4":1}'.encode(),
    "nothing": b"",
    "another index": leaf({"type": "x"}, 11, "server"),
    "an index that is true": leaf({"type": "x"}, 10, "server").replace(b'"index":10', b'"index":true'),
    "another origin": leaf({"type": "x"}, 10, "cli"),
    "no time": encode({"index": 10, "origin": "server", "time": "now", "type": "x"}),
}


@pytest.mark.parametrize("what", BAD_LEAVES)
def test_a_leaf_that_is_no_record_of_this_place(tmp_path: Path, what: str) -> None:
    """Even signed, every leaf must be canonical JSON, with its own index and origin, and a time."""
    house = House(tmp_path / "audit")
    log = house.log("server", 10)
    log.tree.add([BAD_LEAVES[what]])
    with (log.home / f"{0:018d}.jsonl").open("ab") as file:
        file.write(BAD_LEAVES[what] + b"\n")
    log.checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert first_bad(report) == {"server": 10}


def test_a_clock_that_goes_back(tmp_path: Path) -> None:
    """More than 10 s back without a `clock.jump` is told, and is no failure; with one it is explained."""
    house = House(tmp_path / "audit")
    log = house.log("server", 10)
    early = {"type": "x", "time": "2027-01-15T07:00:00.000000Z"}
    log.add([early, {"type": "clock.jump", "time": early["time"]}, early]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert [(each.kind, each.index) for each in report.logs[0].findings if each.kind == "time-back"] == [
        ("time-back", 10)
    ]
    assert report.passed


@pytest.mark.parametrize("jumped", [-60, 60])
def test_records_that_waited_as_the_clock_was_set(tmp_path: Path, jumped: int) -> None:
    """They stand behind the `clock.jump` with times from before it, which is no fault. A second step is."""
    house = House(tmp_path / "audit")

    def of(kind: str, seconds: float) -> dict[str, str]:
        return {"type": kind, "time": rfc3339(BEGAN + round(seconds * 1_000_000))}

    log = house.log("server", 10)
    log.add([of("x", 1), of("clock.jump", 1 + jumped), of("x", 1.1), of("x", 1.2 + jumped), of("x", 1.15)])
    log.add([of("x", jumped + 12), of("x", jumped + 30), of("x", jumped + 15)]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert [each.index for each in report.logs[0].findings if each.kind == "time-back"] == [17]


@pytest.mark.parametrize(("kind", "jumped"), [("segment.begin", 86_460), ("log.recovered", -60)])
def test_what_is_written_ahead_of_the_jump(tmp_path: Path, kind: str, jumped: int) -> None:
    """A segment that begins as the clock is set a day ahead, and the end of an outage during which it was set back,
    stand before the `clock.jump`: no fault, nor are those that waited. Without a `clock.jump` it is told.
    """
    house = House(tmp_path / "audit")

    def of(kind: str, seconds: float) -> dict[str, str]:
        return {"type": kind, "time": rfc3339(BEGAN + round(seconds * 1_000_000))}

    log = house.log("server", 10)
    log.add([of("x", 1), of(kind, 1 + jumped), of("clock.jump", 1 + jumped), of("x", 1.1), of("x", 1.2 + jumped)])
    log.add([of("x", jumped + 30), of(kind, jumped + 15), of("x", jumped + 15)]).checkpoint()
    report = both(house.directory, house.key)
    assert report is not None
    assert [each.index for each in report.logs[0].findings if each.kind == "time-back"] == [17]


# The journal's end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"{", b'{"index":1006', b"\x00" * 4096, b'{"index":1006}\n', b"x" * 1000 + b"\ny"])
def test_a_torn_tail_is_told(copy: Copy, tail: bytes) -> None:
    """What a crash can leave behind the last record is no failure, and is not counted."""
    with (copy.home / f"{900:018d}.jsonl").open("ab") as file:
        file.write(tail)
    report = copy.report()
    expected = tail != b'{"index":1006}\n'
    assert report.passed == expected
    assert report.logs[1].beyond == 6


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "tail", [b"x" * (1 << 21), b"\n" * 1_200_000, (b"y" * 1000 + b"\n") * 1200, b"z" * 70_000 + b"\n"]
)
def test_more_than_a_crash_can_leave(copy: Copy, tail: bytes) -> None:
    """More than one batch without a record is damage."""
    with (copy.home / f"{900:018d}.jsonl").open("ab") as file:
        file.write(tail)
    assert first_bad(copy.report()) == {"server": SIZE + 6}


def test_without_a_journal(copy: Copy) -> None:
    """A copy of the tiles alone, as a web server gives them, is verified as far as the checkpoint."""
    without_journal(copy)
    report = copy.report()
    assert report.passed
    assert report.logs[1].beyond == 0


# Hostile copies ----------------------------------------------------------------------------------------------------


def test_files_that_are_none(copy: Copy) -> None:
    """A pipe in place of a bundle, a directory in place of a tile, a link to a device: nothing hangs or is read."""
    path = bundle_of(copy.home, 0)
    path.unlink()
    os.mkfifo(path)
    tile = tile_of(copy.home, 0, 1)
    tile.unlink()
    tile.mkdir()
    tile_of(copy.home, 0, 2).unlink()
    tile_of_2 = copy.home / tile_path(0, 2)
    tile_of_2.symlink_to("/dev/zero")
    os.mkfifo(copy.home / f"{1500:018d}.jsonl")
    report = copy.report()
    assert first_bad(report) == {"server": 0}
    assert kinds(report) >= {"bundle", "tile"}


def test_a_log_that_says_it_is_enormous(tmp_path: Path) -> None:
    """A signed size of 10^15 with nothing behind it is answered at once."""
    house = House(tmp_path / "audit")
    log = house.log("server", 10)
    (log.home / "checkpoint").write_text(log.key.sign(Checkpoint(log.key.public.name, 10**15, bytes(32)).text()))
    report = both(house.directory, house.key)
    assert report is not None
    assert not report.passed


def test_links_in_a_circle(copy: Copy) -> None:
    """Links between directories are not followed."""
    for name in ("a", "b", "c"):
        (copy.home / name).symlink_to(copy.directory)
    assert copy.report().passed


def test_files_that_are_too_large(copy: Copy) -> None:
    """No more of a file is read than it may have."""
    os.truncate(copy.home / "checkpoint", 1 << 40)
    os.truncate(bundle_of(copy.home, 0), 1 << 40)
    os.truncate(tile_of(copy.home, 0, 0), 1 << 40)
    report = copy.report()
    assert not report.passed
    assert kinds(report) >= {"checkpoint-damaged"}


# Bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_verified_at_all(copy: Copy, tmp_path: Path) -> None:
    """No directory, an empty one, a file, and a key of another house: both refuse."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(BadInput, match=r"no (audit )?directory"):
            verifier.verify(path, copy.house.key)
        assert asked(str(path), "--public-key", str(copy.house.key))[0] == 2
    assert both(copy.directory, signer(2).public) is None
    assert both(copy.directory, signer(1, "x.example").public) is None


def test_a_folder_above_the_copy(copy: Copy, tmp_path: Path) -> None:
    """It is no log that fails: both say what to give instead, of the copies of several houses all."""
    evidence, key = tmp_path / "evidence", str(copy.house.key)
    for house in ("bank", "hospital"):
        copied(copy.directory, evidence / house / "audit")
    for place, named in ((evidence, ("bank/audit", "hospital/audit")), (evidence / "bank", ("audit",))):
        with pytest.raises(BadInput) as refused:
            verifier.verify(place, copy.house.key)
        status, _, err = asked(str(place), "--public-key", key)
        assert status == 2
        for said in (str(refused.value), err):
            assert all(each in said for each in ("is no audit directory", *named)), said
    (evidence / "bank/audit/origins").unlink()
    report = both(evidence / "bank", copy.house.key)
    assert report is not None
    assert "registry-missing" in kinds(report)


def test_the_progress_adds_up(copy: Copy) -> None:
    """What is reported as looked at is what the checkpoints cover."""
    steps: list[tuple[int, str]] = []
    verifier.verify(copy.directory, copy.house.key, progress=lambda many, origin: steps.append((many, origin)))
    assert sum(many for many, _ in steps) == verifier.sizes(copy.directory) == SIZE + 3
    assert {origin for _, origin in steps} == {"cli", "server"}


# Any change at all -------------------------------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bit_of_what_is_covered(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any bit of any bundle, tile, checkpoint or registry that is flipped is found by both, at the same place."""
    folder = tmp_path_factory.mktemp("any")
    house = House(folder / "audit")
    house.log("server", data.draw(st.sampled_from([1, 5, 256, 300, 513])))
    house.log("cli", 2)
    files = sorted(each for each in house.directory.rglob("*") if each.is_file() and each.suffix != ".jsonl")
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)
    report = both(house.directory, house.key)
    assert report is None or not report.passed
    shutil.rmtree(folder)


@pytest.mark.unmeasured
def test_seventy_thousand_records(tmp_path: Path) -> None:
    """Three levels of tiles: good; then one record, and one hash of each upper level, are found at their places."""
    house = House(tmp_path / "audit")
    log = house.log("server", 70_000, segment=10_000)
    assert json.loads(asked(str(house.directory), "--public-key", str(house.key), "--json")[1])["passed"]
    assert verifier.verify(house.directory, house.key).passed
    flip(tile_of(log.home, 2, 0), 3)
    flip(tile_of(log.home, 1, 1), 32 * 5)
    change(log.home, 69_000, swapped)
    report = both(house.directory, house.key)
    assert report is not None
    found = {each.kind: each.index for each in report.findings() if each.failure and each.kind != "root"}
    assert found["upper-tile"] in {0, 65_536 + 5 * 256}
    assert first_bad(report) == {"server": 0}
    assert any(each.index == 69_000 for each in report.findings())


def test_bundles_are_as_the_specification_has_them() -> None:
    """A record's length stands before it in two bytes, big-endian."""
    assert bundled(b"x" * 258) == b"\x01\x02" + b"x" * 258
