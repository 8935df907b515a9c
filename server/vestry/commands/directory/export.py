"""`vestry tenants export`: what the directory holds, as `vestry apply` takes it."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.administration import Office, look
from vestry.commands.common import settings_of
from vestry.commands.directory.common import told
from vestry.commands.directory.completing import a_tenant
from vestry.declaring.state import written


@click.command("export", short_help="Print tenants, projects, users and policy as `vestry apply` takes them.")
@click.argument("names", metavar="[TENANT]...", nargs=-1, shell_complete=a_tenant)
@click.pass_obj
def command(config: Path | None, names: tuple[str, ...]) -> None:
    """Print what the directory holds as YAML that `vestry apply` takes: of these tenants, or all of it and the policy.

    What has its default is left out, and so are keys: a file never holds one. Of tenants that the settings declare only
    the projects and users are printed.

    \b
    Examples:
      vestry tenants export > tenants.yaml
      vestry tenants export | vestry apply --file - --prune --dry-run
    """
    settings = settings_of(config)

    async def go(office: Office) -> None:
        wanted = [await office.tenant(name) for name in names] or None
        async for piece in written(office.directory, settings, wanted):
            click.echo(piece, nl=False)

    with told():
        look(settings, go)
