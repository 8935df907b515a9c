"""The administration as commands have it: an open directory, and whoever runs the command.

What a command changes is recorded in the log `cli`, durable before it takes effect; what cannot be recorded is refused.
Should the change itself then fail, the record stands for what was about to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from vestry.adapters.directory.faults import DirectoryFault
from vestry.admin.actor import Actor
from vestry.admin.batch import Batch, WriteAll
from vestry.admin.break_glass import BreakGlass
from vestry.admin.documents import Documents, Kept, Where
from vestry.admin.events import Events
from vestry.admin.keys import Keys
from vestry.admin.names import is_seen
from vestry.admin.pages import PAGE, paged
from vestry.admin.rehearsal import Nothing
from vestry.audit.records import Records
from vestry.composition.outside import record_all, recorded_or
from vestry.composition.reader import user_of_this_process
from vestry.composition.store import every_key, key_with, opened
from vestry.errors import Refusal
from vestry.seams import Directory, Record
from vestry.secret_files import state_directory
from vestry.settings.tree import Settings
from vestry.types import Key, Kind

T = TypeVar("T")


class ChangeRefused(Exception):  # noqa: N818 - an answer to the operator
    """A change that was not made. `str()` is a sentence that says why."""


class Office(Struct, frozen=True):
    """The administration at hand, and who acts in it."""

    settings: Settings
    actor: Actor
    directory: Directory
    documents: Documents
    keys: Keys
    break_glass: BreakGlass
    batch: Batch

    async def tenants(self) -> list[str]:
        """The names of all tenants, those of the settings among them, in order."""

        def page(after: str) -> Awaitable[list[Kept]]:
            return self.documents.page(self.actor, Kind.TENANT, None, after, PAGE)

        return [each.document.name async for each in paged(page, lambda each: f"/{each.document.name}")]

    async def tenant(self, named: str | None) -> str:
        """A tenant that there is; the only one, where none is named. Raises ChangeRefused."""
        if named is not None and named in self.settings.tenants:
            return named
        names = await self.tenants()
        if named is None:
            if len(names) != 1:
                raise ChangeRefused(f"Name the tenant with --tenant. There are: {listed(names)}.")
            return names[0]
        if named not in names:
            raise ChangeRefused(f"There is no tenant `{named}`. {known(named, names)}")
        return named


def look(settings: Settings, work: Callable[[Office], Awaitable[T]]) -> T:
    """What this finds; looking makes no file. Raises SecretFault, DirectoryFault, ChangeRefused, Refusals."""

    async def find() -> T:
        if not exists(settings):
            return await work(_office(settings, Nothing()))
        async with _entered(settings, make=False) as directory:
            return await work(_office(settings, directory))

    return asyncio.run(find())


def change(settings: Settings, work: Callable[[Office], Awaitable[T]]) -> T:
    """What this comes to, in a store that is made where there is none. Raises as `look`."""

    async def do() -> T:
        async with _entered(settings) as directory:
            return await work(_office(settings, directory))

    try:
        state_directory(settings.state)
    except OSError as fault:
        raise ChangeRefused(f"Nothing was changed: {settings.state} cannot be made ({fault.strerror}).") from fault
    return asyncio.run(do())


@contextlib.asynccontextmanager
async def _entered(settings: Settings, *, make: bool = True) -> AsyncIterator[Directory]:
    """The directory; raises ChangeRefused where its certificates cannot be read."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            directory = await stack.enter_async_context(opened(settings, make=make))
        except (OSError, ValueError) as fault:
            raise ChangeRefused(f"The store cannot be opened: {fault}.") from fault
        yield directory


def _office(settings: Settings, directory: Directory) -> Office:
    async def write_all(events: Sequence[Record]) -> None:
        await asyncio.to_thread(_recorded, settings, events)

    return office_of(settings, directory, user_of_this_process(), write_all)


def office_of(settings: Settings, directory: Directory, actor: str, write_all: WriteAll) -> Office:
    """The administration of this directory; `write_all` makes records durable, or raises."""
    records = Records()

    async def write(event: Record) -> None:
        await write_all([event])

    events = Events(records, write)
    return Office(
        settings,
        Actor(actor),
        directory,
        Documents(directory, events, settings),
        Keys(directory, events, settings),
        BreakGlass(directory, events),
        Batch(directory, settings, records, write_all),
    )


