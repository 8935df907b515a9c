"""Bodies as records hold them: nothing of what was changed may be missing there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestry.admin.bodies import DOCUMENT_BYTES, judge, size_of, slim
from vestry.errors import InvalidRequest
from vestry.settings.section import Section

ROOM = 2 * DOCUMENT_BYTES


def recordable(form: type[Section], body: dict[str, Any]) -> dict[str, Any]:
    """A body that is kept; of a damaged one, which may be anything, what is wrong with it."""
    try:
        judge(form, body)
    except InvalidRequest as fault:
        return {"damaged": fault.reason}
    return body


def both(
    form: type[Section], before: dict[str, Any] | None, after: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Bodies before and after a change, whole; without what has its default where a record has no room for that."""
    old = None if before is None else recordable(form, before)
    if _size(old) + _size(after) <= ROOM:
        return old, after
    return old if old is not before else _slim(form, old), _slim(form, after)


def _size(body: Mapping[str, Any] | None) -> int:
    return 0 if body is None else size_of(body)


def _slim(form: type[Section], body: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if body is None else slim(judge(form, body))
