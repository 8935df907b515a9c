"""Tokens a second on the real engine: through the server, divided by direct, in the same run.

Engine, server and load share all cores here, as on a user's machine without a GPU: what the server takes, the
engine lacks. Both ways send the same streams of a fixed number of tokens, in turn, direct first in every other
pair, so that a machine that gets slower for a while slows both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import servers
from bench.machine import REPOSITORY, BenchError, Process, free_ports, get
from bench.works import Loader, Target

MODEL = "smollm2-135m-instruct"
TOKENS = 64
STREAMS = 8
HEAD = ("streams of 64 tokens, 8 at once", "tokens/s", "first token p50 ms", "p99 ms", "server's CPU µs/token")


@dataclass(frozen=True)
class Ratio:
    """One entry a pair of runs: loadgen's reports of both, and the server's CPU seconds in the second."""

    direct: tuple[dict[str, Any], ...]
    through: tuple[dict[str, Any], ...]
    cpu: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the pairs of through ÷ direct."""
        pairs = zip(self.through, self.direct, strict=True)
        return statistics.median(speed(there) / speed(here) for there, here in pairs)

    def _cost(self) -> str:
        pairs = zip(self.cpu, self.through, strict=True)
        return f"{statistics.median(spent * 1e6 / (each['all_ok'] * TOKENS) for spent, each in pairs):.0f}"

    def rows(self) -> list[list[str]]:
        return [
            [
                name,
                f"{statistics.median(speed(each) for each in reports):,.1f}",
                f"{statistics.median(each['ttft_p50'] for each in reports) / 1000:.0f}",
                f"{statistics.median(each['ttft_p99'] for each in reports) / 1000:.0f}",
                cost,
            ]
            for name, reports, cost in (("direct", self.direct, "-"), ("through Vestry", self.through, self._cost()))
        ]

    def json(self) -> dict[str, Any]:
        return {"model": MODEL, "median": self.median, "cpu_seconds": list(self.cpu),
                "direct": list(self.direct), "through": list(self.through)}  # fmt: skip


def speed(report: dict[str, Any]) -> float:
    """Tokens a second of one run of loadgen."""
    return float(report["all_ok"]) * TOKENS / float(report["secs"])


def _prepared(state: Path) -> None:
    """Lend the prepared engine and model of `.vestry` to the bench's own state directory."""
    home = REPOSITORY / ".vestry"
    for name in ("engine", "models"):
        if not (home / name).is_dir():
            raise BenchError(f"{home / name} is missing: run `make up` once, it prepares engine and model.")
        (state / name).symlink_to(home / name)


@contextmanager
def _engine(settings: Path, port: int, folder: Path) -> Iterator[None]:
    """The real engine, started by `vestry engine`."""
    command = [sys.executable, "-m", "vestry", "--config", str(settings), "engine", MODEL]
    environment = servers.environment()
    with Process("The engine", command, folder / "engine.log", environment=environment, patience=40) as process:
        process.wait_for(lambda: get(port, "/health")[0] == 200, 420)
        yield


def measure(folder: Path, loader: Loader, pairs: int) -> Ratio:
    """Start the real engine and the server, and run `pairs` pairs of runs."""
    home = folder / "real"
    (home / "state").mkdir(parents=True)
    _prepared(home / "state")
    engine_port = free_ports(1)[0]
    model = {"engine": {"port": engine_port}}
    settings, port, ops_port = servers.configuration(home, {MODEL: model})
    key = servers.create_key(settings)
    sys.stderr.write("The real engine starts, which takes about a minute …\n")
    with _engine(settings, engine_port, home), servers.serving(settings, port, ops_port, home, None) as process:
        secret = (home / "state" / "secrets" / "engine-key").read_text().strip()
        direct = Target("direct", engine_port, secret, MODEL)
        through = Target("vestry", port, key, MODEL, process, ops_port)
        line = ["-c", str(STREAMS), "-N", str(STREAMS * 2), "-s", "-n", str(TOKENS), "-t", "300"]
        line += ["-j", f',"min_tokens":{TOKENS}']
        for target in (direct, through):
            loader.run(target, line, 330)
        found: dict[str, list[dict[str, Any]]] = {"direct": [], "vestry": []}
        cpu = []
        began = time.monotonic()
        for number in range(pairs):
            for target in (direct, through) if number % 2 == 0 else (through, direct):
                before = process.cpu_seconds()
                found[target.name].append(loader.run(target, line, 330))
                if target is through:
                    cpu.append(process.cpu_seconds() - before)
            sys.stderr.write(f"Real engine: pair {number + 1} of {pairs}, {time.monotonic() - began:.0f} s\n")
    return Ratio(tuple(found["direct"]), tuple(found["vestry"]), tuple(cpu))
