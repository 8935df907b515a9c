"""docs/audit-verify.md: the commands that copy a log while its server writes."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from support.alone import both
from support.audit_logs import House, calls

PAGE = Path(__file__).parents[2] / "docs" / "audit-verify.md"
SLOW = """#!/bin/sh
if [ "$1" = -c ] && mkdir "$FLAG" 2>/dev/null; then
    while [ -z "$(ls "$FLAG")" ]; do sleep 0.02; done
    exec /bin/tar --exclude='server/tile/*/002' "$@"
fi
exec /bin/tar "$@"
"""


def test_a_copy_of_a_log_that_grows_meanwhile(tmp_path: Path) -> None:
    """The copying takes so long that the server signs much more and removes segments: the copy verifies. A tile that
    was partial becomes whole after `tar` has read the folder's list, and the partial one goes before it is read.
    """
    found = re.search(r"## Copy a log.*?```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    house = House(tmp_path / ".vestry/audit")
    house.log("cli", 21)
    log = house.log("server", 701)
    flag, tools, copy = tmp_path / "flag", tmp_path / "bin", tmp_path / "copy"
    tools.mkdir()
    (tools / "tar").write_text(SLOW)
    (tools / "tar").chmod(0o700)
    lines = found[1].replace("copy=/evidence/audit", f"copy={copy}")
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "FLAG": str(flag)}
    with subprocess.Popen(["bash", "-ec", lines], cwd=tmp_path, env=environ) as process:
        until = time.monotonic() + 20
        while not flag.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        log.add(list(calls(3001))[1:]).checkpoint()
        (flag / "go on").touch()
        assert process.wait(20) == 0
    report = both(copy, house.key, log.checkpoints[0])
    assert report is not None
    assert report.passed, [each.sentence for each in report.findings() if each.failure]
    assert report.logs[-1].size == 701
