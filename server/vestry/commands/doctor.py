"""`vestry doctor`: first aid for whoever runs the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from vestry import open_files
from vestry.commands.check import judge
from vestry.diagnosis import house, machine, network
from vestry.diagnosis.findings import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor", short_help="Look at the machine, the settings and what runs, and say what to mend.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def command(config: Path | None, as_json: bool) -> None:
    """Look at everything that the server needs, and say what is wrong and what mends it.

    The machine (Python, packages, disk, clock, limits, GPU), the settings, the state directory and its secrets, the
    key store, the audit log, and whether the server and its engines answer. It changes nothing and prints no secret.
    That API and administration were asked, without a key, stands in the record: two refusals with 401.

    `warn` is something to know, `fail` something to mend. Exit status: 1 if anything fails, else 0.

    \b
    Examples:
      vestry doctor
      vestry --config vestry.yaml doctor --json
    """
    findings = list(examine(config))
    if as_json:
        click.echo(json.dumps([msgspec.structs.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(_line(finding))
        click.echo(_sum(findings))
    if any(finding.state == "fail" for finding in findings):
        raise click.exceptions.Exit(1)


def examine(config: Path | None) -> Iterator[Finding]:
    """Every finding. Where the settings cannot be read at all, only the machine is looked at."""
    settings, faults = judge(config)
    yield from machine.programs()
    yield from machine.packages()
    yield from machine.clock()
    yield from machine.accelerators()
    yield from house.settings_faults(faults)
    if settings is None:
        return
    yield from house.state(settings)
    yield from machine.disk(settings.state)
    yield from machine.durability(settings.audit_directory, settings.audit.commit_seconds)
    yield from machine.open_files(open_files.wanted(settings))
    for part in (house.secrets, house.keys, house.record, house.certificate, network.server, network.engines):
        yield from part(settings)


def _line(finding: Finding) -> str:
    state = click.style(f"{finding.state:<6}", fg=_COLOURS[finding.state])
    line = f"{state}{finding.name:<13}{finding.said}"
    return f"{line}\n{'':<19}-> {finding.mend}" if finding.mend else line


def _sum(findings: list[Finding]) -> str:
    fails, warns = (sum(finding.state == state for finding in findings) for state in ("fail", "warn"))
    return f"\n{fails} to mend, {warns} to know." if fails or warns else "\nEverything is well."
