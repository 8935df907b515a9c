"""Many changes as one: each is judged, all are recorded, then all are done; or none of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from vestry.admin.actor import Actor, Match
from vestry.admin.documents import Documents, Where
from vestry.admin.events import Events
from vestry.admin.keys import Keys
from vestry.admin.rehearsal import Rehearsal
from vestry.audit.records import Records
from vestry.errors import KeysUnavailable, Refusal
from vestry.seams import Change, Directory, Record
from vestry.settings.tree import Settings
from vestry.types import Kind

KeyState = Literal["active", "frozen", "revoked"]
WriteAll = Callable[[Sequence[Record]], Awaitable[None]]
"""Makes records durable, all of them. Raises where it cannot."""


class Put(Struct, frozen=True):
    """A document as it shall be, whatever it is. `version` is the one that it had when this was decided, 0 for none."""

    where: Where
    body: Mapping[str, Any]
    version: int


class Remove(Struct, frozen=True):
    """A document that shall not be there. `version` as in Put."""

    where: Where
    version: int


class SetKey(Struct, frozen=True):
    """The state that a key shall have."""

    key_id: str
    state: KeyState


Step = Put | Remove | SetKey


class Refused(Exception):  # noqa: N818 - an answer to whoever asked
    """Nothing was done. `refusals` has why, by the place of the step among those given."""

    def __init__(self, refusals: Mapping[int, Refusal]) -> None:
        super().__init__("; ".join(refusal.reason for refusal in refusals.values()))
        self.refusals = refusals


class Batch:
    """Does steps in the order in which they are given."""

    def __init__(self, directory: Directory, settings: Settings, records: Records, write: WriteAll) -> None:
        self._directory, self._settings, self._records, self._write = directory, settings, records, write

    async def rehearse(self, actor: Actor, steps: Sequence[Step]) -> None:
        """Judge the steps as `do` would, and do nothing. Raises Refused, with every refusal."""
        await self._walk(Rehearsal(self._directory), actor, steps)

    async def do(self, actor: Actor, steps: Sequence[Step]) -> int:
        """Do them all, in one transaction; how many have changed something.

        Raises Refused, or what `write` raises: then nothing is changed.
        """
        async with self._directory.changing() as change:
            records = await self._walk(change, actor, steps)
            if records:
                await self._write(records)
        return len(records)

    async def _walk(self, change: Change, actor: Actor, steps: Sequence[Step]) -> list[Record]:
        records: list[Record] = []

        async def hold(record: Record) -> None:
            records.append(record)

        events = Events(self._records, hold)
        documents = Documents(self._directory, events, self._settings)
        keys = Keys(self._directory, events, self._settings)
        refusals: dict[int, Refusal] = {}
        rules = max((number for number, step in enumerate(steps) if _is_policy(step)), default=-1)
        for number, step in enumerate(steps):
            try:
                await _taken(step, change, actor, documents, keys, rules_follow=number < rules)
            except KeysUnavailable:  # nothing can be told of the rest either
                raise
            except Refusal as refusal:
                refusals[number] = refusal
        if refusals:
            raise Refused(refusals)
        return records


def _is_policy(step: Step) -> bool:
    return not isinstance(step, SetKey) and step.where.kind == Kind.POLICY


async def _taken(
    step: Step, change: Change, actor: Actor, documents: Documents, keys: Keys, *, rules_follow: bool
) -> None:
    match step:
        case Put(where, body, version):
            judged = documents.judged(actor, where, body)
            await documents.put_in(change, actor, where, judged, _match(version), rules_follow=rules_follow)
        case Remove(where, version):
            await documents.remove_in(change, actor, where, _match(version))
        case SetKey(key_id, "revoked"):
            await keys.revoke_in(change, actor, key_id)
        case SetKey(key_id, state):
            await keys.freeze_in(change, actor, key_id, frozen=state == "frozen")


def _match(version: int) -> Match:
    return Match((version,)) if version else Match(new=True)
