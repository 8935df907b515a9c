"""The order of the tests: on two workers it decides how long the whole takes."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine makes any example slow; what has to be quick is measured where it is promised.
settings.register_profile("vestry", deadline=None)
settings.load_profile("vestry")

HERE = Path(__file__).resolve().parent
# What is named first begins first, and a file that is not named comes last. The whole servers leave the time in which
# engine and image are prepared (`run.py`). Then engines, the longest two of them far from each other: while one worker
# has the families', the other has the rooms, whose tests with clocks leave a core idle. The rest is many short files:
# no worker waits long for the other.
ORDER = ("flow", "engine/test_families.py", "unit", "engine/test_small.py", "engine")

# Files that run the same lines of the whole product over and over are not measured: coverage nearly doubles what they
# cost, and finds there what it finds elsewhere. The mark is held without them, and without the tests that are marked
# `unmeasured` for the same reason.
UNMEASURED = (
    "contract/test_journal.py",
    "contract/test_reference_tlog.py",
    "deploy/test_chart*.py",
    "deploy/test_compose.py",
    "deploy/test_image.py",
    "deploy/test_install_docs.py",
    "docs/test_commands_reference.py",
    "engine/test_*.py",
    "flow/test_admin_openapi.py",
    "flow/test_audit_demo.py",
    "flow/test_completeness.py",
    "flow/test_faults_*.py",
    "flow/test_identity_providers.py",
    "flow/test_kill.py",
    "flow/test_live_export.py",
    "flow/test_replicas.py",
    "flow/test_requests_costs.py",
    "flow/test_requests_fields.py",
    "flow/test_requests_fuzz.py",
    "flow/test_requests_routes.py",
    "flow/test_tls.py",
    "flow/test_tokens_fuzz.py",
    "flow/test_walls.py",
    "unit/test_audit_crash.py",
    "unit/test_audit_faults.py",
    "unit/test_audit_injection.py",
    "unit/test_audit_resume.py",
    "unit/test_audit_tree.py",
    "unit/test_edge_bodies.py",
    "unit/test_late_commands.py",
)
FOR_CHILDREN = "COVERAGE_PROCESS_CONFIG"
STOPPED = pytest.StashKey[tuple[Any, str]]()
"""While coverage is off: it, and what it tells the processes that are started."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by ORDER; within one place of it everything stays as it was collected.

    Of tests with the same id a worker runs the first alone, and says nothing of the others: there may be none.
    """
    same = [each for each, times in Counter(item.nodeid for item in items).items() if times > 1]
    if same:
        raise pytest.UsageError(f"Several tests have one id: {', '.join(same)}")
    items.sort(key=lambda item: place(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Turn coverage off before the first test that is not measured, and on before the next that is."""
    measured = not any(item.path.relative_to(HERE).match(pattern) for pattern in UNMEASURED)
    measured = measured and item.get_closest_marker("unmeasured") is None
    stopped = item.config.stash.get(STOPPED, None)
    if measured and stopped is not None:
        measuring, os.environ[FOR_CHILDREN] = stopped
        measuring.start()
        del item.config.stash[STOPPED]
    elif not measured and stopped is None and FOR_CHILDREN in os.environ:
        measuring = sys.modules["coverage"].Coverage.current()
        measuring.stop()
        item.config.stash[STOPPED] = measuring, os.environ.pop(FOR_CHILDREN)


def pytest_unconfigure() -> None:
    """End the PostgreSQL of this process, if there is one: a worker ends without its exit handlers."""
    used = sys.modules.get("support.postgres")  # not imported here: the engine's environment has none of it
    if used is not None and used.postgres.cache_info().currsize:
        used.postgres().remove()


def place(file: Path) -> int:
    """Where a file stands in ORDER."""
    return next((number for number, name in enumerate(ORDER) if file.is_relative_to(HERE / name)), len(ORDER))
