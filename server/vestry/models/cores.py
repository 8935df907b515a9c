"""How an engine uses the processors of this machine.

On a CPU vLLM puts the worker into a process of its own, since that is where it says which cores OpenMP may use; the
process that schedules for the worker spins for a second after each answer of it. With one worker on one NUMA node all
that OpenMP must know can be said from outside, and the worker runs in the process that schedules: a process less to
start, and half the CPU time a token.

`sys` is where the kernel tells of the machine, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

SYS = Path("/sys")
THREADS = "OMP_NUM_THREADS"
BINDING = "VLLM_CPU_OMP_THREADS_BIND"
SEVERAL = frozenset({"--tensor-parallel-size", "--pipeline-parallel-size"})
TOGETHER = ("--distributed-executor-backend", "uni")


def together(own: Collection[str], environ: Mapping[str, str], sys: Path = SYS) -> bool:
    """Whether the worker may run in the process that schedules for it: not where there are several workers or NUMA
    nodes, nor where the operator binds threads, which vLLM does for workers in processes of their own alone.
    """
    return not SEVERAL.intersection(own) and BINDING not in environ and _nodes(sys) == 1


def environment(environ: Mapping[str, str], sys: Path = SYS) -> dict[str, str]:
    """What such an engine needs in its environment. vLLM takes the worker in only where it may not use processes."""
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", THREADS: environ.get(THREADS) or str(threads(sys))}


def threads(sys: Path = SYS) -> int:
    """Threads to compute with: one a core that this process may use, and one core is left for the servers, as vLLM
    does. A container's share of processors (cgroup v2, `cpu.max`) counts too.
    """
    cores = {_siblings(sys, number) for number in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _share(sys)) - 1)


def _siblings(sys: Path, number: int) -> str:
    """What names the core of a processor: all processors that share it."""
    with suppress(OSError):
        return (sys / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    return str(number)


def _share(sys: Path) -> int:
    """Processors' worth of time that this container may use, rounded up."""
    with suppress(OSError, ValueError):
        quota, period = map(int, (sys / "fs/cgroup/cpu.max").read_text().split())
        return max(1, -(-quota // period))
    return os.cpu_count() or 1


def _nodes(sys: Path) -> int:
    """NUMA nodes; 1 where the kernel tells of none."""
    return len(list((sys / "devices/system/node").glob("node[0-9]*"))) or 1
