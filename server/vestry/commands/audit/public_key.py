"""`vestry audit public-key`: what an auditor verifies with."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.commands.common import BadSettings, settings_of
from vestry.composition.signing import other_key, signer
from vestry.secret_files import SecretFault


@click.command("public-key", short_help="Print the public key of the audit log.")
@click.option("--origin", help="Print it as the key of one log, as tools that know only one log want it.")
@click.pass_obj
def command(config: Path | None, origin: str | None) -> None:
    """Print the public key that verifies every log of this house (C2SP signed-note's form)."""
    settings = settings_of(config)
    try:
        key = signer(settings)
    except SecretFault as fault:
        raise BadSettings(fault.faults) from None
    if (other := other_key(settings, key)) is not None:
        click.echo(f"It does not verify the logs that are here: {other.fault}.", err=True)
    public = key.public
    click.echo(str(public if origin is None else public.of(origin)))
