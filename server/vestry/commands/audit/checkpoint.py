"""`vestry audit checkpoint`: a signed checkpoint now."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import click

from vestry.audit.opening import open_store
from vestry.audit.reading import LogReader, journal
from vestry.audit.scan import LogLocked
from vestry.audit.store import LOCK
from vestry.commands.audit.common import told
from vestry.commands.common import settings_of
from vestry.composition.outside import OutsideCopies
from vestry.composition.signing import signing
from vestry.settings.tree import Settings

PATIENCE_SECONDS = 15.0
AGAIN_SECONDS = 0.5
_ASKED = "Look at the server's log."
_NOT_ASKED = (
    "Whoever writes to this log is no process that can be seen here, and was not asked: run the command where the "
    "server runs, as in its container."
)


@click.command("checkpoint", short_help="Sign a checkpoint now.")
@click.option("--origin", help="Which log. Left out: the server's.")
@click.pass_obj
def command(config: Path | None, origin: str | None) -> None:
    """Sign a checkpoint that covers every record so far, and print it.

    Where a server runs, it is asked for it (SIGUSR1); else it is signed here.
    """
    settings = settings_of(config)
    origin = origin or settings.audit.origin
    home = settings.audit_directory / origin
    with told():
        reader = LogReader(home)
        wanted = max((index + 1 for index, _ in journal(home)), default=0)
        try:
            _sign(settings, origin)
        except LogLocked:
            _ask(home, reader, wanted)
        if not _covers(reader, wanted):
            raise click.ClickException(f"No checkpoint could be written to {home}.")
        note = reader.note() or ""
    click.echo(note, nl=False)


def _sign(settings: Settings, origin: str) -> None:
    """Sign it here, of a log that the outside copies do not speak against, and let them have it."""
    signs = signing(settings)
    copies = OutsideCopies(settings, signs.signer.public, origin=origin, seconds=10)
    open_store(
        settings.audit_directory,
        origin,
        signing=signs,
        segment_bytes=settings.audit.segment_bytes,
        confirm=copies.confirm,
    ).close()
    copies.start()
    copies.close()


def _ask(home: Path, reader: LogReader, wanted: int) -> None:
    """Ask whoever holds the log, and wait for what it signs. Raises click.ClickException, or NoLog."""
    until = time.monotonic() + PATIENCE_SECONDS
    asked = False
    while not _covers(reader, wanted):
        if time.monotonic() > until:
            look = _ASKED if asked else _NOT_ASKED
            raise click.ClickException(f"No checkpoint came within {PATIENCE_SECONDS:.0f} s. {look}")
        asked |= _signal(home)  # again and again: a batch that was seen on the disk may not be the notary's yet
        again = time.monotonic() + AGAIN_SECONDS
        while time.monotonic() < again and not _covers(reader, wanted):
            time.sleep(0.05)


def _signal(home: Path) -> bool:
    """Ask the process that the lock names, if it is the one: its number may be one of another container or machine,
    and here that of a stranger, which SIGUSR1 would end. Returns whether it was asked: it may just have ended.
    """
    lock = home / LOCK
    try:
        process = int(lock.read_text(encoding="ascii"))
        if not _has_open(process, lock):
            return False
        os.kill(process, signal.SIGUSR1)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError) as error:
        raise click.ClickException(
            f"The process that writes to {home} cannot be asked for a checkpoint: {error}."
        ) from None
    return True


def _has_open(process: int, path: Path) -> bool:
    """Whether a process has this file open. Raises OSError where that cannot be seen."""
    there = path.stat()
    try:
        opened = list(Path(f"/proc/{process}/fd").iterdir())
        for each in opened:
            with suppress(FileNotFoundError):  # closed meanwhile
                if os.path.samestat(each.stat(), there):
                    return True
    except FileNotFoundError:
        return False
    except PermissionError:  # it has a capability, such as that of port 443, and this process has not: ptrace(2)
        return _has_locked(process, there.st_ino)
    return False


def _has_locked(process: int, inode: int) -> bool:
    """Whether a process has locked a file of this number, as everybody may see: /proc/locks, proc(5)."""
    locks = (line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())
    return any(
        each[1] == "FLOCK" and each[4] == str(process) and each[5].rpartition(":")[2] == str(inode) for each in locks
    )


def _covers(reader: LogReader, wanted: int) -> bool:
    head = reader.head()
    return head is not None and head.size >= wanted
