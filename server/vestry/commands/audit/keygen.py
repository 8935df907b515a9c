"""`vestry audit keygen`: an auditor's key pair."""

from __future__ import annotations

from pathlib import Path

import click

from vestry.audit.content.sealing import new_private
from vestry.auditor import secret_text
from vestry.regular import write_new


@click.command("keygen", short_help="Make an auditor's key pair, away from the server.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def command(file: Path) -> None:
    """Make the key pair that content of mode `sealed` is sealed to.

    The private key is written to FILE, which must not exist yet; the public key is printed. Run this on the auditor's
    own machine: the private key never belongs on the server, which needs the public one only, as `audit.auditor` or a
    tenant's `content.auditor`. Without the private key nobody can open what was sealed: keep copies of it, apart.

    \b
    Example:
      vestry audit keygen auditor.key
    """
    private, public = new_private()
    text = f"# An auditor's private key. Its public half: {public}\n{secret_text(private)}\n"
    try:
        write_new(file, text.encode("ascii"))
    except FileExistsError:
        raise click.UsageError(f"{file} exists already, and is left as it is: name another file") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None
    click.echo(str(public))
