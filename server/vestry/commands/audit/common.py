"""What the commands that look at logs share: which directory, which logs, and how it is told that there are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vestry.audit.canonical import printable
from vestry.audit.reading import NoLog, is_log, origins
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.tiles import TileMissing
from vestry.commands.common import BadSettings, settings_of
from vestry.faults import ConfigurationError

DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="An audit directory, or a copy of one. Left out: the one of the settings.",
)


def directory_of(config: Path | None, directory: Path | None) -> Path:
    """The directory to look at. Raises BadSettings."""
    return directory if directory is not None else settings_of(config).audit_directory


def logs_of(directory: Path) -> dict[str, Path]:
    """Every log of an audit directory by its origin; of one log's own directory, that one. Raises NoLog."""
    found = {name: directory / name for name in origins(directory)}
    if is_log(directory):
        found[directory.resolve().name] = directory
    if not found:
        raise NoLog(f"{directory} holds no audit log.")
    return found


@contextmanager
def told() -> Iterator[None]:
    """What cannot be used ends the command with its sentence and exit status 2; what is damaged with 1."""
    try:
        yield
    except ConfigurationError as fault:
        raise BadSettings(fault.faults) from None
    except NoLog as fault:
        raise click.UsageError(printable(str(fault))) from None
    except OSError as fault:
        raise click.UsageError(printable(f"It cannot be read: {fault}.")) from None
    except (TileMissing, LogUnusable, ValueError, RecursionError) as fault:
        raise click.ClickException(printable(f"{str(fault).rstrip('.')}.")) from None
