"""What a finding is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

from vestry.secret_files import looked_at


class Finding(Struct, frozen=True):
    """One line of the diagnosis. `mend` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    said: str
    mend: str = ""


def standing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that there is."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if looked_at(each))
