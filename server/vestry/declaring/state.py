"""What the directory holds, as a file that declares it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from vestry.admin.documents import FORMS
from vestry.admin.pages import documents_of
from vestry.declaring.text import as_yaml, slim
from vestry.seams import Directory
from vestry.settings.tree import Settings
from vestry.types import Document, Kind

PARTS = {Kind.PROJECT: "projects", Kind.USER: "users"}


async def written(directory: Directory, settings: Settings, tenants: Collection[str] | None) -> AsyncIterator[str]:
    """YAML that `files.read` takes, piece by piece: of these tenants, or of all and of the policy. Keys are left out.

    Of tenants that the settings declare there are only the projects and users.
    """
    names = [each.name async for each in documents_of(directory, Kind.TENANT) if each.name not in settings.tenants]
    wanted = [name for name in sorted({*names, *settings.tenants}) if tenants is None or name in tenants]
    begun = False
    for name in wanted:
        async for piece in _tenant(directory, name, declared=name in settings.tenants):
            yield piece if begun else f"tenants:\n{piece}"
            begun = True
    policy = None if tenants is not None else await directory.read(Kind.POLICY, "", "policy")
    if policy is not None:
        yield as_yaml({"policy": _slim(policy)})
        begun = True
    if not begun:
        yield "# There is nothing in the directory.\n"


async def _tenant(directory: Directory, name: str, *, declared: bool) -> AsyncIterator[str]:
    body: dict[str, Any] = {}
    head = f"  {name}:\n"
    if not declared:
        kept = await directory.read(Kind.TENANT, "", name)
        if kept is None:  # removed meanwhile
            return
        body = _slim(kept)
        yield head + (as_yaml(body, 4) if body else "")
        head = ""
    for kind, part in PARTS.items():
        title = f"    {part}:\n"
        async for each in documents_of(directory, kind, name):
            yield head + title + as_yaml({each.name: _slim(each)}, 6)
            head = title = ""


def _slim(document: Document) -> dict[str, Any]:
    return slim(FORMS[document.kind], document.body)
