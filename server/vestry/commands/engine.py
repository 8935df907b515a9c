"""`vestry engine MODEL`: one engine, in the foreground, kept running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
from pathlib import Path

import click

from vestry.commands.common import settings_of
from vestry.commands.running import announcer, engine_program, keep
from vestry.commands.unusable import Unusable
from vestry.faults import ConfigurationError
from vestry.models import catalog
from vestry.models.catalog import ModelError
from vestry.models.chosen import choose
from vestry.models.launch import KEY, Launch, plan
from vestry.models.ports import alone_at, require_free
from vestry.models.progress import Progress
from vestry.models.supervise import NeverReadyError, Supervisor
from vestry.secret_files import ENGINE_KEY, engine_key
from vestry.settings.tree import Settings


@click.command("engine", short_help="Run one model's engine, and keep it running.")
@click.argument("model", required=False)
@click.option("--list", "list_models", is_flag=True, help="Print the catalog of models, and stop.")
@click.option("--print", "print_only", is_flag=True, help="Print the command that would be run, and stop.")
@click.option("--verbose", is_flag=True, help="Show the engine's own output here too, not only in its log.")
@click.pass_obj
def command(config: Path | None, model: str | None, list_models: bool, print_only: bool, verbose: bool) -> None:
    """Run the engine (vLLM) of MODEL in the foreground, and start it again if it crashes.

    MODEL is a name under `models` in the settings, or an entry of the catalog. Its files must be prepared (`vestry
    up` does it), or be a folder that `path` names. The engine listens on loopback or a private address, works
    offline, loads safetensors only, and answers only with the key in the secrets directory. SIGTERM or Ctrl-C
    lets calls in progress end.

    Exit status: 0 when it was told to stop, 1 if the engine does not start, 2 if it cannot be started as asked.

    \b
    Examples:
      vestry engine --list
      vestry engine smollm2-135m-instruct
      vestry engine smollm2-135m-instruct --print
    """
    if list_models:
        click.echo(_catalog())
        return
    if model is None:
        raise click.UsageError("Name a model. `vestry engine --list` prints those that there are.")
    settings = settings_of(config)
    try:
        chosen = choose(settings, model)
        if print_only:
            click.echo(_printed(settings, plan(settings, chosen, "", os.environ)))
            return
        launch = plan(settings, chosen, engine_key(settings), os.environ)
        require_free("the engine", chosen.model.engine.host, chosen.model.engine.port, f"models.{model}.engine.port")
    except (ModelError, ConfigurationError) as fault:
        raise Unusable(str(fault)) from None
    try:
        with alone_at(launch.url, settings.state):
            asyncio.run(_run(launch, verbose=verbose))
    except (NeverReadyError, OSError) as fault:
        raise click.ClickException(str(fault)) from None
    except ModelError as fault:
        raise Unusable(str(fault)) from None


async def _run(launch: Launch, *, verbose: bool) -> None:
    progress = Progress()
    program = engine_program(launch)
    progress.say(f"{program.name} at {launch.url}; its log is {launch.log}")
    supervisor = Supervisor(
        program, observer=announcer(progress, program.name), echo=_to_standard_error if verbose else None
    )

    async def once_ready() -> None:
        """Its state has been announced; there is nothing to add."""

    await keep([[supervisor]], progress, once_ready)


def _to_standard_error(piece: bytes) -> None:
    with contextlib.suppress(OSError):  # the engine's log has it; a closed terminal is no reason to stop
        sys.stderr.buffer.write(piece)
        sys.stderr.buffer.flush()


def _catalog() -> str:
    """A table of the catalog."""
    rows = [("NAME", "FAMILY", "QUANTIZED", "CONTEXT", "WEIGHTS", "GPU", "RUNS ON", "LICENCE")]
    for name, entry in catalog.entries().items():
        memory = (f"{entry.memory.weights:g} GiB", f"{entry.memory.gpu} GiB")
        devices = " or ".join(each.upper() for each in entry.devices)
        rows.append(
            (name, entry.family, entry.quantization, str(entry.context_length), *memory, devices, entry.licence)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _printed(settings: Settings, launch: Launch) -> str:
    """A shell command that does the same. The key stays out: the shell reads it from its file."""
    key = f'{KEY}="$(cat {shlex.quote(os.fspath((settings.secrets_directory / ENGINE_KEY).absolute()))})"'
    named = [
        key if name == KEY else f"{name}={shlex.quote(value)}" for name, value in sorted(launch.environment.items())
    ]
    return " \\\n  ".join(["env -i", *named, shlex.join(launch.argv)])
