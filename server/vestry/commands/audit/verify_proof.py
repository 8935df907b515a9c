"""`vestry audit verify-proof`: that a record stands in the log, from a file and a public key."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vestry.audit.canonical import LEAF_BYTES, clean
from vestry.audit.proofs import PROOF_BYTES, verify_proof
from vestry.audit.tlog.merkle import ProofRefused
from vestry.audit.tlog.notes import PublicKey
from vestry.audit.verify import disk
from vestry.audit.verify.findings import BadInput
from vestry.commands.audit.telling import key_option, told


@click.command("verify-proof", short_help="Verify a proof that a record stands in the log.")
@click.argument("proof", metavar="FILE", type=click.Path(path_type=Path))
@key_option
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    help="File with the record, one line of canonical JSON. Default: the one that the proof carries.",
)
def command(proof: Path, key: PublicKey, record: Path | None) -> None:
    """Verify a proof (C2SP tlog-proof), offline, and print the record that it proves, as JSON, on standard output.

    Exit status: 0 proven, 1 it proves nothing, 2 what was given is no proof, or one of another house.

    \b
    Examples:
      vestry audit verify-proof server-1024.tlog-proof --public-key house.pub
    """
    with told():
        data = _file(proof, PROOF_BYTES)
        leaf = None if record is None else _file(record, LEAF_BYTES + 1).removesuffix(b"\n")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise BadInput(f"{proof} is no proof: it is no UTF-8 text.") from None
        try:
            proven = verify_proof(text, key, leaf)
        except ProofRefused as error:
            raise click.ClickException(f"Not proven: {error}.") from None
    click.echo(
        f"Proven: this is record {proven.index} of the {proven.size} that {clean(proven.name, 300)} had when its "
        f"checkpoint with the root {proven.root.hex()} was signed.",
        err=True,
    )
    click.echo(json.dumps(proven.record, indent=2))


def _file(path: Path, limit: int) -> bytes:
    """Raises BadInput, Unreadable."""
    data = disk.read(path, limit)
    if data is None:
        raise BadInput(f"{path} is not there.")
    return data