def _recorded(settings: Settings, events: Sequence[Record]) -> None:
    """Make records durable in the log `cli`. Raises ChangeRefused."""
    with recorded_or(ChangeRefused, "Nothing was changed, because the change could not be recorded."):
        record_all(settings, events)


def prepare_store(settings: Settings) -> None:
    """Make the directory where there is none, and bring one that an older version made up to date.

    Raises SecretFault, DirectoryFault.
    """

    async def prepare() -> None:
        async with opened(settings, upgrade=True):
            pass

    asyncio.run(prepare())


def whole_store(settings: Settings) -> tuple[list[Key], set[str]]:
    """All keys, and the names of the directory's own tenants, once the whole store was read and found sound.

    Raises SecretFault, DirectoryFault.
    """

    async def read() -> tuple[list[Key], set[str]]:
        async with opened(settings, make=False) as directory:
            await directory.integrity()
            tenants = {each.name for each in await directory.standing() if each.kind is Kind.TENANT}
            return await every_key(directory), tenants

    return asyncio.run(read())


def identified(settings: Settings, presented: str) -> Key | None:
    """The key with this text, be it revoked or expired. Raises SecretFault, DirectoryFault."""
    return look(settings, lambda office: key_with(office.directory, presented))


def exists(settings: Settings) -> bool:
    """Whether there is a store. Raises DirectoryFault where that cannot be told."""
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


def create_key(settings: Settings, *, owner: str, tenant: str | None = None) -> tuple[str, Key]:
    """Make a key with the rights of a user. Returns its plaintext, which cannot be had again, and what is stored of it.

    `tenant` may be left out where there is only one. Raises ChangeRefused, or SecretFault.
    """
    secret, key = make_key(settings, tenant, {"owner": owner})
    if secret is None:
        raise ChangeRefused("No key was made: there is one already.")
    return secret, key


def make_key(
    settings: Settings, tenant: str | None, body: Mapping[str, object], *, token: str = ""
) -> tuple[str | None, Key]:
    """Make a key, from its body (`admin.bodies.KeyBody`): as `Keys.make`. Nothing is made before all is judged.

    Raises ChangeRefused, or SecretFault.
    """
    owner = str(body["owner"])
    if not (0 < len(owner) <= 128 and owner.isprintable() and owner == owner.strip()):
        said = "an owner is 1 to 128 printable characters, with no space at either end"
        raise ChangeRefused(f"No key was made: {said}.")
    if not is_seen(owner):
        raise ChangeRefused("No key was made: an owner neither begins nor ends with a character that shows nothing.")

    async def judge(office: Office) -> str:
        home = await office.tenant(tenant)
        await _models(office, home, body.get("models"))
        return home

    try:
        home = look(settings, judge)
        return change(settings, lambda office: office.keys.make(office.actor, home, body, token=token))
    except DirectoryFault as fault:
        raise ChangeRefused(f"No key was made: {fault.why}.") from fault
    except Refusal as refusal:
        raise ChangeRefused(f"No key was made: {refusal.reason}") from refusal
    except ValueError as fault:
        raise ChangeRefused(f"No key was made: {fault}.") from fault


async def _models(office: Office, tenant: str, models: object) -> None:
    """Say in words of ours which model it is that cannot be used. Raises ChangeRefused."""
    served = office.settings.models
    kept = await office.documents.read(office.actor, Where(Kind.TENANT, "", tenant))
    if kept.damage:  # which whoever makes the key is told
        return
    allowed = kept.document.body["models"]
    for name in models if isinstance(models, list | tuple) else ():
        if name not in served:
            raise ChangeRefused(f"There is no model `{name}` in the settings. {known(name, list(served))}")
        if "*" not in allowed and name not in allowed:
            raise ChangeRefused(f"The tenant `{tenant}` may not use `{name}`. It may use: {listed(list(allowed))}.")


def known(name: str, names: list[str]) -> str:
    """What somebody may have meant, and what there is."""
    close = difflib.get_close_matches(name[:128], names[:1000], n=1)
    return "".join(f"Did you mean `{each}`? " for each in close) + f"Known: {listed(names)}."


def listed(names: list[str]) -> str:
    """At most twenty of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(f"`{name}`" for name in names[:20]) or "none") + more
