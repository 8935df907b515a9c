"""What the record costs: the same server with and without it, in turn; and how fast the log alone takes records."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine, pairs, servers, works
from bench.machine import BenchError, Cores
from bench.pairs import Pairs
from bench.works import WORKS, Loader, Result, Target

HEAD = ("figure", "with the record", "without", "difference", "bound")
WITH, WITHOUT = "vestry", "unrecorded"
BOUND = 25.0
"""Microseconds of CPU a call."""
PAIRS = 4
"""Pairs of short runs in each of the bench's rounds."""
SATURATION_SECONDS = 8.0
SECONDS = 12.0
"""Length of a run at 50 calls a second: long enough for a 99th percentile to be more than the worst call."""
PACE_SECONDS = 0.02
"""Between two calls of r50."""
SYNCS = 300
"""At that pace, in each round: enough for a 99th percentile that is not the worst of them."""
PUBLISHED = "Tessera, POSIX: about 10,000 on NVMe, 2,900 on SAS"


@dataclass(frozen=True)
class Cost:
    """All runs, and what the saturated log reported. `sync_ms` is the median time of one fdatasync after another;
    `rested_ms` has, for each round, the median and the 99th percentile of one at the pace of r50: each call waits for
    two of these.
    """

    busy: list[Pairs]
    rested: Pairs
    saturation: dict[str, float]
    sync_ms: float
    rested_ms: list[tuple[float, float]]

    def rows(self) -> list[list[str]]:
        def late(name: str) -> Callable[[Result], float]:
            return lambda result: float(result.load[name]) / 1000

        busy = Pairs([run for each in self.busy for run in each.results], WITH, WITHOUT)
        return [
            *busy.cpu_rows(BOUND),
            self.rested.row("p50 at r50, ms", late("lat_p50"), "-"),
            self.rested.row("p99 at r50, ms", late("lat_p99"), self._late_bound()),
            [
                "records a second, the log alone",
                f"{self.saturation['records_per_second']:,.0f}",
                "-",
                f"{self.saturation['records_per_commit']:,.0f} a commit",
                PUBLISHED,
            ],
        ]

    def _late_bound(self) -> str:
        """1 ms and one fdatasync: as they follow each other, at their median; or, like for like, the 99th percentile of
        those at the same pace in the same rounds."""
        usual, high = (statistics.median(each) for each in zip(*self.rested_ms, strict=True))
        return f"{1 + self.sync_ms:.2f}; by p99 at this pace (p50 {usual:.2f}, p99 {high:.2f}) {1 + high:.2f}"

    def json(self) -> dict[str, Any]:
        return {
            "runs": [run for each in (*self.busy, self.rested) for run in each.json()],
            "saturation": self.saturation,
            "fdatasync_ms": self.sync_ms,
            "rested_fdatasync_ms": self.rested_ms,
        }


def measure(folder: Path, loader: Loader, mock_binary: Path, *, rounds: int, quick: bool) -> Cost:
    """Measure both, round after round, each first in turn; then the log alone. Raises BenchError.

    Each round has servers of its own: one and the same program differs by a twentieth from one process to the next.
    """
    cores = Cores.choose()
    sync = machine.fdatasync_times(folder)[0]
    (slow,) = [each for each in WORKS if each.name == "r50"]
    line = slow.arguments(None if quick else SECONDS, quick)
    busy: list[Pairs] = []
    results: list[Result] = []
    rested: list[tuple[float, float]] = []
    with ExitStack() as stack:
        mock = stack.enter_context(servers.mock(mock_binary, folder, cores))
        nginx = stack.enter_context(servers.bare_nginx(mock, folder, cores))
        for number in range(rounds):
            usual, high = machine.fdatasync_times(folder, 20 if quick else SYNCS, PACE_SECONDS)
            rested.append((usual * 1000, high * 1000))
            with _both(mock, folder / str(number), cores) as targets:
                busy.append(pairs.measure(*targets, nginx, mock, loader, pairs=1 if quick else PAIRS))
                turned = targets if number % 2 else targets[::-1]
                results += [works.measure(slow, target, mock, loader, line) for target in turned]
    saturated = _saturated(folder / "saturated")
    return Cost(busy, Pairs(results, WITH, WITHOUT), saturated, sync * 1000, rested)


@contextmanager
def _both(mock: Target, folder: Path, cores: Cores) -> Iterator[tuple[Target, Target]]:
    """The server with and without a record."""
    with ExitStack() as stack:
        started = []
        for name, program in ((WITH, "vestry"), (WITHOUT, "bench.unrecorded")):
            home = folder / name
            home.mkdir(parents=True)
            started.append(stack.enter_context(servers.vestry(mock, home, cores, name=name, program=program)))
        yield started[0], started[1]


def _saturated(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.saturation", str(folder), str(SATURATION_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, env=servers.environment(), check=False, timeout=120)
    if done.returncode:
        raise BenchError(f"The log alone could not be measured: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
