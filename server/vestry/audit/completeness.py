"""Completeness: what the log says that engines have done, against what the engines counted themselves.

Rules:
1. A call that ended whole is exact: the engine counted its tokens, and said them. Of any other call only bounds are
   known (`engine_work` in its outcome): an engine may have done anything from nothing to all that was asked.
2. Work in progress is slack while it lasts. So what exceeds the upper bounds at any moment is work that no record
   explains, and stays so: *unexplained* only grows.
3. Once an engine has been idle over two looks, with nothing in progress here, its counters and the log must agree. What
   bounds left open is settled then: neither cancelled calls nor lost counters of a killed engine add up to a place
   where work could hide.
4. Counters that belong to another start of the engine, or went back, begin anew at zero.

The counters meant are vLLM's (0.32): `vllm:prompt_tokens_total` counts a prompt once for each of its `n` answers,
`vllm:generation_tokens_total` each token as it is made, `vllm:request_success_total` one for each answer that ended,
and none for a request whose client left. Nothing here reads a file or a socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec import Struct

from vestry.audit.calls import OutcomeRecord
from vestry.types import Call, Ending, Grant, Outcome, ServedModel

KINDS = ("prompt_tokens", "completion_tokens", "requests")
UNKNOWN_TOKENS = 1 << 20
"""What a call of unknown end may have cost at most, prompt and answer each: beyond every context there is."""
UNKNOWN_REQUESTS = 1024


class Work(NamedTuple):
    """Amounts of an engine's work. A request is one answer: a call with `n` of 3 is three."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0

    def plus(self, other: Work) -> Work:
        return Work(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def less(self, other: Work) -> Work:
        """The difference; may be negative."""
        return Work(self[0] - other[0], self[1] - other[1], self[2] - other[2])

    def beyond(self, other: Work) -> Work:
        """How much of this is more than `other`, kind by kind; never negative."""
        return Work(max(0, self[0] - other[0]), max(0, self[1] - other[1]), max(0, self[2] - other[2]))


NOTHING = Work()
UNKNOWN = Work(UNKNOWN_TOKENS, UNKNOWN_TOKENS, UNKNOWN_REQUESTS)


class Bounds(Struct):
    """At least, and at most."""

    least: Work = NOTHING
    most: Work = NOTHING

    def add(self, least: Work, most: Work) -> None:
        self.least, self.most = self.least.plus(least), self.most.plus(most)


class Share(Struct, frozen=True):
    """Bounds of the work that one call was to one replica."""

    replica: str
    least: Work
    most: Work


def most_of(call: Call, model: ServedModel) -> Work:
    """The most that an engine can be made to do by one call. Asked for no token, where a prompt is echoed, vLLM makes
    one all the same.
    """
    context = model.context_length
    answer = context if call.completion_tokens is None else min(call.completion_tokens or 1, context)
    return Work(context * call.choices, answer * call.choices, call.choices)


def engine_work(call: Call, grant: Grant, outcome: Outcome) -> list[dict[str, Any]] | None:
    """What the outcome's record says of the engines' work, where it is not simply its tokens, counted once."""
    usage = outcome.usage
    whole = outcome.ending is Ending.COMPLETE and not usage.estimated
    if whole and not outcome.tried and call.choices == 1:
        return None
    most = most_of(call, grant.model)
    found: dict[str, Bounds] = {}
    for replica in outcome.tried:
        found.setdefault(replica, Bounds()).add(NOTHING, most)
    if outcome.replica and whole:
        n = call.sampling.get("n")
        answers = n if isinstance(n, int) and n > 1 else 1
        exact = Work(usage.prompt * answers, usage.completion, call.choices)
        found.setdefault(outcome.replica, Bounds()).add(exact, exact)
    elif outcome.replica:
        found.setdefault(outcome.replica, Bounds()).add(NOTHING, most)
    return [_row(replica, bounds) for replica, bounds in found.items()] or None


def _row(replica: str, bounds: Bounds) -> dict[str, Any]:
    return {"replica": replica, "least": list(bounds.least), "most": list(bounds.most)}


class Told(Struct, frozen=True):
    """What is read of an outcome that stands in a log."""

    type: str
    time: str = ""
    began: str = ""
    ending: str = ""
    replica: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    engine_work: tuple[Share, ...] | None = None


def shares(record: Told) -> Iterable[Share]:
    """The work that an outcome stands for, by replica."""
    if record.engine_work is not None:
        return record.engine_work
    if not record.replica:
        return ()
    exact = Work(record.prompt_tokens, record.completion_tokens, 1)
    if record.ending == Ending.COMPLETE and not record.estimated:
        return (Share(record.replica, exact, exact),)
    return (Share(record.replica, NOTHING, UNKNOWN),)


class Ledger:
    """What this process has recorded, by replica, and what is in progress. Belongs to one event loop."""

    def __init__(self) -> None:
        self._whole: dict[str, list[int]] = {}
        self._bounded: dict[str, Bounds] = {}
        self._flying: dict[str, tuple[Call, ServedModel]] = {}

    def began(self, request_id: str, call: Call, grant: Grant) -> None:
        """An intent is about to be written: from here on an engine may work on the call."""
        self._flying[request_id] = (call, grant.model)

    def refused(self, request_id: str) -> None:
        """A call ended without an engine."""
        self._flying.pop(request_id, None)

    def ended(self, record: OutcomeRecord) -> None:
        """An outcome is about to be written."""
        self._flying.pop(record.request_id, None)
        if record.engine_work is not None:
            for row in record.engine_work:
                bounds = self._bounded.setdefault(row["replica"], Bounds())
                bounds.add(Work(*row["least"]), Work(*row["most"]))
        elif record.replica:
            whole = self._whole.get(record.replica) or self._whole.setdefault(record.replica, [0, 0, 0])
            whole[0] += record.prompt_tokens
            whole[1] += record.completion_tokens
            whole[2] += 1

    def of(self, replica: str) -> Bounds:
        """All that was recorded of a replica's work up to now."""
        whole = Work(*self._whole.get(replica, NOTHING))
        bounds = self._bounded.get(replica, Bounds())
        return Bounds(bounds.least.plus(whole), bounds.most.plus(whole))

    @property
    def in_progress(self) -> int:
        """Calls in progress at whatever engines."""
        return len(self._flying)

    def flying(self, replica: str) -> tuple[int, Work]:
        """Calls in progress that this replica may have a part in, and the most that they can come to."""
        count, most = 0, NOTHING
        for call, model in self._flying.values():
            if any(each.name == replica for each in model.replicas):
                count, most = count + 1, most.plus(most_of(call, model))
        return count, most


class Reading(Struct, frozen=True):
    """An engine's counters at one moment. `started` is in microseconds since the epoch, 0 where it does not say;
    `busy` counts requests that it runs or keeps waiting.
    """

    work: Work
    started: int = 0
    busy: int = 0

    def since(self, last: Reading) -> tuple[Work, bool]:
        """What the engine has done since an earlier reading; and whether its counters began anew (rule 4)."""
        anew = self.started != last.started or any(map(int.__lt__, self.work, last.work))
        return (self.work if anew else self.work.less(last.work)), anew


class Standing(Struct, frozen=True):
    """What is counted of one replica since this process began, for the metrics."""

    replica: str
    readable: bool
    reported: Work
    least: Work
    most: Work
    unexplained: Work
    uncounted: Work
    restarts: int


class Account:
    """One replica's books: what it reported, and how that differs from what is recorded."""

    def __init__(self) -> None:
        self.reported = NOTHING
        self.unexplained = NOTHING
        self.uncounted = NOTHING
        self.restarts = 0
        self.last: Reading | None = None
        self._before: Work | None = None
        self._began = NOTHING
        self._base = Bounds()
        self._over = NOTHING
        self._quiet: tuple[Work, Work] | None = None

    def resume(self, last: Reading, earlier: Bounds) -> None:
        """Go on from counters that an earlier life of this server has recorded, and what it recorded since."""
        self.last = last
        self._base = Bounds(NOTHING.less(earlier.least), NOTHING.less(earlier.most))

    def read(self, reading: Reading, recorded: Bounds, flying: Work, *, judged: bool = True) -> None:
        """Take a reading. `recorded` is all that was recorded up to now, `flying` the most of what is in progress.

        Where it is not to be judged, the engine's side is added up, and that is all.
        """
        last, self.last = self.last, reading
        if last is None:
            self._base = Bounds(recorded.least, recorded.most)
        else:
            work, anew = reading.since(last)
            self.reported, self.restarts = self.reported.plus(work), self.restarts + anew
        if self._before is None:
            self._before = self.reported
        if not judged:
            return
        engine = self.reported.less(self._began)
        over = engine.beyond(recorded.most.less(self._base.most).plus(flying))
        self.unexplained = self.unexplained.plus(over.beyond(self._over))
        self._over = Work(*map(max, over, self._over))
        self._settle(reading, last, recorded, flying)

    @property
    def seen(self) -> Work:
        """What the counters rose by under this process' eyes. What they rose by before its first look an earlier life
        may have counted too, as it has its outcomes: after a kill that is up to an hour's work.
        """
        return NOTHING if self._before is None else self.reported.less(self._before)

    def _settle(self, reading: Reading, last: Reading | None, recorded: Bounds, flying: Work) -> None:
        """Close the window if the engine has been idle since the last look, and nothing is in progress."""
        idle = reading.busy == 0 and flying == NOTHING
        before, self._quiet = self._quiet, (recorded.least, recorded.most) if idle else None
        if self._quiet is None or before != self._quiet or last is None or reading != last:
            return
        engine = self.reported.less(self._began)
        self.uncounted = self.uncounted.plus(recorded.least.less(self._base.least).beyond(engine))
        self._began, self._over = self.reported, NOTHING
        self._base = Bounds(recorded.least, recorded.most)
