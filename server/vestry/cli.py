"""The command line: argv becomes settings and a command."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from vestry import __version__
from vestry.commands.groups import GROUPS
from vestry.commands.late import LateGroup

STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Program(LateGroup):
    """The program. Before it loads a command, SIGTERM ends it. That its output cannot be written, as on a full disk, is
    told in a sentence; only a pipe that nobody reads any more is left to click, which ends the command without one.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _have_standard_streams()
        if os.getpid() == 1:
            signal.signal(signal.SIGTERM, _ended)
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is not None or error.errno not in NO_ROOM:
                raise
            raise click.ClickException(f"The output cannot be written: {error.strerror}.") from None


def _have_standard_streams() -> None:
    """Have /dev/null for each that was closed: else the next file has its number, be it the record, and gets what any
    library writes there. What a locale such as ISO 8859-1 has no character for is escaped, on the output as it is among
    errors: a name that somebody gave in another script ends no command.
    """
    closed = {name: mode for name, mode in STREAMS.items() if getattr(sys, name) is None}
    for name, mode in closed.items():
        number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        os.set_inheritable(number, True)
        setattr(sys, name, os.fdopen(number, mode))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _ended(number: int, _: object) -> NoReturn:
    """What the signal does to every other process. From the first one of a container the kernel keeps it, where nothing
    waits for it: a server that was told to stop while it came up would serve until it is killed.
    """
    os._exit(128 + number)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    late={
        "up": ("up:command", "Set everything up on this machine, and serve."),
        "serve": ("serve:command", "Serve the API in front of engines that run already."),
        "engine": ("engine:command", "Run one model's engine, and keep it running."),
        "check": ("check:command", "Name every fault of the settings, with its place and the mend."),
        "doctor": ("doctor:command", "Look at the machine, the settings and what runs, and say what to mend."),
        "completion": ("completion:command", "Print a script with which the shell completes `vestry`."),
        "apply": ("directory.apply:command", "Make tenants, projects, users and policy as files declare them."),
    },
)
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


for group in GROUPS:
    main.add_command(group)
