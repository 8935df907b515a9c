"""What is said of content that is marked as erased: by which record, that none can be seen, or that it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.audit_logs import BEGAN, House
from vestry.audit.calls import Content
from vestry.audit.content import erasing
from vestry.audit.content.bundles import About, Bundle, ContentDamaged, Item, Place
from vestry.audit.content.erasing import Wanted
from vestry.audit.content.opening import Leaf, Nothing, open_content
from vestry.audit.files import Files
from vestry.audit.reading import LogReader
from vestry.audit.records import rfc3339
from vestry.types import ContentMode

ERASURE = {"type": "content.erase", "subject": "alice", "count": 1, "actor": "x", "reason": "request"}


def kept(house: House, milliseconds: int) -> Leaf:
    """The intent of a call whose content was kept so long after the logs began, and was then marked as erased."""
    home = house.directory / "server"
    place = Place(home)
    place.make(Files())
    about = About("t", "alice", "req_1", "prompt", ContentMode.FULL, rfc3339(BEGAN + milliseconds * 1000))
    bundle = Bundle.begin(place, "20270115", Files())
    [(entry, offset)] = bundle.append([Item(about, b"s" * 32, b"text")])
    bundle.close()
    erasing.destroy(erasing.find([home], Wanted("alice")), Wanted("alice"))
    content = Content(bundle=bundle.name, entry=entry, offset=offset, length=4, commitment="x")
    return Leaf("intent", request_id="req_1", tenant="t", subject="alice", content_mode=about.mode, content=content)


def test_an_erasure_whose_record_was_pruned(tmp_path: Path) -> None:
    """Legal, and told as such; but content that is younger than what is left of the log has no such excuse."""
    house = House(tmp_path)
    house.log("server", 3)
    cli = house.log("cli", 5)
    early = kept(house, 2)
    with pytest.raises(ContentDamaged, match="no record of the log `cli` says that it was"):
        open_content(house.directory / "server", early, None)
    cli.add([ERASURE, *({"type": "key.revoke"} for _ in range(900))]).checkpoint()
    with pytest.raises(Nothing, match="as record 5 of the log `cli` says"):
        open_content(house.directory / "server", early, None)
    late = kept(house, 700)
    for _ in range(2):
        cli.add([{"type": "key.revoke"}] * 300).checkpoint()
    cli.prune(512)
    with pytest.raises(Nothing, match="the record that says so may have been pruned"):
        open_content(house.directory / "server", early, None)
    with pytest.raises(ContentDamaged, match="no record of the log `cli` says that it was"):
        open_content(house.directory / "server", late, None)


def test_an_erasure_whose_record_is_pruned_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same excuse."""
    house = House(tmp_path)
    house.log("server", 3)
    cli = house.log("cli", 5)
    early = kept(house, 2)
    cli.add([ERASURE, *({"type": "key.revoke"} for _ in range(900))]).checkpoint()
    for _ in range(2):
        cli.add([{"type": "key.revoke"}] * 300).checkpoint()
    leaves = LogReader.leaves

    def pruned(reader: LogReader) -> Iterator[tuple[int, bytes]]:
        cli.prune(512)
        yield from leaves(reader)

    monkeypatch.setattr(LogReader, "leaves", pruned)
    with pytest.raises(Nothing, match="the record that says so may have been pruned"):
        open_content(house.directory / "server", early, None)
