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
from vestry.adapters.key_format import DIGITS, PREFIX, RANDOM, checksum, mint, mint_id
from vestry.adapters.keys import KeyCredentials
from vestry.adapters.memory import wall
from vestry.composition.store import every_key, key_with
from vestry.roles import Role
from vestry.types import Head, Key, Limits, Operation, Principal

T = TypeVar("T")
_BODY = PREFIX + DIGITS[0] * RANDOM
NOBODYS = _BODY + checksum(_BODY)
"""A well-formed key that nobody holds."""


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

    def holder(self, secret: str) -> Principal | None:
        """Who holds a key that works."""

        async def look(directory: SqlDirectory) -> Principal | None:
            key = await key_with(directory, secret)
            return None if key is None or key.state(wall()) != "active" else key.holder()

        return self._with(look)

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


class OpenKeys:
    """Keys as a server has them: one directory that stays open, with its memory. Use from one thread, and close."""

    def __init__(self, directory: SqlDirectory, **options: Any) -> None:
        self.directory = directory
        self._runner = asyncio.Runner()
        self.credentials = self.run(self._made(options))

    async def _made(self, options: dict[str, Any]) -> KeyCredentials:
        return KeyCredentials(self.directory, self.directory.backend.freshness, **options)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this in the loop that the directory belongs to."""
        return self._runner.run(work)

    def look_up(self, presented: str, arrived: float | None = None) -> Principal | None:
        """Who holds a key. Raises KeysUnavailable."""
        head = head_with(presented, arrived)
        return self.credentials.known(head) or self.run(self.credentials.find(head))

    def known(self, presented: str, arrived: float | None = None) -> Principal | None:
        """The same, from memory alone."""
        return self.credentials.known(head_with(presented, arrived))

    def close(self) -> None:
        """Give everything back."""
        self.run(self.directory.close())
        self._runner.close()


def head_with(presented: str, arrived: float | None = None) -> Head:
    """A request that shows this key, and arrived now unless it is said when (monotonic seconds)."""
    began = time.monotonic() if arrived is None else arrived
    return Head("r", "/v1/chat/completions", Operation.CHAT, "POST", "127.0.0.1", "", "", "", presented, began, 0)
