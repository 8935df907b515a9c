"""`vestry users`: persons and programs that tokens and certificates name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vestry.admin.bodies import User
from vestry.commands.directory import documents
from vestry.commands.directory.bodies import from_file, options_of
from vestry.commands.directory.common import as_json, if_version
from vestry.commands.directory.completing import a_tenant, a_user
from vestry.commands.directory.documents import Place, body_cell, field_cell, state_cell
from vestry.commands.directory.projects import of_tenant
from vestry.types import Kind

COLUMNS = {
    "TENANT": field_cell("tenant"),
    "NAME": field_cell("name"),
    "VERSION": field_cell("version"),
    "STATE": state_cell,
    "ROLES": body_cell("roles"),
    "PROJECT": body_cell("project"),
    "MODELS": body_cell("models", "*"),
}


@click.command("list", short_help="List users.")
@click.option("--tenant", shell_complete=a_tenant, help="Only those of this tenant.")
@as_json
@click.pass_obj
def listed(config: Path | None, tenant: str | None, as_json: bool) -> None:
    """List users, by tenant and name.

    \b
    Examples:
      vestry users list
      vestry users list --tenant radiology --json
    """
    otherwise = "There are no users to show. Make one with: vestry users set NAME --tenant TENANT"
    documents.listing(config, Kind.USER, tenant, COLUMNS, otherwise=otherwise, as_json=as_json)


@click.command("show", short_help="Show a user.")
@click.argument("name", shell_complete=a_user)
@of_tenant
@as_json
@click.pass_obj
def show(config: Path | None, name: str, tenant: str | None, as_json: bool) -> None:
    """Show what a user may do, as YAML that `set --file` takes.

    \b
    Example:
      vestry users show alice@hospital.example --tenant radiology
    """
    documents.show(config, Place(Kind.USER, name, tenant), as_json=as_json)


@click.command("set", short_help="Make or change a user.")
@click.argument("name", shell_complete=a_user)
@of_tenant
@options_of(User)
@from_file
@if_version
@as_json
@click.pass_obj
def put(config: Path | None, /, *, name: str, tenant: str | None, **asked: Any) -> None:
    """Make a user, or change one. What no option names stays as it is; with --file, the file is the whole of it.

    \b
    Examples:
      vestry users set alice@hospital.example --tenant radiology --role tenant-admin
      vestry users set bob@hospital.example --tenant radiology --disabled
    """
    if asked["disabled"] and asked["except_house"] is None and "except_house" not in asked["unset"]:
        asked["except_house"] = False  # refused altogether, also where a tenant's administrator has disabled them
    documents.put(config, Place(Kind.USER, name, tenant), **asked)


@click.command("remove", short_help="Remove a user.")
@click.argument("name", shell_complete=a_user)
@of_tenant
@if_version
@as_json
@click.pass_obj
def remove(config: Path | None, name: str, tenant: str | None, if_version: int | None, as_json: bool) -> None:
    """Remove what is kept of a user. What their identity provider gives them stays: to refuse them, use --disabled.

    \b
    Example:
      vestry users remove alice@hospital.example --tenant radiology
    """
    documents.remove(config, Place(Kind.USER, name, tenant), if_version=if_version, as_json=as_json)
