"""The house: settings, secrets, keys, record, certificate."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.memory import wall
from vestry.administration import whole_store
from vestry.audit.records import rfc3339
from vestry.audit.scan import parse, segments
from vestry.composition.signing import lost_key
from vestry.diagnosis.findings import Finding, standing
from vestry.faults import Fault
from vestry.secret_files import (
    CONTENT_HASH,
    ENGINE_KEY,
    KEY_HASH,
    SecretFault,
    exposure,
    is_folder,
    looked_at,
    lost_pepper,
    read,
)
from vestry.settings.tree import Settings
from vestry.trust import validity

TAIL_BYTES = 262_144
SOON = timedelta(days=14)


def settings_faults(faults: list[Fault]) -> Iterator[Finding]:
    """Every fault of the settings, or one line that there is none."""
    for fault in faults:
        yield Finding("settings", "fail", f"{fault.place}: {fault.what}", fault.mend)
    if not faults:
        yield Finding("settings", "ok", "valid")


def state(settings: Settings) -> Iterator[Finding]:
    """The state directory."""
    path = settings.state.absolute()
    folder = standing(path)
    if not is_folder(folder) or not os.access(folder, os.W_OK | os.X_OK):
        mend = "Give it to this user, or name another with `state`"
        yield Finding("state", "fail", f"{folder} is not a folder that this user can write to", mend)
    elif folder != path:
        yield Finding("state", "warn", f"{path} is not there yet", "`make up`, or the first key, makes it")
    elif (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        yield Finding("state", "warn", f"others may look into {path} (mode {mode:04o})", f"Close it: chmod 700 {path}")
    else:
        yield Finding("state", "ok", str(path))


def secrets(settings: Settings) -> Iterator[Finding]:
    """The secret files: there, private, and of a fitting size. What they hold is not shown."""
    folder = settings.secrets_directory
    hashing = folder / CONTENT_HASH  # where content is hashed, and nowhere else
    lost = [each.fault for each in (lost_pepper(settings), lost_key(settings)) if each is not None]
    for fault in lost:
        yield Finding("secrets", "fail", f"{fault.place}: {fault.what}", fault.mend)
    made = "It is made at need"
    for path, least, mend in (
        (folder / KEY_HASH, 32, made),
        (folder / ENGINE_KEY, 16, made),
        (settings.signing_key, 64, "Make it: vestry audit init"),
        *([(hashing, 32, made)] if os.path.lexists(hashing) else []),
    ):
        if any(fault.place == str(path) for fault in lost):
            continue
        if not os.path.lexists(path):
            yield Finding("secrets", "warn", f"{path} is not there yet", mend)
            continue
        try:
            read(path, least)
        except SecretFault as error:
            yield Finding("secrets", "fail", f"{path}: {error.fault.what}", error.fault.mend)
        else:
            yield Finding("secrets", "ok", f"{path} is private")
    status = looked_at(folder)
    if status is not None and (exposed := exposure(folder, status)):
        yield Finding("secrets", "fail", f"{folder}: {exposed.fault.what}", exposed.fault.mend)


def keys(settings: Settings) -> Iterator[Finding]:
    """The key store: readable as a whole, with how many keys of which state."""
    path = settings.keys_database
    if lost_pepper(settings):
        return  # said among the secrets
    if settings.store.url is None and not os.path.lexists(path):
        yield Finding("keys", "warn", "there are no keys yet", "Make one: vestry keys create --owner NAME")
        return
    try:
        held, tenants = whole_store(settings)
    except SecretFault as error:
        yield Finding("keys", "fail", f"{error.fault.place}: {error.fault.what}", error.fault.mend)
        return
    except (OSError, ValueError):
        return  # a certificate's file, which is among the settings' faults
    except DirectoryFault as error:
        yield Finding("keys", "fail", error.why, "A server refuses every call until this is mended")
        return
    moment = wall()
    counts = Counter(key.state(moment) for key in held)
    said = ", ".join(f"{counts[each]} {each}" for each in ("active", "expired", "revoked"))
    active = {key.tenant for key in held if key.state(moment) == "active"}
    homeless = sorted(active - settings.tenants.keys() - tenants)
    soon = moment + round(SOON.total_seconds() * 1_000_000)
    expiring = sum(key.state(moment) == "active" and key.expires is not None and key.expires < soon for key in held)
    if damaged := [key.id for key in held if key.state(moment) == "damaged"]:
        mend = "Their holders get 503, and nobody else. Revoke them, and make others"
        yield Finding("keys", "fail", f"{said}; damaged: {', '.join(damaged)}", mend)
    elif not counts["active"]:
        yield Finding("keys", "warn", said, "Make one: vestry keys create --owner NAME")
    elif homeless:
        mend = "Put the tenants back into the settings or the directory, or revoke their keys"
        yield Finding("keys", "warn", f"{said}; some belong to tenants that are not there: {', '.join(homeless)}", mend)
    elif expiring:
        mend = "See which: vestry keys list. Make new ones in time"
        yield Finding("keys", "warn", f"{said}; {expiring} expire within {SOON.days} days", mend)
    else:
        yield Finding("keys", "ok", said)


def record(settings: Settings) -> Iterator[Finding]:
    """The audit logs: readable, with the time of the last record in each."""
    folder = settings.audit_directory
    logs = sorted({path.parent for path in folder.rglob("*.jsonl")}) if is_folder(folder) else []
    if not logs:
        yield Finding("record", "warn", f"there is no record yet in {folder}", "A server, or the first key, begins it")
    for log in logs:
        name = log.relative_to(folder)
        try:
            last = _last_time(log)
        except OSError as error:
            mend = "Let this user read it"
            yield Finding("record", "fail", f"the log {name} cannot be read ({error.strerror})", mend)
            continue
        if last is None:
            mend = "The next start trims what a crash left; if it does not, restore the log from a copy"
            yield Finding("record", "warn", f"the log {name} has no whole record at its end", mend)
        elif last > rfc3339(wall() + 60_000_000):
            yield Finding("record", "warn", f"the last record of {name} is from the future: {last}", "Set the clock")
        else:
            yield Finding("record", "ok", f"the last record of {name} is of {last}")


def _last_time(log: Path) -> str | None:
    """The time of the last whole record of a log. Raises OSError."""
    for path in reversed(segments(log)):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
        found = [read.time for line in lines if (read := parse(line)) is not None]
        if found:
            return found[-1]
    return None


def certificate(settings: Settings) -> Iterator[Finding]:
    """Nothing without TLS; what is wrong with it now stands among the settings' faults."""
    if settings.server.tls is None:
        return
    try:
        ends = validity(settings.server.tls.certificate)[1]
    except (OSError, ValueError):
        return
    said = f"the certificate is valid until {ends:%Y-%m-%d %H:%M} UTC"
    if ends - datetime.now(UTC) < SOON:
        yield Finding("certificate", "warn", said, "Renew it: a running server takes the new files by itself")
    else:
        yield Finding("certificate", "ok", said)
