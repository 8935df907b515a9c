"""What the handlers work with: the services of the administration, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from msgspec import Struct

from vestry.admin.break_glass import BreakGlass
from vestry.admin.documents import Documents
from vestry.admin.keys import Keys
from vestry.audit.records import Records
from vestry.house import House
from vestry.seams import Journal
from vestry.settings.policy import Policy
from vestry.types import Principal, ServedModel


class Office(Struct, frozen=True):
    """`changed` is told of every change, and returns once the server goes by it; `missing` and `replicas` are as the
    operations port has them; reading the log happens in `threads`."""

    documents: Documents
    keys: Keys
    break_glass: BreakGlass
    journal: Journal
    records: Records
    changed: Callable[[], Awaitable[None]]
    missing: Callable[[], dict[str, str]]
    replicas: Callable[[], list[tuple[str, str, bool, int]]]
    house: Callable[[], House]
    models: Mapping[str, ServedModel]
    policy: Policy
    """The rules of the settings."""
    supposed_id: Callable[[str, str, str], str | None]
    """The public id of whoever an issuer (by its name in the settings) calls so in a tenant; None for no issuer."""
    supposed_holder: Callable[[str], Principal | None]
    """Who calls with a certificate that has this name; None for nobody."""
    threads: Executor
    log: Path
    """Directory of the audit logs."""
    openapi: dict[str, Any] = {}
