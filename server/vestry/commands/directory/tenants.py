"""`vestry tenants`: who shares this server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vestry.commands.directory import documents
from vestry.commands.directory.bodies import from_file, options_of
from vestry.commands.directory.common import as_json, if_version
from vestry.commands.directory.completing import a_tenant
from vestry.commands.directory.documents import Place, body_cell, field_cell, from_cell, state_cell
from vestry.settings.tree import Tenant
from vestry.types import Kind

COLUMNS = {
    "NAME": field_cell("name"),
    "FROM": from_cell,
    "VERSION": field_cell("version"),
    "STATE": state_cell,
    "MODELS": body_cell("models"),
    "CONCURRENCY": body_cell("concurrency"),
    "REQUESTS/MIN": body_cell("requests_per_minute"),
}


@click.command("list", short_help="List tenants.")
@as_json
@click.pass_obj
def listed(config: Path | None, as_json: bool) -> None:
    """List all tenants, by name: those of the settings, and those of the directory.

    \b
    Examples:
      vestry tenants list
      vestry tenants list --json
    """
    documents.listing(config, Kind.TENANT, None, COLUMNS, otherwise="There are no tenants.", as_json=as_json)


@click.command("show", short_help="Show a tenant.")
@click.argument("name", shell_complete=a_tenant)
@as_json
@click.pass_obj
def show(config: Path | None, name: str, as_json: bool) -> None:
    """Show what a tenant may do, as YAML that `set --file` takes.

    \b
    Examples:
      vestry tenants show radiology
      vestry tenants show radiology --json
    """
    documents.show(config, Place(Kind.TENANT, name), as_json=as_json)


@click.command("set", short_help="Make or change a tenant.")
@click.argument("name", shell_complete=a_tenant)
@options_of(Tenant)
@from_file
@if_version
@as_json
@click.pass_obj
def put(config: Path | None, /, *, name: str, **asked: Any) -> None:
    """Make a tenant, or change one. What no option names stays as it is; with --file, the file is the whole of it.

    \b
    Examples:
      vestry tenants set research --model smollm2-135m-instruct --requests-per-minute 600
      vestry tenants set research --unset requests_per_minute --if-version 3
      vestry tenants show research > research.yaml; vestry tenants set research --file research.yaml
    """
    documents.put(config, Place(Kind.TENANT, name), **asked)


@click.command("remove", short_help="Remove a tenant that nobody belongs to.")
@click.argument("name", shell_complete=a_tenant)
@if_version
@as_json
@click.pass_obj
def remove(config: Path | None, name: str, if_version: int | None, as_json: bool) -> None:
    """Remove a tenant. It is refused while the tenant has projects, users, or keys that are not revoked.

    \b
    Example:
      vestry tenants remove research
    """
    documents.remove(config, Place(Kind.TENANT, name), if_version=if_version, as_json=as_json)
