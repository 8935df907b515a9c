"""`vestry audit init`: the key that signs the audit log."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vestry.commands.common import BadSettings, settings_of
from vestry.composition.signing import make_signer, new_signer
from vestry.secret_files import SecretFault


@click.command("init", short_help="Make the key that signs the audit log.")
@click.option("--name", help="Name of the house, such as hospital.example/vestry. Left out: this machine's.")
@click.option(
    "--stdout", is_flag=True, help="Write the private key to standard output, for a program, and keep it nowhere."
)
@click.pass_obj
def command(config: Path | None, name: str | None, stdout: bool) -> None:
    """Make the key that signs the audit log, and print its public half.

    Give the public key to whoever will verify the log, today: it is all that they need, and it is worth what its way
    to them is worth. The private key is written to the secrets directory, for this user alone. Where there is a key
    already, nothing is changed, and its public half is printed.

    With `--stdout` a new private key goes to standard output, as for a secret manager, and its public half to standard
    error; no settings are read, and nothing is written.
    """
    try:
        if stdout:
            _hand_over(name)
        else:
            _make(config, name)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--name") from None


def _hand_over(name: str | None) -> None:
    if sys.stdout.isatty():
        raise click.UsageError("Standard output is a terminal, which would show the private key: use a pipe or a file.")
    signer = new_signer(name)
    click.echo("The public key, for whoever verifies the log:", err=True)
    click.echo(str(signer), err=True)
    click.echo(signer.written())


def _make(config: Path | None, name: str | None) -> None:
    settings = settings_of(config)
    try:
        signer, made = make_signer(settings, name)
    except SecretFault as fault:
        raise BadSettings(fault.faults) from None
    if name is not None and signer.public.name != name:
        raise click.ClickException(f"{settings.signing_key} holds the key of {signer.public.name} already.")
    click.echo(
        f"{'Made' if made else 'There is a key already:'} {settings.signing_key}. Keep a copy of it apart.", err=True
    )
    click.echo("The public key, for whoever verifies the log:", err=True)
    click.echo(str(signer))
