"""What somebody with write access to the log might do to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from vestry.audit.tlog.tiles import WIDTH, bundled, tile_path, unbundled

RECORD = 37


class Tampering(Struct, frozen=True):
    """`apply` gets the copy to tamper with, and the log as it was earlier. `place` must be in what is said."""

    name: str
    title: str
    apply: Callable[[Path, Path], None]
    place: str


def _edit(copy: Path, edit: Callable[[list[bytes]], None]) -> None:
    """Edit the first bundle of records, as whoever knows the format would."""
    path = copy / "server" / tile_path("entries", 0)
    leaves = unbundled(path.read_bytes())
    edit(leaves)
    path.write_bytes(b"".join(map(bundled, leaves)))


def _one_byte(copy: Path, _older: Path) -> None:
    def edit(leaves: list[bytes]) -> None:
        leaves[RECORD] = leaves[RECORD].replace(b'"tenant":"default"', b'"tenant":"defaulu"')

    _edit(copy, edit)


def _one_record(copy: Path, _older: Path) -> None:
    def edit(leaves: list[bytes]) -> None:
        del leaves[RECORD]

    _edit(copy, edit)


def _swapped(copy: Path, _older: Path) -> None:
    def edit(leaves: list[bytes]) -> None:
        leaves[RECORD], leaves[RECORD + 1] = leaves[RECORD + 1], leaves[RECORD]

    _edit(copy, edit)


def _a_line(copy: Path, _older: Path) -> None:
    """Delete a line of the journal, which `tail` shows."""
    path = max((copy / "server").glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:RECORD] + lines[RECORD + 1 :]))


def _tail(copy: Path, _older: Path) -> None:
    """Cut off everything behind the first bundle, and every line of it in the journal."""
    home = copy / "server"
    for path in (home / "tile" / "entries").iterdir():
        if path.name != "000":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in home.glob("*.jsonl"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:WIDTH]))


def _origin(copy: Path, _older: Path) -> None:
    shutil.rmtree(copy / "cli")


def _rolled_back(copy: Path, older: Path) -> None:
    """The whole directory as it was earlier, with a checkpoint that was good then."""
    shutil.rmtree(copy)
    shutil.copytree(older, copy)


ALL = (
    Tampering("byte", "One byte of one record is changed.", _one_byte, f"record {RECORD}"),
    Tampering("record", "One record is taken out.", _one_record, f"record {RECORD}"),
    Tampering("swapped", "Two records change places.", _swapped, f"record {RECORD}"),
    Tampering("line", "A line of the journal is deleted.", _a_line, f"record {RECORD}"),
    Tampering("tail", "The tail is cut off.", _tail, f"record {WIDTH}"),
    Tampering("origin", "A whole log is removed.", _origin, "cli"),
    Tampering("rollback", "The directory is rolled back to an older copy.", _rolled_back, "olled back"),
)
