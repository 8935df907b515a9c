"""Retention in the server: once a day, and at every start, what the policy lets go is pruned.

A live log is pruned by its own server and by nobody else: the record of it goes through the journal like any other. The
work itself is a thread's; calls wait for none of it.

What goes is gone, and a clock may be years ahead, most of all at a start, before it was set. So time is believed only
as far as it has passed since the last look; at the first one, as far as the earliest time in the journal.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from vestry.audit.pruning import DAY_SECONDS, Halted, Hold, Policy, earliest, prune
from vestry.audit.reading import NoLog
from vestry.audit.records import Clock, Event
from vestry.audit.scan import LogUnusable
from vestry.configuration.reading import digest
from vestry.errors import AuditUnavailable
from vestry.faults import cause_of
from vestry.seams import Journal
from vestry.settings.tree import Settings

log = logging.getLogger("vestry")
_RECORD_SECONDS = 30.0
_USUAL_DAYS = 2
"""The journal's first segment began so long ago at most, where the log is in use."""


def policy_of(settings: Settings) -> Policy | None:
    """What the settings say of pruning; None for never."""
    audit = settings.audit
    if audit.retention is None:
        return None
    return Policy(audit.retention.days, holds_of(settings), digest(settings))


def holds_of(settings: Settings) -> tuple[Hold, ...]:
    """The legal holds of the settings."""
    return tuple(Hold(each.reason, each.tenant or "", each.subject or "") for each in settings.audit.holds)


class Retainer:
    """One task. `run` until cancelled; `halt` before that, so that the thread ends soon."""

    def __init__(
        self,
        home: Path,
        policy: Policy,
        journal: Journal,
        sign: Callable[[], None],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._home, self._policy, self._journal = home, policy, journal
        self.sign = sign
        self._clock = clock or Clock()
        self._looked: tuple[int, float] | None = None
        self._halted = threading.Event()
        self._loop: asyncio.AbstractEventLoop

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await asyncio.to_thread(self.once)
            await asyncio.sleep(DAY_SECONDS)

    def halt(self) -> None:
        """Leave what remains to the next start."""
        self._halted.set()

    def once(self) -> None:
        """Prune now. What keeps it from that is logged; nothing of it stops the server."""
        try:
            policy = replace(self._policy, latest=self._latest())
            found = prune(self._home, policy, self, clock=self._clock, halted=self._halted.is_set)
            log.info("retention: %d records pruned; %s", found.records, found.why)
        except Halted:
            return
        except AuditUnavailable:
            log.warning("nothing was pruned: the record of it could not be written")
        except (OSError, ValueError, LookupError, NoLog, LogUnusable) as error:
            log.error("the audit log could not be pruned (%s): %s", cause_of(error), error)  # noqa: TRY400 - a sentence

    def _latest(self) -> int:
        """No later time than this can be right, if the clock was at the last look: a clock that stays so for a day is
        believed. Raises OSError, ValueError.
        """
        before, self._looked = self._looked, (self._clock.wall(), self._clock.monotonic())
        latest = earliest(self._home) if before is None else before[0] + round((self._looked[1] - before[1]) * 1e6)
        if (days := (self._looked[0] - latest) // (DAY_SECONDS * 1_000_000)) > _USUAL_DAYS:
            log.warning("retention: the clock is %d days ahead of what was seen of time; it is believed in a day", days)
        return latest

    # pruning.Ledger: called in the thread

    def record(self, event: Event) -> None:
        """Through the journal, on its own loop."""
        asyncio.run_coroutine_threadsafe(self._append(event), self._loop).result(_RECORD_SECONDS)

    async def _append(self, event: Event) -> None:
        await self._journal.append(event)
