"""The engine's environment and the small model that the tests take, made by the product's own code; what a real
identity provider needs; and the server's image.

Whoever comes second waits for the first and finds it all there: the product's locks see to that. As a program it is
what `run.py` starts beside the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support import containers
from support.providers import installed
from vestry.models import catalog, environment, keeper, prepare
from vestry.models.catalog import ModelError
from vestry.models.places import Places
from vestry.models.progress import Progress

KEPT = Path(os.environ.get("VESTRY_TEST_STATE", Path(__file__).resolve().parents[2] / ".vestry"))
SMALL = "smollm2-135m-instruct"
NICENESS = 5  # the tests that run meanwhile have clocks, this has none; but it must be ready before they are through


def prepared() -> Places:
    """Where both are, once they are. Raises ModelError."""
    places = Places(KEPT)
    places.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    progress = Progress()
    stamp = environment.ensure(places.engine, progress, os.environ)
    prepare.prepare(catalog.entry(SMALL), places, stamp, progress)
    return places


def main() -> None:
    """Make all of it, in the background, where the tests leave a core idle; nothing of it outlives them."""
    keeper.prctl(keeper.PR_SET_PDEATHSIG, signal.SIGINT)
    os.nice(NICENESS)
    try:
        installed()
        prepared()
        if containers.possible():
            containers.build()
    except (ModelError, subprocess.SubprocessError, AssertionError) as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
