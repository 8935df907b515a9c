"""`vestry audit tenant-key`: the key of one tenant's content hashes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vestry.administration import known, look
from vestry.audit.canonical import printable
from vestry.audit.content.bundles import ContentDamaged
from vestry.audit.content.opening import tenants_of
from vestry.audit.content.sealing import tenant_key
from vestry.commands.common import BadSettings, settings_of
from vestry.commands.directory.common import told
from vestry.composition.reader import ReadingRefused, record_reading
from vestry.secret_files import CONTENT_HASH, SecretFault, content_hash
from vestry.settings.tree import Settings


@click.command("tenant-key", short_help="Print the key of one tenant's content hashes.")
@click.argument("tenant")
@click.pass_obj
def command(config: Path | None, tenant: str) -> None:
    """Print, in hex, the key of TENANT's HMACs (mode `hashed`), for the auditor of this tenant.

    With it, and only with it, can be tested whether a text was asked or answered. It says nothing of other tenants.
    That it was printed is recorded. A tenant that was removed still has its key, for what was hashed before.

    \b
    Example (the result stands in `content.texts` of a record, if this was asked):
      printf %s 'the text' | openssl dgst -sha256 -mac HMAC -macopt hexkey:$(vestry audit tenant-key radiology)
    """
    settings = settings_of(config)
    _check(settings, tenant)
    path = settings.secrets_directory / CONTENT_HASH
    if not os.path.lexists(path):
        raise click.UsageError(f"{path} is not there: no content was hashed yet, or it was lost")
    try:
        secret = content_hash(settings)
        record_reading(settings, command="audit tenant-key", asked=tenant, records=None)
    except SecretFault as fault:
        raise BadSettings(fault.faults) from None
    except ReadingRefused as fault:
        raise click.ClickException(str(fault)) from None
    click.echo(tenant_key(secret, tenant).hex())


def _check(settings: Settings, tenant: str) -> None:
    """Refuse a name that is no tenant's, and was none's whose content was kept here. Raises click.ClickException."""
    if tenant in settings.tenants:
        return
    with told():
        tenants = look(settings, lambda office: office.tenants())
    try:
        if tenant in tenants or tenant in tenants_of(settings.audit_directory):
            return
    except (ContentDamaged, OSError) as fault:
        raise click.ClickException(printable(f"What is kept cannot be looked through: {fault}.")) from None
    raise click.UsageError(f"there is no tenant `{tenant}`, and nothing is kept of one. {known(tenant, tenants)}")
