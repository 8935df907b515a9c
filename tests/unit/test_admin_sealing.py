"""Whether what rules would have sealed can be sealed: what is looked at to know it."""

from __future__ import annotations

import asyncio

import pytest

from fakes.directory import FakeChange, FakeDirectory
from vestry.admin.sealing import unsealable_rules
from vestry.settings.tree import Settings
from vestry.types import Document, Kind


def test_a_tenant_is_looked_at_once_however_many_rules_are_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of five such rules, in a house of five thousand tenants, kept everybody else from changing anything for
    a quarter of a minute, which is longer than they wait.
    """
    asked: list[str] = []
    read = FakeChange.read

    async def seen(change: FakeChange, kind: Kind, tenant: str, name: str) -> Document | None:
        asked.append(name)
        return await read(change, kind, tenant, name)

    async def work() -> list[tuple[str | int, ...]]:
        directory = FakeDirectory()
        for name in ("oncology", "radiology"):
            await directory.write(Kind.TENANT, "", name, {})
        monkeypatch.setattr(FakeChange, "read", seen)
        rules = [{"name": f"rule-{number}", "content": "sealed"} for number in range(3)]
        async with directory.changing() as change:
            found = await unsealable_rules(
                change, {"rules": [*rules, {**rules[0], "name": "of-one", "tenants": ["oncology"]}]}, Settings()
            )
        return [(each.place[1], each.what.split("`")[1]) for each in found]

    assert asyncio.run(work()) == [
        *((number, name) for number in range(3) for name in ("oncology", "radiology")),
        (3, "oncology"),
    ]
    assert sorted(asked) == ["oncology", "radiology"]
