"""A break-glass grant: a role that one person asks for and another approves, for a while.

What the directory keeps of one (`Kind.BREAK_GLASS`), and what of it the corridor has to know.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct
from pydantic import AfterValidator, Field

from vestry.audit.records import microseconds_of
from vestry.roles import Role
from vestry.settings.section import Section
from vestry.types import Document

LAPSE_SECONDS = 3600
"""An ask that nobody approves for so long is over."""
LONGEST_MINUTES = 240
SECOND = 1_000_000


def _moment(value: str) -> str:
    try:
        microseconds_of(value)
    except (ValueError, OverflowError):
        raise ValueError("this is no time") from None
    return value


Moment = Annotated[str, AfterValidator(_moment)]
"""A time as records have it."""


class Person(Section):
    """Somebody who takes a step. The command line has neither tenant nor credential."""

    tenant: str = ""
    subject: str
    key_id: str = ""


class Grant(Section):
    """One of them, from its asking to its end."""

    asker: Person
    role: Role
    reason: Annotated[str, Field(min_length=1, max_length=256)]
    minutes: Annotated[int, Field(ge=1, le=LONGEST_MINUTES)]
    asked: Moment
    approver: Person | None = None
    approved: Moment | None = None
    until: Moment | None = None
    """When it ends by itself."""
    ender: Person | None = None
    ended: Moment | None = None

    def state(self, now: int) -> str:
        """`asked`, `lapsed` (nobody approved it in time), `active`, `over` or `ended`, at this time."""
        if self.ended is not None:
            return "ended"
        if self.until is None:
            return "asked" if now < microseconds_of(self.asked) + LAPSE_SECONDS * SECOND else "lapsed"
        return "active" if now < microseconds_of(self.until) else "over"


class Glass(Struct, frozen=True):
    """An approved grant: who has which role until when (microseconds since the epoch).

    It is bound to the credential that asked: whoever can make a key for the same person gets nothing by it.
    """

    id: str
    tenant: str
    subject: str
    key_id: str
    role: Role
    until: int


def glass_of(document: Document) -> Glass | None:
    """The grant of a document; None where it gives nothing. Raises ValueError for what is none."""
    grant = Grant.model_validate(document.body)
    if grant.until is None or grant.ended is not None:
        return None
    asker = grant.asker
    return Glass(document.name, asker.tenant, asker.subject, asker.key_id, grant.role, microseconds_of(grant.until))
