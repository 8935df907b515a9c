#!/usr/bin/env python3
"""Install the distribution's packages that the tests use, those of `deploy/test-packages.txt` that are missing.

Needs root and apt for that; without them it names what is missing, and fails. Nothing it installs is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).with_name("test-packages.txt")


def wanted() -> list[str]:
    """The names in the list; `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def installed(package: str) -> bool:
    """True if dpkg has it."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.returncode == 0 and found.stdout == "installed"


def main() -> None:
    if not shutil.which("dpkg-query"):
        sys.exit(f"packages: this is no Debian or Ubuntu. Install these by hand: {', '.join(wanted())}")
    missing = [package for package in wanted() if not installed(package)]
    if not missing:
        return
    print(f"packages of the distribution: {' '.join(missing)}", flush=True)  # noqa: T201 - this is a command
    if os.geteuid() or not shutil.which("apt-get"):
        sys.exit(f"packages: the tests need these. Install them: sudo apt-get install {' '.join(missing)}")
    # RUNLEVEL=1: invoke-rc.d starts no service in that level, so a server that is only tested with stays quiet.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    patient = ["-o", "DPkg::Lock::Timeout=300"]  # a machine that was just made installs its own updates
    for step in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        argv = ["apt-get", "--quiet", "--quiet", *patient, *step]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"packages: apt-get {step[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
