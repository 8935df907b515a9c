"""The administration of one server, put together: its services, and the application that serves them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.types import ASGIApp

from vestry.admin.break_glass import BreakGlass
from vestry.admin.documents import Documents
from vestry.admin.events import Events
from vestry.admin.keys import Keys
from vestry.composition.identity import supposed_holder, supposed_id
from vestry.composition.recording import Recording
from vestry.edge.administration.application import build
from vestry.edge.administration.ask import BODY_BYTES
from vestry.edge.administration.desk import Desk
from vestry.edge.administration.office import Office
from vestry.edge.administration.openapi import document
from vestry.edge.administration.routes import ROUTES
from vestry.edge.arrival import Rules
from vestry.errors import KeysUnavailable
from vestry.pipeline import Corridor
from vestry.seams import Directory
from vestry.settings.tree import Door, Settings

CONNECTIONS = 512
THREADS = 2


@contextlib.asynccontextmanager
async def administration(
    settings: Settings,
    corridor: Corridor,
    directory: Directory,
    recording: Recording,
    rules: Rules,
    *,
    refresh: Callable[[], Awaitable[None]],
    missing: Callable[[], dict[str, str]],
    replicas: Callable[[], list[tuple[str, str, bool, int]]],
) -> AsyncIterator[ASGIApp]:
    """The application, while it is needed. `rules` say how its requests are read; `refresh` reads the house again."""
    events = Events(recording.records, recording.journal.append)
    threads = ThreadPoolExecutor(THREADS, "administration")

    async def changed() -> None:
        with contextlib.suppress(KeysUnavailable):  # it is changed all the same, and is read again soon
            await refresh()

    office = Office(
        documents=Documents(directory, events, settings),
        keys=Keys(directory, events, settings),
        break_glass=BreakGlass(directory, events),
        journal=recording.journal,
        records=recording.records,
        changed=changed,
        missing=missing,
        replicas=replicas,
        house=lambda: corridor.house,
        models=corridor.models,
        policy=settings.policy,
        supposed_id=partial(supposed_id, settings.identity),
        supposed_holder=partial(supposed_holder, settings.identity),
        threads=threads,
        log=settings.audit_directory,
        openapi=document(ROUTES),
    )
    desk = Desk(corridor, office, rules, concurrency=settings.server.admin_concurrency)
    try:
        yield build(desk, ROUTES)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def door_of(settings: Settings) -> Door:
    """What the administration's door lets in: smaller bodies and fewer connections than the API's."""
    door = settings.door
    connections = min(door.connections, CONNECTIONS)
    return door.model_copy(update={"body_bytes": BODY_BYTES, "connections": connections})
