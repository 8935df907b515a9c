"""A directory in memory, with a switch that makes it unreadable."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

from msgspec.structs import replace

from vestry.adapters.key_format import mint, mint_id
from vestry.errors import KeysUnavailable
from vestry.roles import HOUSE
from vestry.types import Document, Key, Kind

Place = tuple[Kind, str, str]


class _State:
    """What is kept: documents by their place, keys by id, ids by secret."""

    def __init__(self) -> None:
        self.documents: dict[Place, Document] = {}
        self.keys: dict[str, Key] = {}
        self.secrets: dict[str, str] = {}
        self.changes = 0

    def document(self, kind: Kind, tenant: str, name: str) -> Document | None:
        found = self.documents.get((kind, tenant, name))
        return None if found is None else replace(found, body=copy.deepcopy(found.body))

    def twin(self) -> _State:
        twin = _State()
        twin.documents, twin.keys, twin.secrets = dict(self.documents), dict(self.keys), dict(self.secrets)
        twin.changes = self.changes
        return twin


class FakeDirectory:
    """seams.Directory and seams.Freshness. `broken` makes every method raise; `asked` counts what was read."""

    def __init__(self) -> None:
        self.broken = False
        self.asked = 0
        self._state = _State()
        self._epoch = 0
        self._one = asyncio.Lock()

    def epoch(self, arrived: float) -> int:
        self._whole()
        return self._epoch

    async def standing(self) -> list[Document]:
        self._read()
        return [copy.deepcopy(each) for each in self._state.documents.values() if each.kind != Kind.USER]

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        self._read()
        return self._state.document(kind, tenant, name)

    async def page(self, kind: Kind, tenant: str | None, after: str, limit: int) -> list[Document]:
        self._read()
        found = {
            f"{each.tenant}/{each.name}": each
            for each in self._state.documents.values()
            if each.kind == kind and tenant in (None, each.tenant)
        }
        return [copy.deepcopy(found[path]) for path in _after(found, after, limit)]

    async def key(self, key_id: str) -> Key | None:
        self._read()
        return self._state.keys.get(key_id)

    async def keys(self, tenant: str | None, after: str, limit: int) -> list[Key]:
        self._read()
        found = {each.id: each for each in self._state.keys.values() if tenant in (None, each.tenant)}
        return [found[key_id] for key_id in _after(found, after, limit)]

    async def identify_all(self, presented: Collection[str]) -> dict[str, Key | KeysUnavailable]:
        self._read()
        secrets = self._state.secrets
        return {each: self._state.keys[secrets[each]] for each in presented if each in secrets}

    async def note_used(self, key_ids: Collection[str], moment: int) -> None:
        self._whole()
        for key_id in key_ids:
            if (key := self._state.keys.get(key_id)) is not None:
                latest = moment if key.last_used is None else max(moment, key.last_used)
                self._state.keys[key_id] = replace(key, last_used=latest)

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[FakeChange]:
        self._whole()
        async with self._one:
            twin = self._state.twin()
            yield FakeChange(twin)
            self._whole()
            for key_id, key in self._state.keys.items():  # what was noted of uses meanwhile stays
                twin.keys[key_id] = replace(twin.keys[key_id], last_used=key.last_used)
            self._state = twin
            self._epoch += 1

    # What tests do with it.

    async def give(self, tenant: str = "default", owner: str = "tester", **rights: Any) -> tuple[str, Key]:
        """Make a key; its text, and what is kept of it."""
        secret = mint()
        async with self.changing() as change:
            key = await change.add_key(Key(mint_id(), tenant, owner, time.time_ns() // 1000, **rights), secret)
        return secret, key

    async def write(self, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> Document:
        """Write one document."""
        async with self.changing() as change:
            return await change.put(kind, tenant, name, body)

    def _read(self) -> None:
        self.asked += 1
        self._whole()

    def _whole(self) -> None:
        if self.broken:
            raise KeysUnavailable


class FakeChange:
    """seams.Change."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        return self._state.document(kind, tenant, name)

    async def names(self, kind: Kind, tenant: str, limit: int) -> list[str]:
        return sorted(name for of, owner, name in self._state.documents if (of, owner) == (kind, tenant))[:limit]

    async def put(self, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> Document:
        moment = time.time_ns() // 1000
        before = self._state.documents.get((kind, tenant, name))
        self._state.changes += 1
        version, created = (self._state.changes, moment) if before is None else (before.version + 1, before.created)
        made = Document(kind, tenant, name, copy.deepcopy(body), version, created, moment)
        self._state.documents[kind, tenant, name] = made
        return copy.deepcopy(made)

    async def remove(self, kind: Kind, tenant: str, name: str) -> None:
        self._state.documents.pop((kind, tenant, name), None)
        self._state.changes += 1

    async def key(self, key_id: str) -> Key | None:
        return self._state.keys.get(key_id)

    async def keys(self, tenant: str, limit: int) -> list[Key]:
        held = sorted(self._state.keys.values(), key=lambda key: key.id.encode())
        return [each for each in held if each.tenant == tenant and each.revoked is None][:limit]

    async def members(self, tenant: str, project: str, limit: int) -> tuple[list[str], list[str]]:
        keys = [each.id for each in await self.keys(tenant, len(self._state.keys)) if each.project == project]
        held = {
            name: each.body
            for (of, owner, name), each in self._state.documents.items()
            if (of, owner) == (Kind.USER, tenant)
        }
        return keys[:limit], sorted(name for name, body in held.items() if body.get("project") == project)[:limit]

    async def reaches_house(self, tenant: str, project: str) -> bool:
        held = [each for each in self._state.keys.values() if (each.tenant, each.project) == (tenant, project)]
        return any(each.revoked is None and each.roles & HOUSE for each in held)

    async def add_key(self, key: Key, secret: str) -> Key:
        if key.id in self._state.keys or secret in self._state.secrets:
            raise ValueError("there is such a key already")
        self._state.secrets[secret] = key.id
        self._state.keys[key.id] = made = replace(key, version=1)
        return made

    async def put_key(self, key: Key) -> Key:
        before = self._state.keys.get(key.id)
        if before is None:
            raise ValueError("there is no such key")
        self._state.keys[key.id] = made = replace(key, version=before.version + 1)
        return made


def _after(paths: Iterable[str], after: str, limit: int) -> list[str]:
    return sorted((path for path in paths if path.encode() > after.encode()), key=str.encode)[:limit]
