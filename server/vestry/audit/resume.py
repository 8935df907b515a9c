"""Resumes the tree of a log where its last checkpoint left it, and sees that journal, tiles and checkpoint agree.

A log that does not continue its own last checkpoint is damaged: it is neither opened nor signed again. A log that was
rolled back as a whole, checkpoint and all, shows only against a copy kept outside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vestry.audit.files import Files
from vestry.audit.notary import Notary, Signing
from vestry.audit.reading import journal
from vestry.audit.scan import ELSEWHERE, MEND, LogDamaged, LogUnusable, first_index, parse, segments
from vestry.audit.tlog.merkle import leaf_hash
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey
from vestry.audit.tlog.tiles import CHECKPOINT, TileMissing, Tiles
from vestry.audit.tree import Tree

_TAKEN = 1024


def signed_head(home: Path, key: PublicKey) -> Checkpoint | None:
    """What the log's last checkpoint says; None for a log that has none yet. `key` is the house's name for this log.

    Raises LogUnusable where it is not a checkpoint that this key has signed, and OSError.
    """
    path = home / CHECKPOINT
    try:
        return Checkpoint.open(path.read_text(encoding="utf-8"), key)
    except FileNotFoundError:
        return None
    except (NoteRefused, UnicodeDecodeError) as error:
        raise LogUnusable(
            f"{path} cannot be continued: {error}. Give the server the signing key that this log was begun with; or, "
            f"if it is right, the file was changed: restore the log from a copy, or {ELSEWHERE}"
        ) from error


def resume(
    home: Path,
    origin: str,
    head: Checkpoint | None,
    signing: Signing,
    files: Files,
    *,
    reach: int,
    holds: Callable[[], bool],
) -> Notary:
    """The notary of a log whose journal has been read and found whole, with everything taken that is in the journal.
    `reach` is how many records the journal has.

    Raises LogDamaged where the tiles are not what was signed, or the journal is not what the tiles say; OSError.
    """
    size = 0 if head is None else head.size
    tree = _tree(home, head, files, reach)
    notary = Notary(home, origin, tree=tree, head=head, signing=signing, files=files, holds=holds)
    paths = segments(home)
    begin = min(size, first_index(paths[-1])) if paths else size
    tiles = Tiles(home, size)
    taken: list[bytes] = []
    for index, leaf in journal(home, begin, strict=True):
        if index < size:
            if _signed_leaf(tiles, index) != leaf_hash(leaf):
                raise LogDamaged(
                    f"{home} is damaged: record {index} in the journal is not the one that was signed. {MEND}"
                )
            continue
        record = parse(leaf + b"\n")
        if record is None or (record.index, record.origin) != (index, origin):
            raise LogDamaged(
                f"{home} is damaged: what stands in the place of record {index} is not that record. {MEND}"
            )
        taken.append(leaf)
        if len(taken) == _TAKEN:
            notary.take(taken)
            notary.grow()
            taken = []
    notary.take(taken)
    return notary


def _signed_leaf(tiles: Tiles, index: int) -> bytes:
    try:
        return tiles.leaf_hash(index)
    except TileMissing as error:
        raise LogDamaged(f"{tiles.home} is damaged: {error}. {MEND}") from error


def _tree(home: Path, head: Checkpoint | None, files: Files, reach: int) -> Tree:
    """`reach`: an earlier process may have written partial tiles up to there, and died before it signed them."""
    if head is None:
        return Tree(home, files, reach=reach)
    try:
        tree = Tree.load(home, files, head.size, reach=reach)
    except (TileMissing, ValueError) as error:
        raise LogDamaged(f"{home} is damaged: {error}. {MEND}") from error
    if tree.root() != head.root:
        raise LogDamaged(
            f"{home} is damaged: its tiles are not of the tree that its checkpoint of {head.size} records signs. {MEND}"
        )
    return tree
