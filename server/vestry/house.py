"""The house at one moment: which tenants there are, and under which rules. Settings and directory, read as one.

What the settings declare stands above what the directory holds: a tenant of the settings cannot be changed through the
administration. A House is never changed; when the directory changes, another takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from vestry.settings import Settings, Tenant
from vestry.types import Document, Kind


class House(Struct, frozen=True):
    """Tenants by name."""

    tenants: Mapping[str, Tenant]

    @classmethod
    def of(cls, settings: Settings, documents: Iterable[Document] = ()) -> House:
        """The house of these settings and documents. Raises ValueError for a document that no program of this version
        has written.
        """
        kept = {each.name: Tenant.model_validate(each.body) for each in documents if each.kind == Kind.TENANT}
        return cls({**kept, **settings.tenants})
