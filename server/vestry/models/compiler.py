"""The C compiler that an engine on a GPU needs: Triton builds a part of each kernel in C when the kernel is first
called, against Python's headers. An engine on a CPU compiles nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vestry.models import packages
from vestry.models.catalog import ModelError
from vestry.models.progress import Progress

WHERE = "/usr/local/bin:/usr/bin:/bin"
"""Where engines, and what prepares their models, look for programs besides their environment."""
EXTENSION = "#include <Python.h>\nint vestry(void) { return PY_MAJOR_VERSION; }\n"
SECONDS = 60
PACKAGES = ("gcc", "libc6-dev", f"python{sys.version_info[0]}.{sys.version_info[1]}-dev")
MEND = packages.asked_for(PACKAGES)


def fault(where: str = WHERE) -> str | None:
    """Why an extension of this Python cannot be compiled here, as part of a sentence; None if it can."""
    program = shutil.which("gcc", path=where) or shutil.which("clang", path=where)
    if program is None:
        return "there is no C compiler (gcc or clang)"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "extension.c")
        source.write_text(EXTENSION)
        headers = sysconfig.get_path("include")
        argv = [program, f"-I{headers}", "-shared", "-fPIC", "-o", f"{folder}/extension.so", os.fspath(source)]
        environ = {"PATH": where, "LC_ALL": "C"}
        try:
            done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as failure:
            return f"{program} does not run: {failure}"
    if not done.returncode:
        return None
    if not Path(headers, "Python.h").is_file():
        return f"Python's headers are missing ({headers}/Python.h)"
    return f"{program} compiles nothing: {' '.join(done.stderr.split())[:300]}"


def ensure(progress: Progress, environ: Mapping[str, str], log: Path, where: str = WHERE) -> None:
    """Have a compiler: as root, Debian's packages are installed where it is missing. Raises ModelError."""
    if (why := fault(where)) is None:
        return
    packages.install(PACKAGES, f"an engine on a GPU compiles, and {why}", progress, environ, log)
    why = fault(where)
    if why is not None:
        raise ModelError(f"An engine on a GPU compiles a part of its kernels when it starts, and {why}. {MEND}")
