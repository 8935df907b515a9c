"""How an engine uses the processors of a machine: where its worker runs, and with how many threads it computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestry.models.cores import environment, threads, together


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's word on a machine of 8 processors, two a core, on one NUMA node."""
    for number in range(8):
        topology = tmp_path / f"devices/system/cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        first = number // 2 * 2
        (topology / "thread_siblings_list").write_text(f"{first}-{first + 1}\n")
    (tmp_path / "devices/system/node/node0").mkdir(parents=True)
    (tmp_path / "devices/system/node/online").touch()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return tmp_path


def share(machine: Path, text: str) -> None:
    """What the container may use, as the kernel says it."""
    (machine / "fs/cgroup").mkdir(parents=True)
    (machine / "fs/cgroup/cpu.max").write_text(text)


def test_a_thread_a_core_and_one_core_for_the_servers(machine: Path) -> None:
    """Eight processors are four cores: three threads. Two processors of one core are one, and so are two cores."""
    assert threads(machine) == 3


@pytest.mark.parametrize(
    ("allowed", "expected"), [({0}, 1), ({0, 1}, 1), ({0, 2}, 1), ({0, 2, 4}, 2), ({1, 3, 5, 7}, 3)]
)
def test_only_what_this_process_may_use_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], expected: int
) -> None:
    """A process that is bound to some processors computes on those alone; at least one thread computes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: allowed)
    assert threads(machine) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", 3), ("150000 100000\n", 1), ("300000 100000\n", 2), ("1000 100000\n", 1)]
)
def test_a_containers_share_bounds_the_threads(machine: Path, text: str, expected: int) -> None:
    """More threads than a container has time for would wait for each other."""
    share(machine, text)
    assert threads(machine) == expected


def test_the_operators_number_of_threads_holds(machine: Path) -> None:
    """`OMP_NUM_THREADS` is taken as it is; without it the number is ours."""
    assert environment({"OMP_NUM_THREADS": "7"}, machine)["OMP_NUM_THREADS"] == "7"
    assert environment({}, machine) == {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    ("own", "environ", "expected"),
    [
        ((), {}, True),
        (("--seed", "1"), {"OMP_NUM_THREADS": "2"}, True),
        (("--tensor-parallel-size", "2"), {}, False),
        (("--pipeline-parallel-size", "2"), {}, False),
        ((), {"VLLM_CPU_OMP_THREADS_BIND": "0-1|2-3"}, False),
    ],
)
def test_the_worker_runs_where_it_is_scheduled_unless_there_are_several(
    machine: Path, own: tuple[str, ...], environ: dict[str, str], expected: bool
) -> None:
    """Several workers, and threads that the operator binds, need processes of their own."""
    assert together(own, environ, machine) is expected


def test_two_numa_nodes_are_left_to_vllm(machine: Path) -> None:
    """It binds threads and memory to one of them, which nothing does from outside."""
    (machine / "devices/system/node/node1").mkdir()
    assert not together((), {}, machine)


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel tells nothing, each processor is a core, and there is one node."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2})
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert together((), {}, tmp_path)
    assert threads(tmp_path) == 1
