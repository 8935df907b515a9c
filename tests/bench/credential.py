"""What a token costs beside an API key: the same server, the same load, one credential after the other.

The difference is some hundredths of a call's cost, less than by what a machine's speed moves from one second to the
next. So there are many short runs, in pairs, and what counts is the median of the pairs' differences. A bare nginx
runs beside each pair: by it the difference is also told as on the machine where the targets were set.

The token is an ordinary one of a hospital's provider (RS256, about 900 bytes), shown again and again, as clients do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import servers, works
from bench.machine import Cores
from bench.report import AIMS
from bench.works import WORKS, Loader, Result
from support.tokens import claims, issuer, rsa, signed

HEAD = ("figure", "JWT", "API key", "difference", "bound")
TOKEN, KEY, NGINX = "jwt", "key", "nginx"
PAIRS = 6
"""Pairs of runs in each of the bench's rounds."""
SECONDS = 1.2
BOUND = 10.0
"""Microseconds of CPU a call that a token may cost more than a key."""


@dataclass(frozen=True)
class Beside:
    """All runs, a token's and a key's in pairs, and nginx's."""

    results: list[Result]

    def rows(self) -> list[list[str]]:
        def late(result: Result) -> float:
            return float(result.load["lat_p50"]) / 1000

        def cpu(result: Result) -> float:
            return result.cpu_request or 0.0

        nginx = statistics.median(self._read(NGINX, cpu))
        there = AIMS["c64"].nginx or nginx
        return [
            self._row(f"CPU a call, c64, µs (nginx: {nginx:.1f})", cpu, f"{BOUND:g}"),
            self._row(f"the same where nginx takes {there:g}", lambda run: cpu(run) * there / nginx, f"{BOUND:g}"),
            self._row("p50 at c64, ms", late, "-"),
        ]

    def _read(self, target: str, read: Callable[[Result], float]) -> list[float]:
        return [read(each) for each in self.results if each.target == target]

    def _row(self, name: str, read: Callable[[Result], float], bound: str) -> list[str]:
        token, key = self._read(TOKEN, read), self._read(KEY, read)
        difference = works.difference(token, key)
        return [name, f"{statistics.median(token):,.2f}", f"{statistics.median(key):,.2f}", f"{difference:,.2f}", bound]

    def json(self) -> dict[str, Any]:
        return {"runs": [each.json() for each in self.results]}


def measure(folder: Path, loader: Loader, mock_binary: Path, *, pairs: int, seconds: float) -> Beside:
    """Measure so many pairs of runs, each credential first in turn, and nginx beside them. Raises BenchError."""
    cores = Cores.choose()
    home = folder / "credential"
    home.mkdir()
    signer = rsa("bench")
    keys = issuer(home, signer, grants=[{"tenant": "bench"}])
    now = int(time.time())
    names = {"name": "Alice Example", "email": "alice@clinic.example", "scope": "openid profile email"}
    token = signed(signer, claims(iat=now, exp=now + 3600, jti="0d4f9a3e-6a51-4f55-9f0e-1f2b3c4d5e6f", **names))
    (work,) = [each for each in WORKS if each.name == "c64"]
    results: list[Result] = []
    with ExitStack() as stack:
        mock = stack.enter_context(servers.mock(mock_binary, folder, cores))
        key = stack.enter_context(servers.vestry(mock, home, cores, name=KEY, issuers=(keys,)))
        nginx = stack.enter_context(servers.bare_nginx(mock, home, cores))
        targets = [key, replace(key, name=TOKEN, key=token), nginx]
        line = work.arguments(seconds, False)
        for number in range(pairs):
            results += [works.measure(work, each, mock, loader, line) for each in targets[:: -1 if number % 2 else 1]]
    return Beside(results)
