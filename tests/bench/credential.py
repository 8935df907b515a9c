"""What a token costs beside an API key: the same server, the same load, one credential after the other.

The token is an ordinary one of a hospital's provider (RS256, about 900 bytes), shown again and again, as clients do.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import pairs, servers
from bench.machine import Cores
from bench.pairs import Pairs
from bench.works import Loader, Result
from support.tokens import claims, issuer, rsa, signed

HEAD = ("figure", "JWT", "API key", "difference", "bound")
PAIRS = 6
"""Pairs of runs in each of the bench's rounds."""
BOUND = 10.0
"""Microseconds of CPU a call that a token may cost more than a key."""


def rows(found: Pairs) -> list[list[str]]:
    """Of the table."""

    def late(result: Result) -> float:
        return float(result.load["lat_p50"]) / 1000

    return [*found.cpu_rows(BOUND), found.row("p50 at c64, ms", late, "-")]


def measure(folder: Path, loader: Loader, mock_binary: Path, *, many: int, seconds: float) -> Pairs:
    """Measure so many pairs of runs. Raises BenchError."""
    cores = Cores.choose()
    home = folder / "credential"
    home.mkdir()
    signer = rsa("bench")
    keys = issuer(home, signer, grants=[{"tenant": "bench"}])
    now = int(time.time())
    names = {"name": "Alice Example", "email": "alice@clinic.example", "scope": "openid profile email"}
    token = signed(signer, claims(iat=now, exp=now + 3600, jti="0d4f9a3e-6a51-4f55-9f0e-1f2b3c4d5e6f", **names))
    with ExitStack() as stack:
        mock = stack.enter_context(servers.mock(mock_binary, folder, cores))
        key = stack.enter_context(servers.vestry(mock, home, cores, name="key", issuers=(keys,)))
        nginx = stack.enter_context(servers.bare_nginx(mock, home, cores))
        one = replace(key, name="jwt", key=token)
        return pairs.measure(one, key, nginx, mock, loader, pairs=many, seconds=seconds)
