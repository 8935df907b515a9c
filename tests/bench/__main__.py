"""`make bench`: what the server costs beside a bare nginx proxy, in the same run.

The server under test has one core, the mock engine and the load have the other. Every work is run against the
mock engine itself (`direct`), nginx and Vestry in turn, round after round. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from bench import credential, machine, pairs, real, record, report, servers, works
from bench.machine import REPOSITORY, BenchError, Cores
from bench.pairs import Pairs
from bench.works import WORKS, Loader, Result, Target, Work

TARGETS = ("direct", "nginx", "vestry")
REAL, RECORD, CREDENTIAL = "real", "record", "credential"
DOCUMENT = REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- figures: make bench ARGS='--real --docs' -->", "<!-- end of figures -->"
SETTLING = 0.7  # seconds that each run takes beyond its load
NO_DIRECT = {"32k"}  # nothing is derived from the engine alone there


class Progress:
    """One line on standard error that says what runs now; nothing where that is not a terminal."""

    def __init__(self, total: float) -> None:
        self.total, self.spent, self.live = total, 0.0, sys.stderr.isatty()

    def say(self, text: str, seconds: float = 0.0) -> None:
        if self.live:
            filled = int(24 * min(1.0, self.spent / self.total)) if self.total else 24
            left = max(0.0, self.total - self.spent)
            sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text}, about {left:.0f} s left")
            sys.stderr.flush()
        self.spent += seconds

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS='…'", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each of them every work and target (3)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all works")
    names = [*(work.name for work in WORKS), REAL, RECORD, CREDENTIAL]
    parser.add_argument("--only", action="append", choices=names, help="this work; repeatable")
    parser.add_argument("--target", action="append", choices=TARGETS, help="this target; repeatable")
    parser.add_argument("--seconds", type=float, help="measured seconds of each run, instead of the work's own")
    parser.add_argument("--record", action="store_true", help="also what the record costs, with it and without")
    parser.add_argument("--credential", choices=["jwt"], help="also what this credential costs, beside an API key")
    parser.add_argument("--real", action="store_true", help="also tokens/s on the real engine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run and the medians there")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is not met")
    parser.add_argument("--keep", action="store_true", help="keep the working folder: record, logs, settings")
    found = parser.parse_args(argv)
    if found.rounds < 1 or (found.seconds is not None and found.seconds <= 0):
        parser.error("--rounds and --seconds are above 0")
    return found


@contextmanager
def working_folder(keep: bool) -> Iterator[Path]:
    """A folder on the disk of the checkout: the record's fdatasync shall be a real one."""
    parent = REPOSITORY / "build"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        yield folder
    finally:
        if keep:
            sys.stderr.write(f"Kept in {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def check_duties(target: Target, mock: Target, loader: Loader) -> None:
    """See that the figures will be those of a server that checks keys, and records both ends of every call."""
    stranger = replace(target, key="vst_not_a_key")
    try:
        loader.run(stranger, ["-N", "1"], 30)
    except BenchError as refused:
        if "status 401" not in str(refused):
            raise BenchError(f"A call with a wrong key was not answered with 401: {refused}") from None
    else:
        raise BenchError(f"{target.name} answered a call with a wrong key: keys are not checked.")
    if target.ops_port is not None:
        seen = works.measure(WORKS[0], target, mock, loader, ["-N", "20", "-w", "0", "-t", "10"])
        if seen.records is None or seen.records < 40:
            raise BenchError(f"20 calls left {seen.records} records, not an intent and an outcome each.")


def rounds(
    options: argparse.Namespace, targets: Sequence[Target], mock: Target, loader: Loader
) -> Iterator[list[Result]]:
    """Each round runs every work against every target; the order of the targets turns from round to round."""
    count = 1 if options.quick else options.rounds
    chosen = [work for work in WORKS if not options.only or work.name in options.only]
    plan = [(work, target) for work in chosen for target in targets if _wanted(work, target)]
    progress = Progress(count * sum(work.duration(options.seconds, options.quick) + SETTLING for work, _ in plan))
    for number in range(count):
        results = []
        for work in chosen:
            turn = number % len(targets)
            for target in [*targets[turn:], *targets[:turn]]:
                if _wanted(work, target):
                    duration = work.duration(options.seconds, options.quick) + SETTLING
                    progress.say(f"round {number + 1} of {count}: {work.name}, {target.name}", duration)
                    line = work.arguments(options.seconds, options.quick)
                    results.append(works.measure(work, target, mock, loader, line))
        yield results
    progress.clear()


def _wanted(work: Work, target: Target) -> bool:
    return not (target.name == "direct" and work.name in NO_DIRECT)


@dataclass(frozen=True)
class Measured:
    """What a bench has found. `memory` is resident bytes after all rounds and their peak, by target."""

    figures: report.Figures = field(default_factory=lambda: report.Figures(()))
    memory: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    fdatasync: tuple[float, float] | None = None
    disk: str = ""
    ratio: real.Ratio | None = None
    cost: record.Cost | None = None
    beside: Pairs | None = None

    def verdicts(self) -> list[report.Verdict]:
        memory = self.memory["vestry"][0] if "vestry" in self.memory else None
        return self.figures.verdicts(memory, self.ratio.median if self.ratio else None)

    def conditions(self) -> str:
        """The machine and the run, in sentences."""
        about = machine.describe()
        text = f"{about['processor']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}."
        if self.fdatasync is not None:
            median, high = (each * 1e3 for each in self.fdatasync)
            count = len(self.figures.rounds)
            text += f" Medians of {count} rounds." if count > 1 else " One round."
            text += f" The record is on {self.disk}: one fdatasync takes {median:.2f} ms (p99 {high:.2f} ms)."
            if self.disk in machine.VOLATILE:
                text += " That is memory, not a disk: the latency figures are too good."
        return text

    def tables(self, draw: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
        """The report as text; `draw` makes a table of a head and rows."""
        memory = [[name, *(f"{size / 1e6:.0f}" for size in sizes)] for name, sizes in self.memory.items()]
        found = (
            ("Calls answered in one piece", report.CALL_HEAD, report.call_rows(self.figures)),
            ("Streams", report.STREAM_HEAD, report.stream_rows(self.figures)),
            ("The record", report.RECORD_HEAD, report.record_rows(self.figures)),
            ("What the record costs", record.HEAD, self.cost.rows() if self.cost else []),
            ("What a token costs", credential.HEAD, credential.rows(self.beside) if self.beside else []),
            ("Memory (RSS), MB", ("in front", "after load", "peak"), memory),
            ("Real engine", real.HEAD, self.ratio.rows() if self.ratio else []),
            ("Against the targets", report.VERDICT_HEAD, [each.row() for each in self.verdicts()]),
        )
        level = "### " if draw is report.markdown else ""
        return "\n".join(f"{level}{title}\n\n{draw(head, rows)}\n" for title, head, rows in found if rows)

    def json(self) -> dict[str, Any]:
        return {
            "machine": machine.describe(),
            "fdatasync_seconds": self.fdatasync,
            "disk": self.disk,
            "memory_bytes": {name: {"after": now, "peak": peak} for name, (now, peak) in self.memory.items()},
            "rounds": [[each.json() for each in one] for one in self.figures.rounds],
            "real": self.ratio.json() if self.ratio else None,
            "record": self.cost.json() if self.cost else None,
            "credential": {"runs": self.beside.json()} if self.beside else None,
            "verdicts": [each.json() for each in self.verdicts()],
        }


def measure_mock(options: argparse.Namespace, folder: Path, binary: Path, mock_binary: Path) -> Measured:
    """All chosen works, with the mock engine behind."""
    cores = Cores.choose()
    loader = Loader(binary, cores.load)
    wanted = options.target or TARGETS
    sync = machine.fdatasync_times(folder)
    with ExitStack() as stack:
        mock = stack.enter_context(servers.mock(mock_binary, folder, cores))
        targets = [mock] if "direct" in wanted else []
        for name, serve in (("nginx", servers.bare_nginx), ("vestry", servers.vestry)):
            if name in wanted:
                targets.append(stack.enter_context(serve(mock, folder, cores)))
                check_duties(targets[-1], mock, loader)
        results = list(rounds(options, targets, mock, loader))
        memory = {each.name: each.process.memory() for each in targets if each.process}
    return Measured(report.Figures(results), memory, sync, machine.filesystem(folder))


def measure(options: argparse.Namespace, folder: Path) -> Measured:
    """Everything that was asked for."""
    binary, mock_binary = machine.build(folder)
    found = Measured()
    if not options.only or set(options.only) - {REAL, RECORD, CREDENTIAL}:
        found = measure_mock(options, folder, binary, mock_binary)
    if options.record or RECORD in (options.only or ()):
        turns, loader = 1 if options.quick else options.rounds, Loader(binary, Cores.choose().load)
        cost = record.measure(folder, loader, mock_binary, rounds=turns, quick=options.quick)
        found = replace(found, cost=cost)
    if options.credential or CREDENTIAL in (options.only or ()):
        many, loader = 1 if options.quick else options.rounds * credential.PAIRS, Loader(binary, Cores.choose().load)
        seconds = options.seconds or pairs.SECONDS
        found = replace(found, beside=credential.measure(folder, loader, mock_binary, many=many, seconds=seconds))
    if options.real or REAL in (options.only or ()):
        ratio = real.measure(folder, Loader(binary), 2 if options.quick else 2 * options.rounds)
        found = replace(found, ratio=ratio)
    return found


def documented(text: str, found: Measured) -> str:
    """The page on performance with these figures in the place of its old ones.

    Raises BenchError where the page has no such place.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{DOCUMENT} has no lines `{BEGIN}` and `{END}` for the figures to go between.")
    return f"{before}{begin}\n\n{found.conditions()}\n\n{found.tables(report.markdown)}\n{end}{after}"


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGTERM, interrupted)
    began = time.monotonic()
    try:
        with working_folder(options.keep) as folder:
            found = measure(options, folder)
        if options.docs:
            DOCUMENT.write_text(documented(DOCUMENT.read_text(), found))
    except BenchError as fault:
        sys.stderr.write(f"\nThe bench stopped: {fault}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nThe bench was interrupted; what it had started is stopped.\n")
        return 130
    print(f"{found.conditions()}\n\n{found.tables(report.plain)}\n{time.monotonic() - began:.0f} s in all.")
    if options.json:
        options.json.write_text(json.dumps(found.json(), indent=1) + "\n")
    return 1 if options.check and not all(each.target_met for each in found.verdicts()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
