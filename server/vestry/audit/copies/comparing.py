"""Compares a log with the newest checkpoint that each sink holds of it, before the log is opened.

Only what the log's own key has signed can speak against the log: a checkpoint of more records than the log has means
that the log was rolled back or cut off, one with another root that it was rewritten. Everything else that a sink may
hold (garbage, notes of other keys) is a doubt about the sink, and said; so is a checkpoint that is older than what was
pruned, where the hashes that would compare it went with the records. A witness that states a larger size without a
checkpoint to show counts like one that shows it: it is asked over an authenticated connection, and will cosign
nothing of this log any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from vestry.audit.copies.sink import Held, Observer, Sink, Unobserved
from vestry.audit.reading import first_bundle
from vestry.audit.scan import ELSEWHERE, LogDamaged, LogUnusable
from vestry.audit.tlog import merkle
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey
from vestry.audit.tlog.tiles import WIDTH, TileMissing, Tiles
from vestry.wires import Undelivered

_LOG = logging.getLogger("vestry.audit")
MEND = (
    f"Nothing was changed. Restore the newest copy of the log; if there is none, {ELSEWHERE} See docs/audit.md, "
    '"Restoring a copy".'
)

_UNREADABLE = (TileMissing, ValueError, IndexError, OSError)


class CopyMissing(LogUnusable):
    """A sink that is `required` could not be asked, so the log is not opened."""


class Compared(Struct, frozen=True):
    """What the comparison with one sink came to. `size` is that of the checkpoint it was compared with, None for none.

    `agrees` is None for a sink that cannot be asked at all, False where it was not reached, or holds nothing but
    checkpoints of what was pruned.
    """

    sink: str
    agrees: bool | None
    size: int | None = None
    doubts: tuple[str, ...] = ()


def compare_with_copies(
    home: Path,
    size: int,
    root: bytes,
    public: PublicKey,
    sinks: Sequence[Sink],
    *,
    observer: Observer | None = None,
    seconds: float = 30.0,
) -> list[Compared]:
    """Compare the log in `home` with what the sinks hold. Blocks for `seconds` at most: all are asked at once.

    `size` (records) and `root` are those of the log's own newest checkpoint, 0 and merkle.EMPTY_ROOT where it has none;
    `public` is this very log's key (`PublicKey.of(origin)`).

    Raises scan.LogDamaged for a log that a sink's checkpoint speaks against, or whose tiles are not those of `root`;
    CopyMissing where a sink that is `required` did not answer. Both are scan.LogUnusable.
    """
    observer = observer or Unobserved()
    tiles = Tiles(home, size)
    if sinks and size and _root(tiles) != root:
        raise LogDamaged(
            f"{home} is damaged: its tiles do not give the root of its checkpoint of {size} records. {MEND}"
        )
    compared = []
    silent: list[str] = []
    for sink, answer in zip(sinks, _ask(sinks, seconds), strict=True):
        if answer is None:
            compared.append(Compared(sink.name, None))
            continue
        unread = answer if isinstance(answer, str) else answer.unread
        found = Compared(sink.name, agrees=False)
        if isinstance(answer, Held):
            found = _judged(sink, answer, tiles, root, public)
        for doubt in found.doubts:
            _LOG.warning("the outside copy `%s`: %s", sink.name, doubt)
        if unread:
            _LOG.warning("the log was not compared with the outside copy `%s`: %s", sink.name, unread)
            found = replace(found, agrees=False, doubts=(*found.doubts, unread))
            if sink.required:
                silent.append(f"`{sink.name}`: {unread}")
        compared.append(found)
        observer.copy_compared(sink.name, agrees=bool(found.agrees))
    if silent:
        raise CopyMissing(
            f"The log in {home} could not be compared with an outside copy that is `required`, so it is not opened. "
            f"{'; '.join(silent)}. Mend it, or set `required: false` in `audit.copies` to start without."
        )
    return compared


def _judged(sink: Sink, held: Held, tiles: Tiles, root: bytes, public: PublicKey) -> Compared:
    """The comparison with one sink's answer. Raises LogDamaged."""
    doubts = list(held.doubts)
    newest = held.size
    pruned = False
    if newest is not None and newest > tiles.size:
        raise LogDamaged(_shorter(sink, tiles, newest))
    for note in held.notes:
        try:
            head = Checkpoint.open(note, public)
        except NoteRefused as error:
            doubts.append(f"it holds a note that says nothing of this log: {error}")
            continue
        if head.size > tiles.size:
            raise LogDamaged(_shorter(sink, tiles, head.size))
        try:
            continues = _continues(tiles, root, head)
        except _UNREADABLE as error:
            minimum = (first_bundle(tiles.home) or 0) * WIDTH
            if head.size >= minimum:
                raise LogDamaged(f"{tiles.home} is damaged: {error}. {MEND}") from error
            pruned = True
            doubts.append(
                f"its checkpoint of {head.size} records is older than what was pruned, the records below {minimum}, so "
                "it cannot be compared"
            )
            continue
        if not continues:
            raise LogDamaged(
                f"{tiles.home} was rewritten: `{sink.name}` ({sink.where}) holds a checkpoint of its first {head.size} "
                f"records, signed by its own key, that the log does not continue. {MEND}"
            )
        newest = max(head.size, newest or 0)
    agrees = newest is not None or not pruned
    return Compared(sink.name, agrees=agrees, size=newest, doubts=tuple(dict.fromkeys(doubts)))


def _shorter(sink: Sink, tiles: Tiles, size: int) -> str:
    return (
        f"{tiles.home} was rolled back or cut off: `{sink.name}` ({sink.where}) holds a checkpoint of {size} records; "
        f"the log's own newest one has {tiles.size}. {MEND}"
    )


def _continues(tiles: Tiles, root: bytes, head: Checkpoint) -> bool:
    """Whether the tree of `root` begins with the one of `head`: by a proof that binds both, made from the tiles.

    Raises what is in _UNREADABLE.
    """
    try:
        proof = merkle.prove_consistency(head.size, tiles.size, tiles.subtree)
        merkle.verify_consistency(head.size, tiles.size, head.root, root, proof)
    except merkle.ProofRefused:
        return False
    return True


def _root(tiles: Tiles) -> bytes:
    try:
        return merkle.root(tiles.size, tiles.subtree)
    except _UNREADABLE as error:
        raise LogDamaged(f"{tiles.home} is damaged: {error}. {MEND}") from error


def _ask(sinks: Sequence[Sink], seconds: float) -> list[Held | str | None]:
    """What each sink holds; a sentence for one that does not say. Each is asked by a thread of its own, because a file
    system can hang for ever.
    """
    answers: list[Held | str | None] = [f"it did not answer within {seconds:g} s" for _ in sinks]
    threads = [
        threading.Thread(target=_ask_one, args=(sink, answers, place), name=f"vestry-ask-{sink.name}", daemon=True)
        for place, sink in enumerate(sinks)
    ]
    for each in threads:
        each.start()
    until = time.monotonic() + seconds
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    return list(answers)


def _ask_one(sink: Sink, answers: list[Held | str | None], place: int) -> None:
    try:
        answers[place] = sink.newest()
    except Undelivered as error:
        answers[place] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it answers, the log is compared with the others
        _LOG.exception("the outside copy `%s` could not be asked", sink.name)
        answers[place] = f"{type(error).__name__} while it was asked"
