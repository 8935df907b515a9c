"""`vestry audit`: the record, its key, what can be found in it and what can be proved of it. One module a command."""

from __future__ import annotations

import click

from vestry.commands.audit import (
    checkpoint,
    erase,
    export,
    index,
    init,
    keygen,
    opening,
    prove,
    prune,
    public_key,
    reconcile,
    show,
    status,
    tenant_key,
    verify,
    verify_proof,
)

COMMANDS = (
    *(init, public_key, checkpoint, status),
    *(show, export, index),
    *(verify, prove, verify_proof, reconcile),
    *(keygen, opening, erase, tenant_key, prune),
)


@click.group("audit", short_help="The audit log: its keys, proofs, and what stands in it.")
def command() -> None:
    """The audit log: its signing key and checkpoints; find and export records; verify a copy, and prove a record; open
    and erase content.

    `verify` and `verify-proof` work on copies, offline, with the public key alone; they need no settings.

    \b
    Exit status: 0 done, 1 it did not work, or a log or a proof does not verify, 2 for what cannot be used.
    """


for module in COMMANDS:
    command.add_command(module.command)
