"""The order of the tests: on two workers it decides how long the whole takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# What is named first begins first, and a file that is not named comes last. The image begins with minutes of its own;
# it, the whole servers and the rooms leave the time in which the engine is prepared (`run.py`). Then the engines, the
# longest first, so that both workers have one. The rest is many short files: no worker waits long for the other.
ORDER = ("deploy/test_image.py", "flow", "unit", "engine/test_small.py", "engine/test_families.py", "engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by ORDER; within one place of it everything stays as it was collected."""
    items.sort(key=lambda item: place(item.path))


def pytest_unconfigure() -> None:
    """End the PostgreSQL of this process, if there is one: a worker ends without its exit handlers."""
    used = sys.modules.get("support.postgres")  # not imported here: the engine's environment has none of it
    if used is not None and used.postgres.cache_info().currsize:
        used.postgres().remove()


def place(file: Path) -> int:
    """Where a file stands in ORDER."""
    return next((number for number, name in enumerate(ORDER) if file.is_relative_to(HERE / name)), len(ORDER))
