"""What the directory lists, read to its end, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from vestry.seams import Directory
from vestry.types import Document, Key, Kind

T = TypeVar("T")
PAGE = 500


async def paged(page: Callable[[str], Awaitable[Sequence[T]]], cursor: Callable[[T], str]) -> AsyncIterator[T]:
    """Everything: `page` gives what comes after a cursor."""
    after = ""
    while found := await page(after):
        for each in found:
            yield each
        after = cursor(found[-1])


def documents_of(directory: Directory, kind: Kind, tenant: str | None = None) -> AsyncIterator[Document]:
    """All documents of a kind, by tenant and name."""
    return paged(lambda after: directory.page(kind, tenant, after, PAGE), lambda each: f"{each.tenant}/{each.name}")


def keys_of(directory: Directory) -> AsyncIterator[Key]:
    """All keys, revoked and expired ones included, by id."""
    return paged(lambda after: directory.keys(None, after, PAGE), lambda key: key.id)
