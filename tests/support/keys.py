"""Keys for the tests, made and revoked as a command in another process does it: with a directory opened for each."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from vestry.adapters.directory.pepper import Pepper
from vestry.adapters.directory.sqlite import Sqlite
from vestry.adapters.directory.store import SqlDirectory
from vestry.adapters.key_format import mint, mint_id
from vestry.roles import Role
from vestry.store import every_key
from vestry.types import Key, Limits

T = TypeVar("T")


def ran(work: Coroutine[Any, Any, T]) -> T:
    """Run this to its end, wherever one is: in a thread, for there may be a loop in this one."""
    found: list[T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return found[0]


def sqlite_directory(path: Path, pepper: bytes) -> SqlDirectory:
    """The directory in a file."""
    secret = Pepper(pepper)
    return SqlDirectory(Sqlite(path, secret), secret)


class Keys:
    """Makes and revokes keys."""

    def __init__(self, made: Callable[[], SqlDirectory]) -> None:
        self._made = made

    @classmethod
    def of(cls, path: Path, pepper: bytes) -> Keys:
        """Keys in a SQLite file."""
        return cls(lambda: sqlite_directory(path, pepper))

    def prepare(self) -> None:
        """Make the directory, if it is not there."""
        self._with(lambda directory: _nothing())

    def create(
        self,
        *,
        owner: str = "tester",
        tenant: str = "default",
        roles: Collection[Role] = (Role.USER,),
        models: Collection[str] | None = None,
        limits: Limits | None = None,
        **more: Any,
    ) -> tuple[str, str]:
        """Make a key: its text, and its id."""
        secret, now = mint(), time.time_ns() // 1000
        allowed = None if models is None else frozenset(models)
        bounds = limits or Limits()
        key = Key(mint_id(), tenant, owner, now, roles=frozenset(roles), models=allowed, limits=bounds, **more)

        async def make(directory: SqlDirectory) -> str:
            async with directory.changing() as change:
                return (await change.add_key(key, secret)).id

        return secret, self._with(make)

    def change(self, key_id: str, **fields: Any) -> None:
        """Change a key."""

        async def alter(directory: SqlDirectory) -> None:
            async with directory.changing() as change:
                key = await change.key(key_id)
                assert key is not None
                await change.put_key(replace(key, **fields))

        self._with(alter)

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        self.change(key_id, revoked=time.time_ns() // 1000)

    def list(self) -> list[Key]:
        """Every key, oldest first."""
        return self._with(every_key)

    def _with(self, work: Callable[[SqlDirectory], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            directory = self._made()
            try:
                await directory.prepare()
                return await work(directory)
            finally:
                await directory.close()

        return ran(run())


async def _nothing() -> None:
    pass
