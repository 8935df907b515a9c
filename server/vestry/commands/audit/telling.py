"""What the audit commands share: keys as they are given, and bad input told in a sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from vestry.audit.canonical import printable
from vestry.audit.reading import NoLog
from vestry.audit.tlog.notes import NoteRefused, PublicKey
from vestry.audit.tlog.tiles import TileMissing
from vestry.audit.verify import disk
from vestry.audit.verify.disk import Unreadable
from vestry.audit.verify.findings import BadInput
from vestry.commands.unusable import Unusable


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Bad input in here ends the command with its sentence and exit status 2."""
    try:
        yield
    except (BadInput, NoLog) as error:
        raise Unusable(printable(str(error))) from None
    except (Unreadable, TileMissing, NoteRefused, ValueError) as error:
        raise Unusable(printable(f"{error}.")) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Unusable(printable(f"{where}{error.strerror or error}.")) from None


def public_key(_context: click.Context, option: click.Parameter, value: str) -> PublicKey:
    """A public key (vkey), or one in a file."""
    text = value
    if "+" not in value or disk.regular(Path(value)):
        try:
            read = disk.text(Path(value))
        except Unreadable as error:
            raise click.BadParameter(f"{error}.", param=option) from None
        if read is None:
            raise click.BadParameter("this is neither a public key (NAME+HASH+KEY) nor a file.", param=option)
        text = read
    if text.startswith("PRIVATE+KEY+"):
        raise click.BadParameter("this is the signing key: keep it secret, and give the public key.", param=option)
    try:
        return PublicKey.parse(text)
    except NoteRefused as error:
        raise click.BadParameter(f"{error}.", param=option) from None


key_option = click.option(
    "--public-key",
    "key",
    metavar="KEY",
    required=True,
    callback=public_key,
    help="Public key, or a file that holds it.",
)
"""`--public-key KEY`, as a PublicKey called `key`."""
