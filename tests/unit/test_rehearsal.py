"""What a change would come to, found out without writing anything."""

from __future__ import annotations

import asyncio

from fakes.directory import FakeDirectory
from vestry.admin.rehearsal import Rehearsal
from vestry.types import Kind


class Tenant(str):
    """The name of one, which counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Tenant.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_what_one_tenant_has_is_found_without_looking_at_the_others() -> None:
    """A file that declares five thousand tenants, each with projects, was judged for half a minute: the names of each
    project's siblings were looked for among all that the file declares.
    """

    async def work() -> None:
        rehearsal = Rehearsal(FakeDirectory())
        for number in range(200):
            tenant = Tenant(f"tenant-{number}")
            await rehearsal.put(Kind.PROJECT, tenant, "triage", {})
            assert await rehearsal.names(Kind.PROJECT, tenant, 10) == ["triage"]
            await rehearsal.put(Kind.PROJECT, tenant, "research", {})
            await rehearsal.remove(Kind.PROJECT, tenant, "triage")
            assert await rehearsal.names(Kind.PROJECT, tenant, 10) == ["research"]

    asyncio.run(work())
    assert Tenant.compared < 2000
