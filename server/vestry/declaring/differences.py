"""A plan in words: what is added, what is changed field by field, what is removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vestry.admin.batch import Put, Remove, SetKey
from vestry.admin.documents import FORMS, Where
from vestry.declaring.plan import Difference
from vestry.declaring.text import slim

SIGNS = {"add": "+", "change": "~", "remove": "-"}
WIDTH = 200


def action(difference: Difference) -> str:
    """`add`, `change` or `remove`."""
    return "add" if difference.old is None else "remove" if difference.new is None else "change"


def counted(differences: Sequence[Difference]) -> dict[str, int]:
    """How many there are of each."""
    return {name: sum(action(each) == name for each in differences) for name in SIGNS}


def lines(differences: Sequence[Difference]) -> Iterator[str]:
    """For people, a line each."""
    for each in differences:
        done = action(each)
        yield f"{SIGNS[done]} {title(each)}"
        if done == "add":
            new = _flat(slim(FORMS[_where(each).kind], each.new or {}))
            yield from (f"    {name}: {_short(value)}" for name, value in new.items())
        elif done == "change":
            for name, old, new in fields(each):
                yield f"    {name}: {_short(old)} -> {_short(new)}"


def summary(differences: Sequence[Difference], *, done: bool) -> str:
    """The last line."""
    if not differences:
        return "Nothing to do: everything is as declared."
    number = counted(differences)
    if done:
        return f"Applied: {number['add']} added, {number['change']} changed, {number['remove']} removed."
    return f"{number['add']} to add, {number['change']} to change, {number['remove']} to remove."


def as_json(differences: Sequence[Difference], *, applied: bool) -> dict[str, Any]:
    """For programs."""
    return {
        "applied": applied,
        "summary": counted(differences),
        "changes": [_change(each) for each in differences],
    }


def _change(each: Difference) -> dict[str, Any]:
    what: dict[str, Any]
    if isinstance(each.step, SetKey):
        what = {"kind": "key", "name": each.step.key_id}
    else:
        where = each.step.where
        what = {"kind": where.kind.value, **({"tenant": where.tenant} if where.tenant else {}), "name": where.name}
    found = {"action": action(each), **what, "place": each.place, "old": each.old, "new": each.new}
    if each.old is not None and each.new is not None:
        found["fields"] = [{"field": name, "old": old, "new": new} for name, old, new in fields(each)]
    return found


def title(difference: Difference) -> str:
    """For people: `user alice of radiology`."""
    if isinstance(difference.step, SetKey):
        return f"key {difference.step.key_id}"
    return _where(difference).title


def _where(difference: Difference) -> Where:
    step = difference.step
    if isinstance(step, Put | Remove):
        return step.where
    raise TypeError("a key is no document")


def fields(difference: Difference) -> list[tuple[str, Any, Any]]:
    """What is not the same before and after, by dotted names; None for what is not there."""
    old, new = _flat(difference.old or {}), _flat(difference.new or {})
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _flat(body: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
