"""Erasing content beside the record: recorded before it is done, in the log of commands; else not done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from vestry.audit.content import erasing
from vestry.audit.content.bundles import ContentDamaged
from vestry.audit.content.erasing import Wanted
from vestry.audit.content.opening import homes
from vestry.audit.fields import RecordType
from vestry.audit.pruning import Hold
from vestry.audit.reading import NoLog
from vestry.audit.records import Records, as_recorded
from vestry.composition.outside import record_all, recorded_or
from vestry.composition.reader import user_of_this_process
from vestry.composition.retention import holds_of
from vestry.configuration.reading import digest
from vestry.settings.tree import Settings


class Refused(Exception):  # noqa: N818 - an answer to the operator
    """What was not done. `str()` is a sentence that says why."""


class Erasure(Struct, frozen=True):
    """How many contents were destroyed, in which files there may be more (a sentence each), and of whom something is
    kept whose name, as records have it, is hardly another.
    """

    count: int
    damaged: list[str]
    alike: list[str]


def is_own(settings: Settings, home: Path) -> bool:
    """Whether a log is one of this server's own record; else it is a copy."""
    return home.resolve().is_relative_to(settings.audit_directory.resolve())


def erase(
    settings: Settings,
    directory: Path,
    *,
    subject: str,
    reason: str,
    tenant: str | None = None,
    before: str | None = None,
) -> Erasure:
    """Destroy what is kept of a subject. When this returns, nothing of what was found can be read.

    `subject` is a name as it is, which records may write otherwise; `before` is a time as records have it. Done again
    it ends what was broken off. Raises Refused.
    """
    holds, named = holds_of(settings), as_recorded(subject)
    _refuse_held(holds, named, [tenant] if tenant else [])
    try:
        logs = homes(directory)
        wanted = Wanted(named, tenant, before)
        found = erasing.find(logs, wanted)
        count = sum(each.count for each in found)
        if not count and named != subject and erasing.find(logs, Wanted(subject, tenant, before)):
            raise Refused(f"Nothing was erased: `{subject}` is how records write a name. Give the name itself.")
        _refuse_held(holds, named, {name for each in found for name in each.tenants})
    except (NoLog, ContentDamaged, OSError) as fault:
        raise Refused(f"Nothing was erased: {fault}") from fault
    if count:
        event = Records().event(
            RecordType.CONTENT_ERASE,
            actor=user_of_this_process(),
            subject=subject,
            tenant=tenant,
            before=before,
            count=count,
            newest=max(each.newest for each in found),
            reason=reason,
            configuration_digest=digest(settings),
        )
        with recorded_or(Refused, "Nothing was done, because it could not be recorded."):
            record_all(settings, [event])
    try:
        erasing.destroy(found, wanted)
        erasing.sweep(logs)
        return Erasure(count, erasing.damaged(logs), erasing.alike(logs, subject, named))
    except (ContentDamaged, OSError) as fault:
        raise Refused(f"The erasure is recorded, but not done to its end: {fault}. Run it again.") from fault


def _refuse_held(holds: Iterable[Hold], subject: str, tenants: Iterable[str]) -> None:
    for hold in _matching(holds, subject, list(tenants)):
        whom = " of ".join(
            [
                *([f"subject `{hold.subject}`"] if hold.subject else []),
                *([f"tenant `{hold.tenant}`"] if hold.tenant else []),
            ]
        )
        raise Refused(f"Nothing was erased: {whom} is under legal hold (`audit.holds`): {hold.reason}")


def _matching(holds: Iterable[Hold], subject: str, tenants: list[str]) -> Iterator[Hold]:
    """The holds that cover a subject, of any of these tenants."""
    return (hold for hold in holds if any(hold.holds(tenant, subject) for tenant in tenants or [""]))
