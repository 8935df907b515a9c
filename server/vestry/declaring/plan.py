"""What has to be done, so that the directory is as the files say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from vestry.admin.batch import Put, Remove, SetKey, Step
from vestry.admin.documents import FORMS, Where
from vestry.admin.pages import documents_of
from vestry.declaring.files import Declared, Entry, KeyEntry
from vestry.declaring.text import normal
from vestry.faults import Fault
from vestry.seams import Directory
from vestry.settings.tree import Settings
from vestry.types import Kind

MADE = (Kind.TENANT, Kind.PROJECT, Kind.USER, Kind.POLICY)
"""In this order, and removed in the other: users may belong to a project, and both to a tenant."""
ENDED = (Kind.POLICY, Kind.USER, Kind.PROJECT, Kind.TENANT)


class Difference(Struct, frozen=True):
    """One step, and what it changes: bodies with all their fields, None for what is not there."""

    step: Step
    place: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


class Plan(Struct, frozen=True):
    """Differences, in the order in which they can be done; and faults that only the directory shows."""

    differences: list[Difference]
    faults: list[Fault]


async def plan(directory: Directory, settings: Settings, declared: Declared, *, prune: bool) -> Plan:
    """Compare. With `prune` what no file declares is removed; keys never are."""
    made = Plan([], [])
    for kind in MADE:
        for entry in declared.entries.values():
            if entry.where.kind == kind:
                await _put(directory, entry, made)
    for each in declared.keys.values():
        await _key(directory, each, made)
    if prune:
        for kind in ENDED:
            async for document in documents_of(directory, kind):
                where = Where(kind, document.tenant, document.name)
                if where not in declared.entries and not (kind == Kind.TENANT and where.name in settings.tenants):
                    old = normal(FORMS[kind], document.body)
                    made.differences.append(Difference(Remove(where, document.version), "--prune", old, None))
    made.faults.extend(_homeless(declared, made.differences))
    return made


def _homeless(declared: Declared, differences: list[Difference]) -> Iterator[Fault]:
    """Users whose project would be removed: whoever has a project that is not there could not be judged by it."""
    gone = {each.step.where for each in differences if isinstance(each.step, Remove)}
    for where, entry in declared.entries.items():
        project = entry.body.get("project") if where.kind == Kind.USER else None
        if project and Where(Kind.PROJECT, where.tenant, project) in gone:
            mend = "Declare the project too, or give the user another"
            yield Fault(entry.place, f"no file declares the project `{project}`, and --prune would remove it", mend)


async def _put(directory: Directory, entry: Entry, made: Plan) -> None:
    where = entry.where
    new = normal(FORMS[where.kind], entry.body)
    found = await directory.read(where.kind, where.tenant, where.name)
    old = None if found is None else normal(FORMS[where.kind], found.body)
    if old != new:
        step = Put(where, entry.body, 0 if found is None else found.version)
        made.differences.append(Difference(step, entry.place, old, new))


async def _key(directory: Directory, entry: KeyEntry, made: Plan) -> None:
    key = await directory.key(entry.key_id)
    if key is None:
        mend = "Remove it: keys are made with `vestry keys create`"
        made.faults.append(Fault(entry.place, "no key has this id", mend))
        return
    state = "revoked" if key.revoked is not None else "active" if key.frozen is None else "frozen"
    if state == entry.state and (not key.damaged or state == "revoked"):
        return
    if state == "revoked":
        made.faults.append(Fault(entry.place, "the key is revoked, for good", "Write `revoked`, or remove it"))
        return
    if key.damaged and entry.state != "revoked":
        made.faults.append(Fault(entry.place, "the key is damaged", "Write `revoked`, and make another"))
        return
    step = SetKey(entry.key_id, entry.state)
    made.differences.append(Difference(step, entry.place, {"state": state}, {"state": entry.state}))
