"""Reading the audit log: searched as `vestry audit show` does, page by page, newest first.

That it is read is itself a record (`log.read`), durable before anything is shown. Never content: what is kept of
prompts and answers stands beside the log, and nothing here opens it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

from vestry.audit.fields import RecordType
from vestry.audit.finding.filters import FIELDS, Filter, alternatives, moment_of
from vestry.audit.finding.index import INDEX
from vestry.audit.finding.search import Found, Search, merged
from vestry.audit.reading import NoLog, origins
from vestry.audit.scan import LogUnusable
from vestry.edge.administration import shapes
from vestry.edge.administration.ask import Ask
from vestry.edge.administration.office import Office
from vestry.edge.administration.table import LIMIT, ROOT, Parameter, Reply, Row
from vestry.errors import AuditUnavailable, InvalidRequest
from vestry.roles import Permission
from vestry.types import Ending

CURSOR = re.compile(r"(?:[a-z0-9][a-z0-9./-]{0,62}:[0-9]{1,16})(?:,[a-z0-9][a-z0-9./-]{0,62}:[0-9]{1,16}){0,255}")
LONGEST_CURSOR = 16_384
"""It names every log that is searched, and a house may have 256."""
COMMAND = "GET /admin/v1/records"
CHOICES = {"type": [each.value for each in RecordType], "outcome": [each.value for each in Ending]}


class Asked(Struct, frozen=True):
    """What is looked for, from where on, and how much of it. `below` bounds the index of each log's records."""

    wanted: Filter
    below: Mapping[str, int]
    limit: int


class Part(Struct, frozen=True):
    """A page of what was found; `below` is where the next begins, where there is one."""

    found: list[Found]
    below: Mapping[str, int] | None


async def _search(office: Office, ask: Ask) -> Reply:
    ask.actor.whole_house(Permission.RECORDS_READ)
    asked = asked_of(ask)
    try:
        part = await asyncio.get_running_loop().run_in_executor(office.threads, look, office.log, asked)
    except (NoLog, LogUnusable, OSError) as fault:
        raise AuditUnavailable("The log cannot be read at the moment.") from fault
    await office.journal.append(
        office.records.event(
            RecordType.LOG_READ,
            **ask.actor.described(),
            command=COMMAND,
            filter=str(asked.wanted),
            records=len(part.found),
        )
    )
    data = tuple(
        shapes.RecordShown(origin=each.origin, index=each.index, record=msgspec.json.decode(each.leaf))
        for each in part.found
    )
    following = None if part.below is None else ",".join(f"{name}:{at}" for name, at in sorted(part.below.items()))
    return Reply(shapes.RecordsShown(data=data, has_more=following is not None, next=following), recorded=True)


def asked_of(ask: Ask) -> Asked:
    """What the query asks for. Raises InvalidRequest."""
    after, limit = ask.page()
    below: dict[str, int] = {}
    if after:
        if not CURSOR.fullmatch(after):
            raise InvalidRequest("It is `next` of the page before.", param="after")
        below = {name: int(at) for name, _, at in (each.rpartition(":") for each in after.split(","))}
    for name, choices in CHOICES.items():
        if any(value not in choices for value in ask.values(name)):
            raise InvalidRequest("There is no such value.", param=name)
    wanted = alternatives({name: ask.values("outcome" if name == "ending" else name) for name in FIELDS})
    logs = frozenset(ask.values("origin"))
    return Asked(Filter(wanted, logs, _moment(ask, "since"), _moment(ask, "until")), below, limit)


def _moment(ask: Ask, name: str) -> int | None:
    value = ask.value(name)
    if value is None:
        return None
    try:
        return moment_of(value, datetime.now(UTC))
    except ValueError:
        raise InvalidRequest(
            "Write 24h, 90m, 7d (ago), a day as 2027-01-31, or a time as 2027-01-31T18:00:00Z.", param=name
        ) from None


def look(directory: Path, asked: Asked) -> Part:
    """Find it; in a thread. Raises NoLog, LogUnusable, OSError."""
    searches = []
    for origin in origins(directory):
        if asked.wanted.origins and origin not in asked.wanted.origins:
            continue
        home = directory / origin
        search = Search(home, origin, asked.wanted, index=home / INDEX)
        search.end = min(search.end, asked.below.get(origin, search.end if not asked.below else 0))
        searches.append(search)
    newest = merged([each.backward() for each in searches], newest_first=True)
    found = list(islice(newest, asked.limit + 1))
    if len(found) <= asked.limit:
        return Part(found, None)
    found = found[: asked.limit]
    below = {each.origin: each.end for each in searches}
    for each in found:
        below[each.origin] = min(below[each.origin], each.index)
    return Part(found, below)


_TEXT = {"type": "string", "maxLength": 512}
_WHEN = "24h, 7d (ago), a day, or a time with its offset."
QUERY = (
    Parameter("type", "Type of record.", {"type": "string", "enum": CHOICES["type"]}, repeated=True),
    Parameter("tenant", "Tenant.", _TEXT, repeated=True),
    Parameter("subject", "Person or program that the key belongs to.", _TEXT, repeated=True),
    Parameter("model", "Model, as clients name it.", _TEXT, repeated=True),
    Parameter("outcome", "How the call ended.", {"type": "string", "enum": CHOICES["outcome"]}, repeated=True),
    Parameter("status", "HTTP status of the answer.", _TEXT, repeated=True),
    Parameter("code", "Error code of the answer.", _TEXT, repeated=True),
    Parameter("request_id", "Id of the call, as `x-request-id` has it.", _TEXT, repeated=True),
    Parameter("key_id", "Public id of the credential.", _TEXT, repeated=True),
    Parameter("origin", "Which log: such as server, cli.", _TEXT, repeated=True),
    Parameter("since", f"From then on: {_WHEN}", _TEXT),
    Parameter("until", f"Before then: {_WHEN}", _TEXT),
    LIMIT,
    Parameter("after", "Go on after this: `next` of the page before.", {"type": "string", "maxLength": LONGEST_CURSOR}),
)
ROWS: tuple[Row, ...] = (
    Row(
        method="GET", path=f"{ROOT}/records", name="admin.records", permission=Permission.RECORDS_READ,
        handler=_search, summary="Search the audit log, newest first; each reading is itself a record",
        answer=shapes.RecordsShown, query=QUERY,
    ),
)  # fmt: skip
