"""Records are read while their server goes on writing: what the notary moves under a reader is no damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.logs import LogMaker
from vestry.audit import scan
from vestry.audit.files import Files
from vestry.audit.pruning import remove
from vestry.audit.reading import LogReader, journal
from vestry.audit.scan import LogDamaged
from vestry.audit.tlog.tiles import TileMissing


def several(log: LogMaker) -> list[Path]:
    """Segments of two hundred records each, which no checkpoint covers."""
    for _ in range(4):
        log.add_calls(100)
    assert len(scan.segments(log.home)) > 3
    return scan.segments(log.home)


def grow(log: LogMaker) -> None:
    """So far that every segment that there was is covered, and gone."""
    before = scan.segments(log.home)
    for _ in range(4):
        log.add_calls(100)
        log.checkpoint()
    assert not set(before) & set(scan.segments(log.home))


def test_segments_that_go_under_a_reader_cost_it_no_record(tmp_path: Path) -> None:
    """Stopped among the tiles or among the segments: each record that there was comes once."""
    with LogMaker(tmp_path, segment_bytes=1 << 16) as log:
        log.add_calls(60)
        log.checkpoint()
        several(log)
        there = log.store.next_index
        among_tiles, among_segments = LogReader(log.home).leaves(), LogReader(log.home).leaves()
        read = [[next(among_tiles)[0] for _ in range(50)], [next(among_segments)[0] for _ in range(150)]]
        grow(log)
        for seen, leaves in zip(read, (among_tiles, among_segments), strict=True):
            seen += [index for index, _ in leaves]
            assert seen == list(range(len(seen)))
            assert len(seen) >= there


def test_a_segment_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """Whoever reads only the journal gets what is left of it, in its place."""
    with LogMaker(tmp_path, segment_bytes=1 << 16) as log:
        several(log)
        leaves = journal(log.home)
        first = next(leaves)[0]
        grow(log)
        left = [index for index, _ in leaves]
        assert first == 0
        assert left == sorted(left)


def test_what_is_missing_without_a_newer_checkpoint_is_damage(tmp_path: Path) -> None:
    """It is told at once, and not looked for again and again."""
    with LogMaker(tmp_path, segment_bytes=1 << 16) as log:
        middle = several(log)[1]
        middle.rename(tmp_path / "aside")
        with pytest.raises(LogDamaged, match=f"record {scan.first_index(middle)} is missing"):
            list(LogReader(log.home).leaves())
        (tmp_path / "aside").rename(middle)
        log.checkpoint()
        (log.home / "tile/entries/001").unlink()
        with pytest.raises(TileMissing, match="entries/001 is missing"):
            list(LogReader(log.home).leaves())


def test_records_that_are_pruned_under_a_reader_are_left_out(tmp_path: Path) -> None:
    """Whoever reads goes on where the log begins by then."""
    with LogMaker(tmp_path) as log:
        log.add_calls(1000)
        log.checkpoint()
        leaves = LogReader(log.home).leaves()
        first = next(leaves)[0]
        remove(log.home, 0, 1024, Files())
        read = [first, *(index for index, _ in leaves)]
        assert read == [*range(256), *range(1024, log.store.next_index)]
