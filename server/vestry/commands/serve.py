"""`vestry serve`: the server, in the foreground."""

from __future__ import annotations

import ctypes
import gc
import logging
import resource
import sys
from pathlib import Path

import click
import uvloop

from vestry import open_files
from vestry.adapters.directory.faults import DirectoryFault
from vestry.app import Secrets, Server
from vestry.audit.scan import LogUnusable
from vestry.commands.common import BadSettings, reading_of
from vestry.composition.signing import signing
from vestry.configuration.inspection import inspect
from vestry.errors import AuditUnavailable
from vestry.models.catalog import ModelError
from vestry.models.chosen import served
from vestry.secret_files import SecretFault, engine_key, key_hash, state_directory

log = logging.getLogger("vestry")
M_ARENA_MAX = -8
"""malloc.h"""


@click.command("serve", short_help="Serve the API in front of engines that run already.")
@click.pass_obj
def command(config: Path | None) -> None:
    """Serve the OpenAI-compatible API, and the operations port, in the foreground.

    The engines are those that the settings name under `models`; start them with `vestry engine MODEL`, or let
    `vestry up` start everything. SIGTERM, Ctrl-C or the end of the terminal lets calls in progress end, then stops.

    \b
    Example:
      vestry --config vestry.yaml serve
    """
    _share_one_heap()
    reading = reading_of(config)
    settings = reading.settings
    try:
        state_directory(settings.state)
        if faults := inspect(settings, reading.places.of):
            raise BadSettings(faults)
        models = served(settings)
        secrets = Secrets(key_hash(settings), engine_key(settings), signing(settings))
    except (ModelError, OSError) as fault:
        raise click.ClickException(str(fault)) from None
    except SecretFault as fault:
        raise BadSettings(fault.faults) from None
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold keys, secrets, and what was asked
    if not open_files.take(files := open_files.wanted(settings)):
        log.warning("%d open files are allowed, and %d may be wanted: see vestry doctor", open_files.allowed(), files)
    try:
        uvloop.run(_serve(Server(settings, models, secrets)))
    except (OSError, LogUnusable) as fault:
        raise click.ClickException(str(fault)) from None
    except AuditUnavailable:
        where = settings.audit_directory
        raise click.ClickException(f"The start could not be recorded in {where}, so nothing is served.") from None
    except DirectoryFault as fault:
        raise click.ClickException(f"{fault.why}.") from None


async def _serve(server: Server) -> None:
    async with server:
        _calm_the_collector()
        await server.until_stopped()


def _calm_the_collector() -> None:
    """Leave what start-up made out of every later collection, and collect less often: a call makes no cycles.

    Measured at a tenth of a call's cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _share_one_heap() -> None:
    """One heap for all threads, which take turns anyway: glibc gives each its own, and each keeps what it has freed.

    Measured at 5 MB of 126. See mallopt(3); other C libraries have none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
