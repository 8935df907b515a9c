"""The distribution's packages, where something of the machine is missing: root gets them installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from vestry.models import children
from vestry.models.progress import Progress

PATIENT = ("-o", "DPkg::Lock::Timeout=300")
"""A machine that was just made installs its own updates, and apt-get fails at once where another one is at work."""


def install(names: Sequence[str], why: str, progress: Progress, environ: Mapping[str, str], log: Path) -> None:
    """By apt-get, where we are root and it is here; else nothing is done. Raises ModelError if it fails."""
    tool = shutil.which("apt-get", path=environ.get("PATH"))
    if os.geteuid() or tool is None:
        return
    listed = " ".join(names)
    with progress.step(f"{listed}: {why}"):
        quiet = {**environ, "DEBIAN_FRONTEND": "noninteractive"}
        children.run("apt-get update", (tool, "update"), quiet, log)
        command = (tool, *PATIENT, "install", "--yes", "--no-install-recommends", *names)
        children.run(f"Installing {listed}", command, quiet, log)


def asked_for(names: Sequence[str]) -> str:
    """The sentence for who has to install them."""
    return f"On Debian or Ubuntu: apt-get install {' '.join(names)}"
