"""libnuma, which an engine on a CPU needs of the distribution: vLLM's kernels are linked with it. Where it is missing,
vLLM only warns, and dies later of a kernel that it does not find. A small Debian does not have it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

from vestry.models import packages
from vestry.models.catalog import ModelError
from vestry.models.progress import Progress

LIBRARY = "libnuma.so.1"
PACKAGES = ("libnuma1",)


def found(library: str) -> bool:
    """Whether programs of this machine can load it."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def ensure(progress: Progress, environ: Mapping[str, str], log: Path, library: str = LIBRARY) -> None:
    """Have it: as root, Debian's package is installed where it is missing. Raises ModelError."""
    if found(library):
        return
    packages.install(PACKAGES, "an engine on a CPU is linked with it", progress, environ, log)
    if not found(library):
        raise ModelError(f"An engine on a CPU needs {library}, which is not here. {packages.asked_for(PACKAGES)}")
