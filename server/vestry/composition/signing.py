"""The house's signing key: who signs the audit logs, made once by `vestry audit init` and never by itself.

A key made silently would be a key that nobody has written down: whoever verifies the log must have had its public half
from the day on which the log began.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

from vestry.audit.notary import Signing
from vestry.audit.reading import NoLog, origins
from vestry.audit.registry import REGISTRY
from vestry.audit.registry import read as read_registry
from vestry.audit.tlog.notes import NoteRefused, Signer
from vestry.audit.tlog.tiles import CHECKPOINT
from vestry.secret_files import SecretFault, read, read_or_make
from vestry.settings.tree import Settings

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*")

_NAMES = (
    "use up to 128 lower-case letters, digits, dots and hyphens, in parts divided by single slashes, such as "
    "hospital.example/vestry"
)


def signing(settings: Settings) -> Signing:
    """With what, and how often, this server's logs are signed. Raises SecretFault."""
    audit = settings.audit
    return Signing(signer(settings), records=audit.checkpoint_records, seconds=audit.checkpoint_seconds)


def signer(settings: Settings) -> Signer:
    """The house's key. Raises SecretFault where it is missing, exposed, or not a signing key."""
    path = settings.signing_key
    if fault := lost_key(settings):
        raise fault
    if not os.path.lexists(path):
        mend = "Make one with `vestry audit init`; or restore it, if the audit log has been signed before"
        raise SecretFault(path, "the key that signs the audit log is missing", mend)
    try:
        found = Signer.parse(read(path).decode("ascii"))
    except (NoteRefused, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, NoteRefused) else "it is no signing key"
        raise SecretFault(path, why, "Restore it from a copy") from None
    if not _is_name(found.public.name):
        raise SecretFault(path, f"`{found.public.name}` cannot name a house", f"Make another key: {_NAMES}")
    return found


def lost_key(settings: Settings) -> SecretFault | None:
    """The fault that there are signed logs, but not the key that signed them. A new one could continue none of them,
    and its public half would be given to verifiers for nothing.
    """
    path, directory = settings.signing_key, settings.audit_directory
    if os.path.lexists(path) or not (os.path.lexists(directory / REGISTRY) or _signed(directory)):
        return None
    mend = "Restore it from a copy; or begin a new house, with another `audit.directory`, as docs/security.md says"
    what = f"the key that signs the audit log is missing, and the logs in {directory} were signed with it"
    return SecretFault(path, what, mend)


def _signed(directory: Path) -> bool:
    """Whether there is a signed log, be it that the registry is gone as well."""
    with contextlib.suppress(NoLog, OSError):
        return any(os.path.lexists(directory / name / CHECKPOINT) for name in origins(directory))
    return False


def other_key(settings: Settings, key: Signer) -> SecretFault | None:
    """The fault that the registry of the logs that are there was not signed with this key: none can go on with it."""
    place = settings.audit_directory / REGISTRY
    try:
        read_registry(settings.audit_directory, key.public)
    except NoteRefused as error:
        mend = (
            "Restore the key that these logs were begun with; or the registry from a copy, if it is that which is wrong"
        )
        return SecretFault(
            settings.signing_key, f"the registry of logs, {place}, was not signed with it: {error}", mend
        )
    return None


def new_signer(name: str | None) -> Signer:
    """A key that is kept nowhere yet. Raises ValueError for a name that cannot be a house's."""
    if name is not None and not _is_name(name):
        raise ValueError(f"`{name}` cannot name a house: {_NAMES}")
    return Signer.generate(name or _own_name())


def make_signer(settings: Settings, name: str | None) -> tuple[Signer, bool]:
    """The house's key, made if there is none yet, and whether it was. Raises SecretFault, or ValueError for a name.

    `name` is what a public key and every checkpoint will say, such as `hospital.example/vestry`.
    """
    fresh = new_signer(name)
    if fault := lost_key(settings):
        raise fault
    made = not os.path.lexists(settings.signing_key)
    read_or_make(settings.signing_key, f"{fresh.written()}\n".encode)
    return signer(settings), made


def _own_name() -> str:
    """A name from this machine's."""
    host = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip(".-")
    return f"{host[:100] or 'localhost'}/vestry"


def _is_name(name: str) -> bool:
    """Whether a log's name fits behind it: a note's key has up to 200 characters, an origin up to 63."""
    return len(name) <= 128 and _NAME.fullmatch(name) is not None
