"""`vestry audit`: the record, its key, what can be found in it and what can be proved of it. One module a command."""

from __future__ import annotations

import click

from vestry.commands.audit import checkpoint, export, index, init, prove, public_key, show, verify, verify_proof


@click.group("audit", short_help="The audit log: its key, proofs, what stands in it.")
def command() -> None:
    """The audit log: its signing key and checkpoints; find and export records; verify a copy, and prove a record.

    `verify` and `verify-proof` work on copies, offline, with the public key alone; they need no settings.

    \b
    Exit status: 0 done, 1 it did not work, or a log or a proof does not verify, 2 for what cannot be used.
    """


for module in (init, public_key, checkpoint, show, export, index, verify, prove, verify_proof):
    command.add_command(module.command)
