"""`vestry projects`: parts of a tenant's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vestry.admin.bodies import Project
from vestry.commands.directory import documents
from vestry.commands.directory.bodies import from_file, options_of
from vestry.commands.directory.common import as_json, if_version
from vestry.commands.directory.completing import a_project, a_tenant
from vestry.commands.directory.documents import Place, body_cell, field_cell, state_cell
from vestry.types import Kind

COLUMNS = {
    "TENANT": field_cell("tenant"),
    "NAME": field_cell("name"),
    "VERSION": field_cell("version"),
    "STATE": state_cell,
    "MODELS": body_cell("models", "*"),
    "DESCRIPTION": body_cell("description"),
}
of_tenant = click.option(
    "--tenant",
    shell_complete=a_tenant,
    help="Tenant that it belongs to. May be left out where there is only one.",
)


@click.command("list", short_help="List projects.")
@click.option("--tenant", shell_complete=a_tenant, help="Only those of this tenant.")
@as_json
@click.pass_obj
def listed(config: Path | None, tenant: str | None, as_json: bool) -> None:
    """List projects, by tenant and name.

    \b
    Examples:
      vestry projects list
      vestry projects list --tenant radiology --json
    """
    otherwise = "There are no projects to show. Make one with: vestry projects set NAME --tenant TENANT"
    documents.listing(config, Kind.PROJECT, tenant, COLUMNS, otherwise=otherwise, as_json=as_json)


@click.command("show", short_help="Show a project.")
@click.argument("name", shell_complete=a_project)
@of_tenant
@as_json
@click.pass_obj
def show(config: Path | None, name: str, tenant: str | None, as_json: bool) -> None:
    """Show what a project may do, as YAML that `set --file` takes.

    \b
    Example:
      vestry projects show triage --tenant radiology
    """
    documents.show(config, Place(Kind.PROJECT, name, tenant), as_json=as_json)


@click.command("set", short_help="Make or change a project.")
@click.argument("name", shell_complete=a_project)
@of_tenant
@options_of(Project)
@from_file
@if_version
@as_json
@click.pass_obj
def put(config: Path | None, /, *, name: str, tenant: str | None, **asked: Any) -> None:
    """Make a project, or change one. What no option names stays as it is; with --file, the file is the whole of it.

    \b
    Examples:
      vestry projects set triage --tenant radiology --model smollm2-135m-instruct
      vestry projects set triage --tenant radiology --disabled
    """
    documents.put(config, Place(Kind.PROJECT, name, tenant), **asked)


@click.command("remove", short_help="Remove a project that nobody belongs to.")
@click.argument("name", shell_complete=a_project)
@of_tenant
@if_version
@as_json
@click.pass_obj
def remove(config: Path | None, name: str, tenant: str | None, if_version: int | None, as_json: bool) -> None:
    """Remove a project. It is refused while users, or keys that are not revoked, belong to it.

    \b
    Example:
      vestry projects remove triage --tenant radiology
    """
    documents.remove(config, Place(Kind.PROJECT, name, tenant), if_version=if_version, as_json=as_json)
