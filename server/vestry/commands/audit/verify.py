"""`vestry audit verify`: a copy of the record against the house's public key."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from vestry.audit.canonical import printable
from vestry.audit.tlog.notes import PublicKey
from vestry.audit.verify import disk, house
from vestry.audit.verify.findings import BadInput, Finding, LogReport, Report
from vestry.audit.verify.house import Outside
from vestry.commands.audit.telling import key_option, told
from vestry.models.progress import Progress


@click.command("verify", short_help="Verify a copy of the record, offline.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@key_option
@click.option(
    "--checkpoint",
    "checkpoints",
    metavar="OLD",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File with older or outside checkpoints, which the log must continue; may be repeated.",
)
@click.option(
    "--registry",
    "registries",
    metavar="OLD",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File with older or outside registries of logs (`origins`), whose logs must all be here; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def command(
    directory: Path, key: PublicKey, checkpoints: tuple[Path, ...], registries: tuple[Path, ...], *, as_json: bool
) -> None:
    """Verify a copy of an audit directory, or of one log in it, with the house's public key and nothing else.

    It names the first bad record. What is only worth knowing (calls in progress, records that no checkpoint covers
    yet, prunings) is told, and is no failure. Progress goes to standard error, the report to standard output.

    Exit status: 0 verified, 1 the log fails, 2 what was given cannot be verified at all.

    \b
    Examples:
      vestry audit verify copy/audit --public-key house.pub
      vestry audit verify copy/audit --public-key house.pub --checkpoint kept/server-checkpoint
      vestry audit verify copy/audit --public-key house.pub --registry kept/origins
    """
    with told():
        outside = [each for path in checkpoints for each in _outside(path)]
        listed = [each for path in registries for each in _outside(path)]
        with Progress().bar("verifying", house.sizes(directory)) as bar:
            report = house.verify(directory, key, checkpoints=outside, registries=listed, progress=bar.advance)
    if as_json:
        whole = {"passed": report.passed, **msgspec.to_builtins(report)}
        click.echo(json.dumps(whole, indent=2))  # escapes what is no UTF-8, as the copy's own path may be
    else:
        click.echo(printable("\n".join(_lines(report))))
    if not report.passed:
        raise click.exceptions.Exit(1)


def _outside(path: Path) -> list[Outside]:
    """The notes in a file. Raises BadInput, Unreadable."""
    text = disk.text(path)
    if text is None:
        raise BadInput(f"{path} is not there.")
    try:
        return [Outside(str(path), note) for note in house.notes_of(text)]
    except BadInput as error:
        raise BadInput(f"{path}: {error}.") from None


def _lines(report: Report) -> list[str]:
    lines = [_log(log, report) for log in report.logs]
    lines += [_finding(each) for each in report.findings()]
    failures = sum(log.failures for log in report.logs) + sum(each.failure for each in report.house)
    told = sum(each.failure for each in report.findings())
    if failures > told:
        lines.append(f"… and {failures - told} failures more, which are not listed.")
    alone = " One log alone: whether others are missing was not looked at." if report.alone else ""
    lines.append(f"Verified.{alone}" if report.passed else f"NOT verified: {failures} failures.{alone}")
    return lines


def _log(log: LogReport, report: Report) -> str:
    verdict = "FAILED" if log.failures else "ok"
    at = f"{log.first_kept} to {log.size - 1}" if log.size else "none"
    bad = "" if log.first_bad is None else f"; first bad index {log.first_bad}"
    root = (
        f"; root {log.root[:16]}… {'recomputed' if log.root_matches else 'NOT the one recomputed'}" if log.root else ""
    )
    return f"{log.origin or report.key}: {verdict}; records {at}{root}; {log.beyond} beyond the checkpoint{bad}"


def _finding(finding: Finding) -> str:
    place = finding.origin or "registry"
    if finding.index is not None:
        place += f", record {finding.index}"
    line = f"{'FAILED' if finding.failure else 'note'} [{finding.kind}] {place}: {finding.sentence}"
    if finding.expected:
        line += f"\n    expected: {finding.expected}\n    there is: {finding.found or 'none'}"
    return line
