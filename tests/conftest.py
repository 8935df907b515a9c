"""The order of the tests: on two workers it decides how long the whole takes."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# What comes first begins first; a file that is not named comes after those that are. The image and the whole servers
# leave the time in which the engine is installed (`run.py`). Then the engines, the longest first: both workers have
# one. Last come many short files, so that no worker waits long for the other.
ORDER = (
    "deploy/test_image.py",
    "flow",
    "engine/test_small.py",
    "engine/test_families.py",
    "engine",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by ORDER; within one place of it everything stays as it was collected."""
    items.sort(key=lambda item: place(item.path))


def place(file: Path) -> int:
    """Where a file stands in ORDER."""
    return next((number for number, name in enumerate(ORDER) if file.is_relative_to(HERE / name)), len(ORDER))
