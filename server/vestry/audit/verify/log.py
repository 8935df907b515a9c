"""Verifies one log: everything that its checkpoint covers, then what the journal holds beyond it.

The root is computed from the records alone. Tiles are compared with what the records give, so that the place of a
fault can be named where the tiles still tell it; which side is wrong, the signed root decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestry.audit.canonical import clean
from vestry.audit.tlog.merkle import HASH_BYTES, leaf_hash, whole
from vestry.audit.tlog.notes import Checkpoint
from vestry.audit.tlog.tiles import BUNDLE_BYTES, HEIGHT, WIDTH, hashes_of, tile_path, unbundled
from vestry.audit.verify import disk
from vestry.audit.verify.chronicle import LISTED, NAMED, Chronicle, record_of
from vestry.audit.verify.disk import Unreadable
from vestry.audit.verify.findings import Findings, LogReport, Progress
from vestry.audit.verify.frontier import Frontier, Upper
from vestry.audit.verify.journal import Journal, excerpt


class LogVerifier:
    """One log under the directory `home`. `head` is what its checkpoint says, verified already, or None where there is
    none that counts; `others` are older and outside checkpoints of this log, verified too.
    """

    def __init__(
        self,
        home: Path,
        origin: str,
        head: Checkpoint | None,
        findings: Findings,
        *,
        others: Sequence[Checkpoint] = (),
        progress: Progress | None = None,
    ) -> None:
        self._home, self._origin, self._head, self._findings = home, origin, head, findings
        self._size = 0 if head is None else head.size
        self._others = sorted(others, key=lambda each: each.size)
        self._progress = progress or (lambda _records, _origin: None)
        self.chronicle = Chronicle(origin, findings)
        self._journal = Journal(home, findings)
        self._upper = Upper(home, self._size, findings)
        self._tree, self._tiles = Frontier(), Frontier()
        self._whole = True
        self._matched = False
        self._trusted: set[int] = set()
        self._at: list[tuple[Checkpoint, bytes | None]] = []
        self._first_kept = 0
        self._gaps: list[tuple[int, int]] = []

    def run(self) -> LogReport:
        """The verdict. Reads the log once."""
        self._at = [(each, self._tree.root()) for each in self._others if each.size == 0]
        whole_groups = self._size // WIDTH
        group = 0
        for found in disk.whole_bundles(self._home, whole_groups):
            self._gap(group, found)
            self._group(found, WIDTH)
            group = found + 1
        self._gap(group, whole_groups)
        if self._size % WIDTH:
            self._group(whole_groups, self._size % WIDTH)
        self._upper.finish()
        self._matched = self._head is not None and self._whole and self._tree.root() == self._head.root
        self._compare_others()
        self._compare_root()
        pruned = self.chronicle.pruned if self._matched else 0
        self._findings.judge_holes(pruned)
        self._first_kept = max((end for start, end in self._gaps if start == 0 or end <= pruned), default=0)
        beyond = self._beyond()
        self._rolled_back()
        return self._report(beyond)

    # What the checkpoint covers

    def _group(self, group: int, width: int) -> None:
        """One bundle and the tile over it."""
        start = group * WIDTH
        tile = self._tile(group, width)
        leaves = self._bundle(group, width)
        if not leaves:
            self.chronicle.open.clear()  # as in a gap
        if len(leaves) == width:
            hashes = [leaf_hash(leaf) for leaf in leaves]
            self._compare(start, leaves, hashes, tile)
            self._grow(start, hashes, tile or hashes)
        elif tile is not None:
            self._grow(start, tile, tile)
        else:
            self._bridge(group, group + 1, whole=width == WIDTH)
        for place, leaf in enumerate(leaves):
            if self.chronicle.take(start + place, leaf):
                self._journal.compare(start + place, leaf)
        self._progress(width, self._origin)

    def _compare(self, start: int, leaves: list[bytes], hashes: list[bytes], tile: list[bytes] | None) -> None:
        if tile is None or hashes == tile:
            return
        for place, (own, said) in enumerate(zip(hashes, tile, strict=True)):
            if own != said:
                self._findings.fail(
                    "record",
                    f"Record {start + place} does not hash to what tile {tile_path(0, start // WIDTH)} has of it.",
                    start + place,
                    f"a record with the hash {said.hex()}",
                    excerpt(leaves[place]) + f", hash {own.hex()}",
                )

    def _grow(self, start: int, hashes: list[bytes], tile: list[bytes]) -> None:
        """Both trees take the group; older checkpoints whose size lies in it are looked at."""
        for other in self._others:
            if start < other.size <= start + len(hashes) and (other.size < start + WIDTH):
                until = self._tree.copy()
                for each in hashes[: other.size - start]:
                    until.push(0, each)
                self._agree(other, until)
        if len(hashes) == WIDTH:
            own = whole(hashes)
            said = own if tile == hashes else whole(tile)
            self._tree.push(HEIGHT, own)
            self._tiles.push(HEIGHT, said)
            self._upper.put(1, start // WIDTH, own, said)
            for other in self._others:
                if other.size == start + WIDTH:
                    self._agree(other, self._tree)
            return
        for mine, theirs in zip(hashes, tile, strict=True):
            self._tree.push(0, mine)
            self._tiles.push(0, theirs)

    def _gap(self, group: int, until: int) -> None:
        """Bundles that are not there: whether they may be missing is judged later; the tiles give the hashes."""
        if group == until:
            return
        self._findings.missing("bundle", self._home / tile_path("entries", group), group * WIDTH, until * WIDTH)
        self.chronicle.open.clear()  # their outcomes may be in what is missing
        self._gaps.append((group * WIDTH, until * WIDTH))
        self._bridge(group, until)
        self._progress((until - group) * WIDTH, self._origin)

    def _bridge(self, group: int, until: int, *, whole: bool = True) -> None:
        """Groups whose own hashes are not there: both trees take what the tiles above have of them, if they have it.

        Nothing is above the last group where it is not `whole`.
        """
        if not whole:
            self._whole = False
            return
        for other in self._others:
            if group * WIDTH < other.size < until * WIDTH:
                self._at.append((other, None))
        at = group
        while at < until:
            level = min((at & -at).bit_length() - 1 if at else 63, (until - at).bit_length() - 1)
            value = self._upper.subtree(HEIGHT + level, at >> level)
            if value is None:
                self._whole = False
                break
            self._tree.push(HEIGHT + level, value)
            self._tiles.push(HEIGHT + level, value)
            at += 1 << level
        for other in self._others:
            if other.size == until * WIDTH:
                self._agree(other, self._tree)

    def _tile(self, group: int, width: int) -> list[bytes] | None:
        """The lowest tile over a group; None for one that is missing or is no tile, which is reported."""
        start = group * WIDTH
        try:
            data, path = disk.tile(self._home, 0, group, width)
        except Unreadable as error:
            self._findings.fail("tile", f"{error}; it should be the tile of record {start} and on.", start)
            return None
        if data is None:
            self._findings.missing("tile", path, start, start + width)
            return None
        if len(data) < width * HASH_BYTES or len(data) % HASH_BYTES:
            self._findings.fail(
                "tile", f"{path} is no tile.", start, f"{width * HASH_BYTES} bytes", f"{len(data)} bytes"
            )
            return None
        return hashes_of(data[: width * HASH_BYTES])

    def _bundle(self, group: int, width: int) -> list[bytes]:
        """The records of a group; fewer where the bundle is missing or damaged, which is reported."""
        start = group * WIDTH
        try:
            data, path = disk.tile(self._home, "entries", group, width, limit=BUNDLE_BYTES)
        except Unreadable as error:
            self._findings.fail("bundle", f"{error}; it should hold record {start} and on.", start)
            return []
        if data is None:
            self._findings.missing("bundle", path, start, start + width)
            return []
        leaves, sound = _records(data)
        most = WIDTH if path == self._home / tile_path("entries", group) else width
        if len(leaves) < width or len(leaves) > most or not sound:
            self._findings.fail(
                "bundle",
                f"{path} does not hold whole records, {width} of them.",
                start + min(len(leaves), width),
                f"{width} records",
                f"{len(leaves)} records" + ("" if sound else " and a part of one"),
            )
        return leaves[:width]

    # Roots

    def _compare_root(self) -> None:
        """The recomputed root against the signed one; says which side is wrong, and where at the earliest."""
        head, failing = self._head, self._findings
        if head is None:
            return
        if self._matched:
            self._trusted.add(head.size)
            return
        if not self._whole:
            failing.fail(
                "root", f"The root of {head.size} records cannot be computed: files are missing.", failing.first_bad
            )
            return
        first = self._agreed(head.size) if failing.first_bad is None else failing.first_bad
        if self._tiles.root() == head.root:
            blame = "The tiles are those that were signed; the records are not."
        elif failing.first_bad is not None:
            blame = "Neither the records nor the tiles are those that were signed."
        else:
            blame = f"Records and tiles agree with each other, so what was changed is in {first} to {head.size - 1}."
        failing.fail(
            "root",
            f"The records do not have the root that was signed for {head.size} of them. {blame}",
            first,
            head.root.hex(),
            self._tree.root().hex(),
        )

    def _compare_others(self) -> None:
        """Older and outside checkpoints against the tree as it was at their sizes."""
        for other, root in self._at:
            if root is None:
                self._findings.fail(
                    "checkpoint-unknown",
                    f"A checkpoint of {other.size} records cannot be compared: records up to there were pruned, or are "
                    "missing. Compare with a later one.",
                    None,
                    other.root.hex(),
                    "no tree of this size",
                )
            elif root == other.root:
                self._trusted.add(other.size)
            else:
                bad, agreed = self._findings.first_bad, self._agreed(other.size)
                self._findings.fail(
                    "checkpoint-differs",
                    f"A checkpoint of {other.size} records that was signed has another root than the first "
                    f"{other.size} records here: what was signed then was changed, from {agreed} on.",
                    agreed if bad is None else bad,
                    other.root.hex(),
                    root.hex(),
                )
        self._at.clear()

    def _agreed(self, size: int) -> int:
        """Up to where a smaller checkpoint agrees: one of this size, of another history, says nothing of this one."""
        return max((each for each in self._trusted if each < size), default=0)

    def _agree(self, other: Checkpoint, tree: Frontier) -> None:
        self._at.append((other, tree.root() if self._whole else None))

    # Beyond the checkpoint

    def _beyond(self) -> int:
        """The journal behind the checkpoint; returns how many records it has there, one after the other.

        Without a checkpoint nothing says where to begin, and nothing is proven.
        """
        if self._head is None:
            return 0
        waiting = [each for each in self._others if each.size > self._size]
        index = self._size
        for place, leaf in self._journal.beyond(self._size):
            if place != index:
                break
            if isinstance(record_of(leaf), str):
                self._journal.torn(index)
                break
            if not self.chronicle.take(index, leaf, covered=False):
                break
            self._tree.push(0, leaf_hash(leaf))
            index += 1
            while waiting and waiting[0].size == index:
                self._agree(waiting.pop(0), self._tree)
        self._compare_others()
        beyond = index - self._size
        if beyond:
            self._findings.note(
                "not-covered",
                f"{beyond} records from {self._size} on are in order, but not yet covered by a checkpoint.",
                self._size,
            )
        return beyond

    def _rolled_back(self) -> None:
        there = self._tree.size if self._whole else self._size
        for other in self._others:
            if other.size > max(there, self._size):
                self._findings.fail(
                    "rolled-back",
                    f"The log was rolled back or cut: a checkpoint of {other.size} records was signed, and here are "
                    f"{max(there, self._size)}.",
                    max(there, self._size),
                    f"{other.size} records",
                    f"{max(there, self._size)} records",
                )

    def _report(self, beyond: int) -> LogReport:
        chronicle, failing, head = self.chronicle, self._findings, self._head
        if self._first_kept and self._matched and self._first_kept <= chronicle.pruned:
            failing.note("pruned", f"Records below {self._first_kept} were pruned, as a `log.prune` record says.", 0)
        open_ = chronicle.open
        if open_:
            first = ", ".join(clean(name, 64) for name, _ in zip(open_, range(NAMED), strict=False))
            more = f", … and {len(open_) - NAMED} more" if len(open_) > NAMED else ""
            failing.note(
                "intents-open", f"{len(open_)} intents have no outcome at the end, calls in progress: {first}{more}."
            )
        return LogReport(
            origin=self._origin,
            name="" if head is None else head.name,
            size=self._size,
            root="" if head is None else head.root.hex(),
            root_matches=self._matched,
            first_kept=self._first_kept,
            beyond=beyond,
            began=chronicle.began,
            ended=chronicle.ended,
            types=dict(sorted(chronicle.types.items())),
            open_intents=len(open_),
            open_request_ids=[name for name, _ in zip(open_, range(LISTED), strict=False)],
            failures=failing.failures,
            first_bad=failing.first_bad,
            findings=failing.kept,
        )


def _records(data: bytes) -> tuple[list[bytes], bool]:
    """The records of a bundle, as far as they are whole, and whether that is all there is."""
    try:
        return unbundled(data), True
    except ValueError:
        found, at = [], 0
        while at + 2 <= len(data):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if end > len(data):
                break
            found.append(data[at + 2 : end])
            at = end
        return found, False
