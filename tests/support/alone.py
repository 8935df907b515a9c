"""The one-file verifier, as a module, and both verifiers asked about the same copy."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

from vestry.audit.tlog.notes import PublicKey
from vestry.audit.verify import house
from vestry.audit.verify.findings import BadInput, Report
from vestry.audit.verify.house import Outside

FILE = Path(__file__).resolve().parents[2] / "deploy" / "vestry_verify.py"


def module() -> ModuleType:
    """deploy/vestry_verify.py; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("vestry_verify", FILE)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


ALONE = module()


def asked(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the one-file verifier."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = ALONE.main(list(arguments))
    return status, out.getvalue(), err.getvalue()


def first_bad(report: Report) -> dict[str, int | None]:
    """The first bad index of each log that fails, None where there is none; the registry's own faults under ``."""
    found: dict[str, int | None] = {}
    for each in report.house:
        if each.failure:
            found.setdefault(each.origin, each.index)
    for log in report.logs:
        if log.failures:
            before = found.get(log.origin)
            found[log.origin] = log.first_bad if before is None else before
    return found


def both(directory: Path, key: PublicKey, *checkpoints: str, registries: tuple[str, ...] = ()) -> Report | None:
    """What the library says, after the one-file verifier has said the same: verdict, and first bad index of each log.

    None where both refuse to look at it.
    """
    kept = directory.parent / f"{directory.name}-kept"
    kept.write_text("".join(checkpoints))
    more = ["--checkpoint", str(kept)] if checkpoints else []
    if registries:
        listed = directory.parent / f"{directory.name}-listed"
        listed.write_text("".join(registries))
        more += ["--registry", str(listed)]
    status, out, err = asked(str(directory), "--public-key", str(key), "--json", *more)
    try:
        report = house.verify(
            directory,
            key,
            checkpoints=[Outside("kept", each) for each in checkpoints],
            registries=[Outside("listed", each) for each in registries],
        )
    except BadInput:
        assert (status, bool(err)) == (2, True), (status, out, err)
        return None
    assert json.loads(out) == {"passed": report.passed, "first_bad": first_bad(report)}
    assert status == (0 if report.passed else 1)
    return report
