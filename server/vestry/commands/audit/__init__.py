"""`vestry audit`: verify the record, and prove what stands in it. One module a subcommand."""

from __future__ import annotations

import click

from vestry.commands.audit import prove, verify, verify_proof


@click.group("audit", short_help="Verify the record, and prove what stands in it.")
def command() -> None:
    """Verify the record, and prove what stands in it.

    `verify` and `verify-proof` work on copies, offline, with the public key alone; they need no settings.

    \b
    Exit status: 0 done, 1 the log or the proof fails, 2 bad input.
    """


for module in (verify, prove, verify_proof):
    command.add_command(module.command)
