"""One row a route: what it is called, who may use it, what it takes, what it answers, and what does the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from vestry.edge.administration.ask import LONGEST_VALUE, Ask
from vestry.edge.administration.office import Office
from vestry.errors import Conflict, PreconditionFailed, PreconditionRequired, Refusal
from vestry.roles import Permission
from vestry.settings.section import Section

ROOT = "/admin/v1"


class Reply(Struct, frozen=True):
    """What is answered. `recorded` says that a record of what was done is durable already."""

    body: Section | Mapping[str, Any] | None = None
    status: int = 200
    version: int | None = None
    location: str = ""
    recorded: bool = False


Handler = Callable[[Office, Ask], Awaitable[Reply]]


class Parameter(Struct, frozen=True):
    """A parameter of the query. `repeated` ones may come several times: they are alternatives."""

    name: str
    meaning: str
    form: dict[str, Any]
    repeated: bool = False


LIMIT = Parameter("limit", "At most so many. Left out: 100.", {"type": "integer", "minimum": 1, "maximum": 500})
AFTER = Parameter(
    "after", "Go on after this: `next` of the page before.", {"type": "string", "maxLength": LONGEST_VALUE}
)
PAGED = (LIMIT, AFTER)
CHANGED = (Conflict, PreconditionFailed, PreconditionRequired)
"""Refusals of a route whose change is for one version."""


class Row(Struct, frozen=True, kw_only=True):
    """A route. A row without a permission cannot be made.

    `statuses` are those of success, `answer` the form of what is answered with them (None: nothing). `matched` routes
    take `If-Match` and `If-None-Match`, `tokened` ones an `Idempotency-Key`.
    """

    method: str
    path: str
    name: str
    permission: Permission
    handler: Handler
    summary: str
    answer: type[Section] | None = None
    statuses: tuple[int, ...] = (200,)
    body: type[Section] | None = None
    bodiless: bool = False
    """Whether the body may be left out."""
    example: Mapping[str, Any] = {}
    query: tuple[Parameter, ...] = ()
    matched: bool = False
    tokened: bool = False
    versioned: bool = False
    """Whether the answer has an `ETag`."""
    refusals: tuple[type[Refusal], ...] = ()
    """Refusals that this route gives beside those that every one does."""

    def __post_init__(self) -> None:
        if not isinstance(self.permission, Permission):
            raise TypeError(f"the route {self.name} needs a permission")
        if not self.name.startswith("admin.") or not self.path.startswith("/"):
            raise ValueError(f"the route {self.name} is called admin.something, and its path begins with a slash")

    @property
    def parameters(self) -> Mapping[str, int]:
        """Names of the query's parameters, with the most characters that each may have."""
        return {each.name: each.form.get("maxLength", LONGEST_VALUE) for each in self.query}
