"""`vestry audit prove`: files that prove that a record stands in the log."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import click

from vestry.audit.canonical import printable
from vestry.audit.proofs import Found, Prover
from vestry.audit.reading import ORIGIN
from vestry.audit.tlog.merkle import ProofRefused
from vestry.audit.verify.findings import BadInput
from vestry.commands.audit.telling import told
from vestry.commands.common import settings_of


@click.command("prove", short_help="Write proofs that records stand in the log.")
@click.argument("which", metavar="INDEX|REQUEST_ID")
@click.option("--origin", default="server", show_default=True, help="Name of the log.")
@click.option("--directory", type=click.Path(path_type=Path), help="Audit directory. Default: that of the settings.")
@click.option("--type", "kind", metavar="TYPE", help="Of a request's records, only this type: intent, outcome, ….")
@click.option(
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File to write, - for standard output, or a directory, which is made for several. Default: "
    "ORIGIN-INDEX.tlog-proof here.",
)
@click.pass_obj
def command(
    config: Path | None, *, which: str, origin: str, directory: Path | None, kind: str | None, output: Path | None
) -> None:
    """Write a proof (C2SP tlog-proof) that a record stands in the log, for whoever has the house's public key.

    A number is an index; anything else the id of a request, whose records (intent, outcome, …) are all proven, a file
    each. A proof holds its record in plain text. Only what a checkpoint covers can be proven.

    \b
    Examples:
      vestry audit prove 1024
      vestry audit prove req_0123456789abcdef0123456789abcdef --output proofs/
      vestry audit prove req_0123456789abcdef0123456789abcdef --type outcome --output -
    """
    if directory is None:
        directory = settings_of(config).audit_directory
    with told():
        if not ORIGIN.fullmatch(origin):
            raise BadInput(f"`{origin}` is no name of a log.")
        prover = Prover(directory / origin)
        found = _found(prover, which, kind)
        paths = _paths(found, origin, output)
    for each, path in zip(found, paths, strict=True):
        with told():
            try:
                proof = prover.prove(each).written()
            except ProofRefused as error:
                raise click.ClickException(f"Record {each.index} cannot be proven: {error}. Verify the log.") from None
            if path is not None:
                _write(path, proof)
        if path is None:
            click.echo(proof, nl=False)
        else:
            click.echo(printable(f"{path}: record {each.index}, {each.type}, among {prover.head.size}"))


def _write(path: Path, proof: str) -> None:
    """All of it or nothing: what stands there may prove a record that was pruned since. Raises OSError.

    What is no file itself is written to, and stays what it is: a pipe, a device, a link such as /dev/stdout.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(proof, encoding="utf-8")
        return
    draft = path.with_name(f".vestry-{secrets.token_hex(8)}")
    try:
        draft.write_text(proof, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _found(prover: Prover, which: str, kind: str | None) -> list[Found]:
    """Raises BadInput where there is nothing to prove."""
    if which.isascii() and which.isdigit():
        if len(which) > 16:
            raise BadInput(f"There is no record {which[:16]}…: an index has at most 16 digits.")
        found = [prover.at(int(which))]
    else:
        found = list(prover.of(which))
        if not found:
            raise BadInput(
                "No record of this request stands in the log up to its newest checkpoint. A record is covered within a "
                "minute; a refusal in a flood is only counted."
            )
    fitting = [each for each in found if kind in {None, each.type}]
    if not fitting:
        raise BadInput(f"No record of the type `{kind}`; there is: {', '.join(each.type for each in found)}.")
    return fitting


def _paths(found: list[Found], origin: str, output: Path | None) -> list[Path | None]:
    """Where each proof goes; None for standard output. Several go into a directory, which is made where there is none.

    Raises BadInput where several would go into one file.
    """
    names = [f"{origin.replace('/', '-')}-{each.index}.tlog-proof" for each in found]
    if output is None:
        return [Path(name) for name in names]
    if len(found) > 1 and str(output) != "-" and not os.path.lexists(output):
        output.mkdir()
    if output.is_dir():
        return [output / name for name in names]
    if len(found) > 1:
        types = ", ".join(each.type for each in found)
        raise BadInput(f"There are {len(found)} records ({types}): choose one with --type, or name a directory.")
    return [None if str(output) == "-" else output]
