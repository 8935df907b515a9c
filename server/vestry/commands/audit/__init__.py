"""`vestry audit`: the record, its key, and what can be proved of it. One module a command."""

from __future__ import annotations

import click

from vestry.commands.audit import checkpoint, init, prune, public_key, reconcile, status


@click.group("audit", short_help="The audit log: its key, checkpoints, proofs.")
def command() -> None:
    """The audit log: make its signing key, show the public one, sign a checkpoint.

    Exit status: 0 when done, 1 if it did not work or a log did not verify, 2 for what cannot be used.
    """


for module in (init, public_key, checkpoint, status, reconcile, prune):
    command.add_command(module.command)
