"""`vestry policy show|set|remove`: the rules that the directory holds, behind those of the settings."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.commands.directory import documents
from vestry.commands.directory.common import as_json, if_version
from vestry.commands.directory.documents import Place
from vestry.types import Kind

POLICY = Place(Kind.POLICY, "policy")


@click.command("show", short_help="Show the directory's policy.")
@as_json
@click.pass_obj
def show(config: Path | None, as_json: bool) -> None:
    """Show the rules that the directory holds, as YAML that `set --file` takes. `rules` shows all that are in force.

    \b
    Example:
      vestry policy show > policy.yaml
    """
    documents.show(config, POLICY, as_json=as_json)


@click.command("set", short_help="Write the directory's policy.")
@click.option(
    "-f",
    "--file",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File with the whole of it, YAML or JSON; `-` is standard input.",
)
@if_version
@as_json
@click.pass_obj
def put(config: Path | None, /, *, file: Path, if_version: int | None, as_json: bool) -> None:
    """Write the rules that the directory holds, all of them. They are tried after those of the settings.

    \b
    Examples:
      vestry policy set --file policy.yaml
      vestry policy set --file policy.yaml --if-version 3
    """
    documents.put(config, POLICY, file=file, if_version=if_version, as_json=as_json)


@click.command("remove", short_help="Remove the directory's policy.")
@if_version
@as_json
@click.pass_obj
def remove(config: Path | None, if_version: int | None, as_json: bool) -> None:
    """Remove the rules that the directory holds. Those of the settings stay.

    \b
    Example:
      vestry policy remove
    """
    documents.remove(config, POLICY, if_version=if_version, as_json=as_json)
