"""What a change would come to: a seams.Change over a directory that is only read; a directory that holds nothing."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from msgspec.structs import replace

from vestry.admin.pages import PAGE
from vestry.errors import KeysUnavailable
from vestry.roles import HOUSE
from vestry.seams import Change, Directory
from vestry.types import Document, Key, Kind


class Rehearsal:
    """seams.Change that writes nothing: what is written in it is seen by those who read in it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._documents: dict[tuple[Kind, str], dict[str, Document | None]] = defaultdict(dict)
        self._keys: dict[str, Key] = {}

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:
        here = self._documents[kind, tenant]
        if name in here:
            return here[name]
        return await self._directory.read(kind, tenant, name)

    async def names(self, kind: Kind, tenant: str, limit: int) -> list[str]:
        here = self._documents[kind, tenant]
        found = [name for name, kept in here.items() if kept is not None]
        after = ""
        while len(found) < limit and (page := await self._directory.page(kind, tenant, after, PAGE)):
            found += [each.name for each in page if each.name not in here]
            after = f"{page[-1].tenant}/{page[-1].name}"
        return sorted(found)[:limit]

    async def put(self, kind: Kind, tenant: str, name: str, body: dict[str, Any]) -> Document:
        before = await self.read(kind, tenant, name)
        version = 1 if before is None else before.version + 1
        self._documents[kind, tenant][name] = made = Document(kind, tenant, name, body, version)
        return made

    async def remove(self, kind: Kind, tenant: str, name: str) -> None:
        self._documents[kind, tenant][name] = None

    async def key(self, key_id: str) -> Key | None:
        return self._keys.get(key_id) or await self._directory.key(key_id)

    async def keys(self, tenant: str, limit: int) -> list[Key]:
        found: list[Key] = []
        after = ""
        while len(found) < limit and (page := await self._directory.keys(tenant, after, PAGE)):
            now = [self._keys.get(each.id, each) for each in page]
            found += [each for each in now if each.revoked is None]
            after = page[-1].id
        return found[:limit]

    async def members(self, tenant: str, project: str, limit: int) -> tuple[list[str], list[str]]:
        keys = [each.id for each in await self.keys(tenant, sys.maxsize) if each.project == project]
        users = [
            name
            for name in await self.names(Kind.USER, tenant, sys.maxsize)
            if (found := await self.read(Kind.USER, tenant, name)) is not None and found.body.get("project") == project
        ]
        return keys[:limit], users[:limit]

    async def reaches_house(self, tenant: str, project: str) -> bool:
        keys = [each for each in await self.keys(tenant, sys.maxsize) if each.project == project]
        return any(each.damaged or each.roles & HOUSE for each in keys)

    async def add_key(self, key: Key, secret: str) -> Key:  # noqa: ARG002 - of a rehearsal no secret is kept
        self._keys[key.id] = made = replace(key, version=1)
        return made

    async def put_key(self, key: Key) -> Key:
        self._keys[key.id] = made = replace(key, version=key.version + 1)
        return made


class Nothing:
    """seams.Directory where none has been made yet: there is nothing in it, and nothing can be put there."""

    async def standing(self) -> list[Document]:
        return []

    async def read(self, kind: Kind, tenant: str, name: str) -> Document | None:  # noqa: ARG002
        return None

    async def page(self, kind: Kind, tenant: str | None, after: str, limit: int) -> list[Document]:  # noqa: ARG002
        return []

    async def key(self, key_id: str) -> Key | None:  # noqa: ARG002
        return None

    async def keys(self, tenant: str | None, after: str, limit: int) -> list[Key]:  # noqa: ARG002
        return []

    async def identify_all(self, presented: Collection[str]) -> Mapping[str, Key | KeysUnavailable]:  # noqa: ARG002
        return {}

    async def note_used(self, key_ids: Collection[str], moment: int) -> None:
        """As seams.Directory."""

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[Change]:
        """As seams.Directory; always refused."""
        raise KeysUnavailable
        yield
