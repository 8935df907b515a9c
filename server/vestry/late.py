"""Modules that are imported when something of them is first used: libraries that only some settings or commands need.

There is no other way here to import late, and nothing on the path of a call does: whatever a server needs of such a
module it asks for while it starts. For the type checker, and for import-linter, it is an import like any other:

    if TYPE_CHECKING:
        from vestry.adapters.directory import postgres
    else:
        postgres = Late("vestry.adapters.directory.postgres")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands for a module. Several threads may be the first ones to use it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
