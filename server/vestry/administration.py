"""Changes that an operator makes to the keys: judged against the settings, recorded, then done.

A change that cannot be recorded is refused. The record is durable before the change takes effect; should the change
itself then fail, the record stands for what was about to be done.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import pwd
import time
from collections.abc import Collection
from pathlib import Path

from msgspec.structs import replace

from vestry.adapters.directory.faults import DirectoryFault
from vestry.adapters.key_format import mint, mint_id
from vestry.audit.fields import RecordType
from vestry.audit.opening import append_once
from vestry.audit.records import Records, rfc3339
from vestry.audit.scan import LogUnusable
from vestry.faults import ConfigurationError
from vestry.outside import record_once
from vestry.roles import named, read_roles
from vestry.secret_files import SecretFault
from vestry.settings import Settings
from vestry.signing import signing
from vestry.store import every_key, opened
from vestry.types import Key, Limits

UNLIMITED = Limits()


class ChangeRefused(Exception):  # noqa: N818 - an answer to the operator
    """A change that was not made. `str()` is a sentence that says why."""


class ReadingRefused(Exception):  # noqa: N818 - an answer to the operator
    """The log is not shown. `str()` is a sentence that says why."""


def prepare_store(settings: Settings) -> None:
    """Make the directory where there is none, and bring one that an older version made up to date.

    Raises SecretFault, DirectoryFault.
    """

    async def prepare() -> None:
        async with opened(settings, upgrade=True):
            pass

    asyncio.run(prepare())


def existing_keys(settings: Settings) -> list[Key]:
    """All keys, oldest first; looking makes no store. Raises SecretFault, DirectoryFault."""

    async def look() -> list[Key]:
        async with opened(settings) as directory:
            return await every_key(directory)

    return asyncio.run(look()) if _exists(settings) else []


def whole_keys(settings: Settings) -> list[Key]:
    """All keys, once the whole store was read and found sound. Raises SecretFault, DirectoryFault."""

    async def look() -> list[Key]:
        async with opened(settings) as directory:
            await directory.integrity()
            return await every_key(directory)

    return asyncio.run(look())


def identified(settings: Settings, presented: str) -> Key | None:
    """The key with this text, be it revoked or expired. Raises SecretFault, DirectoryFault."""

    async def look() -> Key | None:
        async with opened(settings) as directory:
            return await directory.identify(presented)

    return asyncio.run(look()) if _exists(settings) else None


def _exists(settings: Settings) -> bool:
    path = settings.keys_database
    if settings.store.url is not None:
        return True
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DirectoryFault(f"the key store {path} cannot be looked at ({error.strerror})") from error
    return True


def create_key(
    settings: Settings,
    *,
    owner: str,
    tenant: str | None = None,
    role: str = "user",
    models: Collection[str] | None = None,
    limits: Limits = UNLIMITED,
    expires: int | None = None,
    actor: str | None = None,
) -> tuple[str, Key]:
    """Make a key. Returns its plaintext, which cannot be had again, and what is stored of it.

    `tenant` may be left out where there is only one; `models` None is every model of the tenant. `expires` is in
    microseconds since the epoch. Raises ChangeRefused, or SecretFault.
    """
    tenant = _tenant(settings, tenant)
    _models(settings, tenant, models)
    secret = mint()

    async def make() -> Key:
        key = Key(
            mint_id(),
            tenant,
            owner,
            _now(),
            roles=read_roles(role),
            models=None if models is None else frozenset(models),
            limits=limits,
            expires=expires,
        )
        async with opened(settings) as directory, directory.changing() as change:
            made = await change.add_key(key, secret)
            _record(settings, RecordType.KEY_CREATE, made, actor)
            return made

    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return secret, asyncio.run(make())
    except DirectoryFault as fault:
        raise ChangeRefused(f"No key was made: {fault.why}.") from fault
    except OSError as fault:
        raise ChangeRefused(f"No key was made: {settings.state} cannot be made ({fault.strerror}).") from fault
    except ValueError as fault:
        raise ChangeRefused(f"No key was made: {fault}.") from fault


def revoke_key(settings: Settings, key_id: str, *, reason: str = "", actor: str | None = None) -> bool:
    """Revoke a key by its id; every server acts on it with its next call. False if no active or expired key has it.

    Raises ChangeRefused, or SecretFault.
    """

    async def revoke() -> bool:
        async with opened(settings) as directory, directory.changing() as change:
            key = await change.key(key_id)
            if key is None or key.revoked is not None:
                return False
            await change.put_key(replace(key, revoked=_now()))
            _record(settings, RecordType.KEY_REVOKE, key, actor, reason=reason)
            return True

    try:
        return asyncio.run(revoke())
    except DirectoryFault as fault:
        raise ChangeRefused(f"{key_id} was not revoked: {fault.why}.") from fault


def _now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def record_reading(settings: Settings, directory: Path, *, command: str, asked: str, records: int | None) -> None:
    """Record that somebody is about to read the logs in a directory of this server's. Raises ReadingRefused."""
    event = Records().event(
        RecordType.LOG_READ, actor=user_of_this_process(), command=command, filter=asked, records=records
    )
    try:
        append_once(directory, event, signing=signing(settings))
    except SecretFault as fault:
        raise ReadingRefused(f"Nothing is shown, because the reading could not be recorded. {fault.fault}") from None
    except (LogUnusable, OSError) as fault:
        raise ReadingRefused(f"Nothing is shown, because the reading could not be recorded. {fault}") from fault


def user_of_this_process() -> str:
    """Who runs the command, as the record names it: the login name, and behind `sudo` also whose it was."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {behind})" if behind and behind != name else name


def _tenant(settings: Settings, tenant: str | None) -> str:
    names = list(settings.tenants)
    if tenant is None:
        if len(names) != 1:
            raise ChangeRefused(f"Name the key's tenant with --tenant. The settings have: {_listed(names)}.")
        return names[0]
    if tenant not in settings.tenants:
        raise ChangeRefused(f"There is no tenant `{tenant}` in the settings. {_known(tenant, names)}")
    return tenant


def _models(settings: Settings, tenant: str, models: Collection[str] | None) -> None:
    allowed = settings.tenants[tenant].models
    for name in models or ():
        if name not in settings.models:
            raise ChangeRefused(f"There is no model `{name}` in the settings. {_known(name, list(settings.models))}")
        if "*" not in allowed and name not in allowed:
            raise ChangeRefused(f"The tenant `{tenant}` may not use `{name}`. It may use: {_listed(list(allowed))}.")


def _record(settings: Settings, kind: RecordType, key: Key, actor: str | None, **details: str) -> None:
    if kind == RecordType.KEY_CREATE:
        models = None if key.models is None else sorted(key.models)
        expires = None if key.expires is None else rfc3339(key.expires)
        limits = {"models": models, "expires": expires}
    else:
        limits = {}
    event = Records().event(
        kind,
        tenant=key.tenant,
        subject=key.owner,
        key_id=key.id,
        role=named(key.roles),
        actor=actor or user_of_this_process(),
        **limits,
        **details,
    )
    try:
        record_once(settings, event)
    except ConfigurationError as fault:
        why = "; ".join(map(str, fault.faults))
        raise ChangeRefused(f"Nothing was changed, because the change could not be recorded. {why}") from None
    except (LogUnusable, OSError) as fault:
        raise ChangeRefused(f"Nothing was changed, because the change could not be recorded. {fault}") from fault


def _known(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return "".join(f"Did you mean `{each}`? " for each in close) + f"Known: {_listed(names)}."


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
