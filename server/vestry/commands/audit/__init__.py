"""`vestry audit`: the record, for those who keep it and those who check it. One module a subcommand."""

from __future__ import annotations

import click

from vestry.commands.audit import erase, keygen, opening, tenant_key


@click.group("audit", short_help="Open, erase, and hand out what stands in the record.")
def command() -> None:
    """The record, for those who keep it and those who check it.

    \b
    Exit status: 0 done, 1 refused, or not what the record says, 2 a wrong option, key or directory.
    """


for module in (keygen, opening, erase, tenant_key):
    command.add_command(module.command)
