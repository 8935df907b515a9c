"""`vestry store`: the tables in which tenants, users and keys are kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.directory.schemas import HEAD, REVISIONS
from vestry.commands.common import BadSettings, settings_of
from vestry.composition.store import directory_of
from vestry.faults import ConfigurationError
from vestry.regular import status as status_of
from vestry.secret_files import KEY_HASH, key_hash, state_directory
from vestry.settings.tree import Settings

if TYPE_CHECKING:
    from vestry.adapters.directory.backend import Backend

T = TypeVar("T")


@click.command("migrate", short_help="Bring the tables to this version's schema.")
@click.pass_obj
def migrate(config: Path | None) -> None:
    """Make the tables, or bring them to this version's schema. Where they have it already, nothing is done.

    It is one transaction: it is done whole or not at all, and of several at one time one does it. In SQLite, stop the
    server of the older version first: it may not be able to read them afterwards, and then serves nobody.

    \b
    Example:
      vestry --config vestry.yaml store migrate
    """
    settings = settings_of(config)
    before, after = _done(settings, lambda backend: backend.migrate())
    if before == after:
        click.echo(f"The schema is {after} already.")
    else:
        click.echo(f"The schema is {after} now; before it was {before or 'none'}.")


@click.command("status", short_help="Say which schema there is, and which one is needed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(config: Path | None, as_json: bool) -> None:
    """Say which schema the tables have, and which one this version needs. Exit status 1 if they differ.

    \b
    Examples:
      vestry store status
      vestry store status --json
    """
    settings = settings_of(config)
    found = _done(settings, lambda backend: backend.schema(), make=False) if _there(settings) else None
    if as_json:
        click.echo(json.dumps({"schema": found, "needed": HEAD, "known": list(REVISIONS)}, indent=2))
    else:
        click.echo(f"The schema is {found or 'none'}; this version needs {HEAD}.")
    if found != HEAD:
        raise click.exceptions.Exit(1)


@click.command("downgrade", short_help="Bring the tables back to an older version's schema.")
@click.argument("revision")
@click.pass_obj
def downgrade(config: Path | None, revision: str) -> None:
    """Bring the tables back to an older schema, for a version that needs it. Stop every server of this version first.

    What the older version does not know is lost: take a copy first. Keys whose bounds it would not see are revoked.

    \b
    Example:
      vestry store downgrade v1
    """
    settings = settings_of(config)
    before, after = _done(settings, lambda backend: backend.downgrade(revision))
    click.echo(f"The schema is {after} now; before it was {before}.")


def _there(settings: Settings) -> bool:
    """Whether there is something to look at; looking makes nothing."""
    if settings.store.url is not None:
        return True
    try:
        return status_of(settings.keys_database) is not None
    except OSError as error:
        said = f"The key store {settings.keys_database} cannot be looked at ({error.strerror})."
        raise click.ClickException(said) from None


def _done(settings: Settings, work: Callable[[Backend], Awaitable[T]], *, make: bool = True) -> T:
    """What this comes to, and no file made for it unless `make` says so. Raises click's exceptions."""

    async def do() -> T:
        directory = directory_of(settings, secret)
        try:
            return await directory.asked(work)
        finally:
            await directory.close()

    with _told():
        if make and settings.store.url is None:
            state_directory(settings.state)
        there = make or settings.store.url is None or os.path.lexists(settings.secrets_directory / KEY_HASH)
        secret = key_hash(settings, make=make) if there else bytes(32)  # a schema is told without it
        return asyncio.run(do())


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        raise BadSettings(error.faults) from None
    except DirectoryFault as error:
        raise click.ClickException(f"{error.why[:1].upper()}{error.why[1:]}.") from None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
