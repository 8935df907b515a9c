"""What the commands share: reading the settings, and telling what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import click

from vestry.commands.unusable import Unusable
from vestry.configuration.reading import Reading, read
from vestry.faults import ConfigurationError, Fault
from vestry.settings.tree import Settings


class BadSettings(Unusable):
    """The settings cannot be used: every fault, one a line."""

    def __init__(self, faults: list[Fault]):
        super().__init__("\n".join(f"- {fault}" for fault in faults))
        self.faults = faults

    def show(self, file: IO[Any] | None = None) -> None:
        number = len(self.faults)
        click.echo(f"The settings have {number} fault{'s' * (number != 1)}:\n{self.message}", file=file, err=True)


def reading_of(config: Path | None) -> Reading:
    """The settings of this run, and where each of them stands. Raises BadSettings."""
    try:
        return read(config, os.environ)
    except ConfigurationError as error:
        raise BadSettings(error.faults) from None


def settings_of(config: Path | None) -> Settings:
    """The settings of this run. Raises BadSettings."""
    return reading_of(config).settings
