"""Retention in the server: once a day, and at every start, what the policy lets go is pruned.

A live log is pruned by its own server and by nobody else: the record of it goes through the journal like any other. The
work itself is a thread's; calls wait for none of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from vestry.audit.pruning import DAY_SECONDS, Halted, Hold, Policy, prune
from vestry.audit.reading import NoLog
from vestry.audit.records import Event
from vestry.audit.scan import LogUnusable
from vestry.configuration.reading import digest
from vestry.errors import AuditUnavailable
from vestry.faults import cause_of
from vestry.seams import Journal
from vestry.settings.tree import Settings

log = logging.getLogger("vestry")
_RECORD_SECONDS = 30.0


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

    def __init__(self, home: Path, policy: Policy, journal: Journal, sign: Callable[[], None]) -> None:
        self._home, self._policy, self._journal = home, policy, journal
        self.sign = sign
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
            found = prune(self._home, self._policy, self, halted=self._halted.is_set)
            log.info("retention: %d records pruned; %s", found.records, found.why)
        except Halted:
            return
        except AuditUnavailable:
            log.warning("nothing was pruned: the record of it could not be written")
        except (OSError, ValueError, LookupError, NoLog, LogUnusable) as error:
            log.error("the audit log could not be pruned (%s): %s", cause_of(error), error)  # noqa: TRY400 - a sentence

    # pruning.Ledger: called in the thread

    def record(self, event: Event) -> None:
        """Through the journal, on its own loop."""
        asyncio.run_coroutine_threadsafe(self._append(event), self._loop).result(_RECORD_SECONDS)

    async def _append(self, event: Event) -> None:
        await self._journal.append(event)
