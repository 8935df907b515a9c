"""The command line: argv becomes settings and a command."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import click

from vestry import __version__
from vestry.commands import audit, check, completion, directory, doctor, engine, policy, serve, store, up


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vestry")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="VESTRY_CONFIG",
    help="Settings file (YAML). Without it the defaults hold, changed by VESTRY_... variables.",
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """A private model server that keeps a record of every call.

    `vestry up` prepares a small model and serves it. `vestry check` reads the settings and names every fault.
    """
    context.obj = config
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGUSR1, _asked)


def _asked(*_: object) -> None:
    """`vestry audit checkpoint` asks whoever writes to a log. A server takes the signal over; a command, which the
    signal would end, signs when it closes its log anyway.
    """


for module in (up, serve, engine, check, policy, store, audit, doctor, completion):
    main.add_command(module.command)
for group in directory.COMMANDS:
    main.add_command(group)
