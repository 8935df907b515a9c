"""What a verification says: findings, each with its place, and a report on every log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

Progress = Callable[[int, str], None]
"""Called with how many more records have been looked at, and in which log."""

KEPT = 100
"""Failures of one log that are told one by one; more are only counted."""
HOLES = 10_000
"""Separate stretches of missing files in one log, after which no more are told apart."""


class BadInput(Exception):  # noqa: N818 - what it is
    """What was given cannot be verified at all: no log, a wrong key, a checkpoint that is none. A whole sentence."""


class Finding(Struct, frozen=True):
    """One thing that was seen. `failure` says whether the log fails because of it; `index` is the first record
    concerned, where there is one.
    """

    kind: str
    origin: str
    sentence: str
    index: int | None = None
    expected: str = ""
    found: str = ""
    failure: bool = True


class Hole(Struct):
    """Files that are missing: a `what` of the records from `first` to before `end`."""

    what: str
    path: str
    first: int
    end: int


class Findings:
    """Gathers what is seen in one log. Holes are judged at the end, when it is known what was pruned."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.kept: list[Finding] = []
        self.failures = 0
        self.first_bad: int | None = None
        self._holes: list[Hole] = []

    def fail(
        self,
        kind: str,
        sentence: str,
        index: int | None = None,
        expected: str = "",
        found: str = "",
        *,
        origin: str = "",
    ) -> None:
        """Something that is not as it must be; `origin` where it is not in the log that this gathers for."""
        self.failures += 1
        if index is not None:
            self.first_bad = index if self.first_bad is None else min(index, self.first_bad)
        if self.failures <= KEPT:
            self.kept.append(Finding(kind, origin or self.origin, sentence, index, expected, found))

    def note(self, kind: str, sentence: str, index: int | None = None) -> None:
        """Something that whoever reads the report should know."""
        self.kept.append(Finding(kind, self.origin, sentence, index, failure=False))

    def missing(self, what: str, path: Path, first: int, end: int) -> None:
        """A file that is not there; that may be allowed."""
        last = self._holes[-1] if self._holes else None
        if last is not None and last.what == what and last.end == first:
            last.end = end
        elif len(self._holes) < HOLES:
            self._holes.append(Hole(what, str(path), first, end))
        else:
            self.fail("missing", f"More than {HOLES} separate stretches of files are missing.", first)

    def judge_holes(self, pruned: int) -> None:
        """Whatever ends at or below `pruned` may be missing (C2SP tlog-tiles, Pruning); the rest may not."""
        for hole in self._holes:
            if hole.end > pruned:
                first = max(hole.first, pruned) if hole.what == "bundle" else hole.first
                why = f"records below {pruned} were pruned" if pruned else "nothing was pruned"
                self.fail(
                    f"{hole.what}-missing",
                    f"The {hole.what} of records {first} to {hole.end - 1} is missing ({hole.path}); {why}.",
                    first,
                    "a file",
                    "none",
                )


class LogReport(Struct):
    """What was found in one log. Sizes are in records."""

    origin: str
    name: str = ""
    size: int = 0
    root: str = ""
    root_matches: bool = False
    first_kept: int = 0
    beyond: int = 0
    began: str = ""
    ended: str = ""
    types: dict[str, int] = {}
    open_intents: int = 0
    open_request_ids: list[str] = []
    failures: int = 0
    first_bad: int | None = None
    findings: list[Finding] = []


class Report(Struct):
    """The whole verdict. `alone` tells that one log was looked at without its registry."""

    key: str
    alone: bool
    logs: list[LogReport]
    house: list[Finding]

    @property
    def passed(self) -> bool:
        return not any(each.failures for each in self.logs) and not any(each.failure for each in self.house)

    def findings(self) -> list[Finding]:
        """All of them: of the house, then of each log, failures first and by index."""
        below = [each for log in self.logs for each in sorted(log.findings, key=_order)]
        return [*self.house, *below]


def _order(finding: Finding) -> tuple[bool, int]:
    return not finding.failure, -1 if finding.index is None else finding.index
