"""Logs with a signed tree, and what tests of outside copies share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.house import until
from vestry.audit.copies.durable import write_whole
from vestry.audit.copies.sink import Held, Item, size_of
from vestry.audit.files import Files
from vestry.audit.tlog.notes import Checkpoint, PublicKey, Signer
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.audit.tree import Tree
from vestry.wires import Undelivered

HOUSE = Signer.generate("house.test/vestry")


class GrownLog:
    """A log's directory with tiles and a checkpoint, as the notary writes them; its records are small texts."""

    def __init__(self, home: Path, *, origin: str = "server", text: str = "record") -> None:
        self.home, self.origin = home, origin
        self.signer = HOUSE.of(origin)
        self.text = text
        self.tree = Tree(home, Files())
        self.heads: list[Checkpoint] = []
        home.mkdir(parents=True, exist_ok=True)

    @property
    def public(self) -> PublicKey:
        return self.signer.public

    @property
    def head(self) -> Checkpoint:
        return self.heads[-1]

    def grow(self, size: int) -> str:
        """Let it have so many records, and sign that; returns the note."""
        self.tree.add([f'{{"{self.text}":{index}}}'.encode() for index in range(self.tree.size, size)])
        self.tree.settle()
        head = Checkpoint(self.public.name, self.tree.size, self.tree.root())
        self.heads.append(head)
        note = self.signer.sign(head.text())
        write_whole(self.home / CHECKPOINT, note)
        return note

    def snapshot(self, to: Path) -> Callable[[], None]:
        """Copy it aside; what is returned puts the copy back in its place, as an attacker would."""
        shutil.copytree(self.home, to)

        def back() -> None:
            shutil.rmtree(self.home)
            shutil.copytree(to, self.home)

        return back


@dataclass
class Counted:
    """sink.Observer that keeps what it was told."""

    declared: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    failures: int = 0
    dropped: int = 0
    waiting: int = -1
    since: float | None = None
    compared: dict[str, bool] = field(default_factory=dict)

    def copy_declared(self, sink: str) -> None:
        self.declared.append(sink)

    def copy_known(self, sink: str, size: int, when: float) -> None:
        self.known.append(size)

    def copy_delivered(self, sink: str, size: int, when: float) -> None:
        self.sizes.append(size)

    def copy_failed(self, sink: str) -> None:
        self.failures += 1

    def copies_waiting(self, sink: str, waiting: int, since: float | None) -> None:
        self.waiting, self.since = waiting, since

    def copies_dropped(self, sink: str, dropped: int) -> None:
        self.dropped += dropped

    def copy_compared(self, sink: str, agrees: bool) -> None:
        self.compared[sink] = agrees


@dataclass
class ListSink:
    """sink.Sink in memory, with faults: `down` is a sentence, `before` runs first in every delivery."""

    name: str = "list"
    keeps_registry: bool = True
    required: bool = False
    where: str = "a list"
    down: str = ""
    before: Callable[[], None] = lambda: None
    items: list[Item] = field(default_factory=list)
    held: Held | None = None

    def deliver(self, item: Item) -> None:
        self.before()
        if self.down:
            raise Undelivered(self.down)
        self.items.append(item)

    def newest(self) -> Held | None:
        if self.down:
            raise Undelivered(self.down)
        return self.held

    @property
    def sizes(self) -> list[int | None]:
        return [size_of(item.note) for item in self.items if item.kind == "checkpoint"]

    def wait_for(self, *sizes: int) -> None:
        """Until exactly these checkpoints have come, in this order."""
        until(lambda: self.sizes == list(sizes), what=f"checkpoints of {sizes}, not {self.sizes}")
