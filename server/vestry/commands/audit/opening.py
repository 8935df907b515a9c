"""`vestry audit open`: what was asked, and what was answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from vestry.audit.canonical import printable
from vestry.audit.content import opening
from vestry.audit.content.bundles import ContentDamaged
from vestry.audit.content.opening import Found, Leaf, Nothing, Opened, WrongKey
from vestry.audit.reading import COMMANDS, LogReader, NoLog
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.tiles import TileMissing
from vestry.auditor import NoAuditorKey, parse_secret
from vestry.commands.common import BadSettings, settings_of
from vestry.composition.custody import is_own
from vestry.composition.reader import ReadingRefused, record_reading
from vestry.secret_files import SecretFault, read
from vestry.settings.tree import Settings
from vestry.types import ContentMode

_LARGEST_CANDIDATE = 256 << 20
_UNREADABLE = (NoLog, LogUnusable, TileMissing, ValueError, OSError)


@click.command("open", short_help="Show what was asked in a call, and what was answered.")
@click.argument("which", metavar="REQUEST_ID|INDEX")
@click.option("--private-key", type=click.Path(path_type=Path, dir_okay=False), help="The auditor's key file.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A copy of the record. Left out: this server's own, and the reading is recorded.",
)
@click.option("--origin", help="Log that INDEX counts in. Left out: the server's own, or the only one.")
@click.option(
    "--candidate",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file: is this, byte for byte, what was hashed? Exit status 1: neither prompt nor answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the salts that prove it to others.")
@click.pass_obj
def command(
    config: Path | None,
    *,
    which: str,
    private_key: Path | None,
    directory: Path | None,
    origin: str | None,
    candidate: Path | None,
    as_json: bool,
) -> None:
    """Show the prompt and the answer of a call, verified against what its records say of them.

    Sealed content needs the auditor's private key; do this on a copy of the record, on the auditor's machine. On the
    server's own record, what is read, and by whom, is recorded first.

    \b
    Example:
      vestry audit open req_20c05e94f5efbd26f0928fc7529390be --private-key auditor.key --directory copy/audit
    """
    settings = _settings(config, needed=directory is None)
    place = directory or _own(settings)
    private = None if private_key is None else _private(private_key)
    text = None if candidate is None else _bytes(candidate)
    found = _found(place, which, origin, settings)
    if settings is not None and is_own(settings, found.home):
        try:
            asked = found.leaves[0].request_id
            record_reading(settings, command="audit open", asked=asked, records=len(found.leaves))
        except ReadingRefused as fault:
            raise click.ClickException(str(fault)) from None
    parts = list(_parts(found, private, text))
    if as_json:
        click.echo(json.dumps({"request_id": found.leaves[0].request_id, "parts": parts}, indent=2, ensure_ascii=True))
    else:
        for part in parts:
            _say(part)
    fits = [part["fits"] for part in parts if "fits" in part]
    raise SystemExit(max(*(part["status"] for part in parts), int(bool(fits) and not any(fits))))


def _settings(config: Path | None, *, needed: bool) -> Settings | None:
    """The settings; for a copy none are needed, and faulty ones are as none."""
    try:
        return settings_of(config)
    except BadSettings:
        if needed:
            raise
        return None


def _own(settings: Settings | None) -> Path:
    if settings is None:
        raise TypeError("without a directory there are settings")
    return settings.audit_directory


def _private(path: Path) -> bytes:
    try:
        return parse_secret(read(path).decode("ascii", "replace"))
    except (SecretFault, NoAuditorKey) as fault:
        sentence = str(fault.fault) if isinstance(fault, SecretFault) else f"{path}: {fault}"
        raise click.UsageError(sentence) from None


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_CANDIDATE + 1)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_CANDIDATE:
        raise click.UsageError(f"{path} is larger than any content that is kept")
    return content


def _found(directory: Path, which: str, origin: str | None, settings: Settings | None) -> Found:
    try:
        if not which.isdecimal():
            return opening.call_of(directory, which)
        return opening.call_at(_home(directory, origin, settings), int(which[:18]))
    except (LookupError, *_UNREADABLE) as fault:
        raise click.UsageError(printable(str(fault))) from None


def _home(directory: Path, origin: str | None, settings: Settings | None) -> Path:
    """The log that an index counts in."""
    if origin is not None:
        home = directory / origin
        if not home.resolve().is_relative_to(directory.resolve()):
            raise NoLog(f"`{origin}` is no log of {directory}.")
        return home
    found = [home for home in opening.homes(directory) if not COMMANDS.fullmatch(home.name)]
    if settings is not None and directory / settings.audit.origin in found:
        return directory / settings.audit.origin
    if len(found) != 1:
        raise NoLog(f"{directory} holds {len(found)} logs: say with --origin which one the index counts in.")
    return found[0]


def _parts(found: Found, private: bytes | None, candidate: bytes | None) -> Iterator[dict[str, Any]]:
    """What is to be said of each record of the call. `status` is the exit status that it asks for."""
    first = LogReader(found.home).minimum
    if first and found.leaves[0].kind == "answer":
        said = f"the log has no intent of this call: its records below {first} were pruned, or are missing"
        yield {"kind": "prompt", "said": said, "status": 0}
    for leaf in found.leaves:
        part: dict[str, Any] = {"kind": leaf.kind, "index": leaf.index, "mode": leaf.content_mode.value, "status": 0}
        try:
            if candidate is not None and leaf.content_mode == ContentMode.HASHED:
                part |= _compared(found.home, leaf, candidate)
            else:
                part |= _opened(opening.open_content(found.home, leaf, private))
        except Nothing as reason:
            part["said"] = str(reason)
        except WrongKey as fault:
            part |= {"said": str(fault), "status": 2}
        except (ContentDamaged, *_UNREADABLE) as fault:
            part |= {"said": str(fault), "status": 1}
        yield part
    if len(found.leaves) == 1 and found.leaves[0].kind == "prompt":
        yield {"kind": "answer", "said": "the log has no outcome of this call", "status": 0}


def _opened(opened: Opened) -> dict[str, Any]:
    return {"said": "verified against the commitment in the record", **opening.shown(opened)}


def _compared(home: Path, leaf: Leaf, candidate: bytes) -> dict[str, Any]:
    if opening.fits(home, leaf, candidate):
        return {"fits": True, "said": "this is what the file holds, byte for byte: the commitment in the record fits"}
    return {"fits": False, "said": "this is not what the file holds"}


def _say(part: dict[str, Any]) -> None:
    where = f" (record {part['index']}, {part['mode']})" if "index" in part else ""
    cut = f"; {part['left_out']} bytes more were left out" if part.get("left_out") else ""
    line = f"{part['kind']}{where}: {part['said']}{cut}"
    click.echo(printable(line), err="text" not in part and part["status"] > 0)
    if "text" in part:
        click.echo(printable(part["text"]))
