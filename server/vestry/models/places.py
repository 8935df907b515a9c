"""Where the models room keeps its things under the state directory."""

from __future__ import annotations

from pathlib import Path

from vestry.models.catalog import Entry


class Places:
    """Where things are under one state directory."""

    def __init__(self, state: Path):
        self.state = state.absolute()
        self.engine = self.state / "engine"
        self.models = self.state / "models"
        self.sources = self.state / "sources"
        self.cache = self.state / "cache"
        self.logs = self.state / "logs"

    def model(self, entry: Entry) -> Path:
        return self.models / entry.name

    def source(self, entry: Entry) -> Path:
        return self.sources / entry.name
