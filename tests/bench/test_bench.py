"""The bench itself: its load generator, mock engine and arithmetic say what is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import machine, report, servers
from bench.machine import BenchError, Cores, Process
from bench.pairs import Pairs
from bench.works import WORKS, Loader, Result, Target, measure

CALLS = WORKS[2]
STREAMS = next(work for work in WORKS if work.name == "s256")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The load generator and the mock engine."""
    return machine.build(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def mock(built: tuple[Path, Path], tmp_path: Path) -> Iterator[Target]:
    """A running mock engine."""
    core = min(os.sched_getaffinity(0))
    with servers.mock(built[1], tmp_path, Cores(server=core, load=core)) as found:
        yield found


def _result(target: str, cost: float, **load: float) -> Result:
    return Result(
        work="c64", target=target, load=load, cpu_request=cost, cpu_chunk=None, cpu_share=None, memory=None,
        records=None, record_bytes=None, upstream=1, posts=1,
    )  # fmt: skip


def test_every_call_is_counted_once(built: tuple[Path, Path], mock: Target) -> None:
    """What the load generator reports as answered is what the mock engine was asked."""
    seen = measure(CALLS, mock, mock, Loader(built[0]), ["-c", "4", "-N", "200", "-w", "0", "-t", "10"])
    assert (seen.load["all_ok"], seen.posts, seen.upstream) == (200, 200, 4)
    assert 0 < seen.load["lat_p50"] <= seen.load["lat_p99"]


def test_chunks_and_their_age_are_measured(built: tuple[Path, Path], mock: Target) -> None:
    """A stream of 16 content chunks has 20 events, and each content chunk is younger than the whole stream is long."""
    arguments = ["-c", "2", "-N", "4", "-s", "-S", "mock:n=16,d=1000", "-w", "0", "-t", "10"]
    seen = measure(STREAMS, mock, mock, Loader(built[0]), arguments)
    assert seen.load["all_chunks"] == 4 * 20
    assert 0 < seen.load["relay_p99"] < seen.load["lat_p50"]
    assert 0 < seen.load["ttft_p50"] < seen.load["lat_p50"]


def test_an_open_loop_keeps_its_rate(built: tuple[Path, Path], mock: Target) -> None:
    """At 100 requests/s no more than those are sent, whatever the server could do, and none is left out."""
    seen = Loader(built[0]).run(mock, ["-c", "8", "-r", "100", "-w", "0.1", "-t", "1"], 20)
    assert 100 <= seen["all_ok"] <= 110


@pytest.mark.parametrize(
    ("status", "body", "chunked"),
    [
        (503, b'{"error":{"message":"no"}}', False),
        (200, b'data: {"choices":[]}\n\ndata: {"choices":[]}\n\n', True),
        (200, b'data: {"error":{"code":"engine_error"}}\n\n', True),
    ],
)
def test_a_bad_answer_stops_the_bench(built: tuple[Path, Path], status: int, body: bytes, chunked: bool) -> None:
    """An error, and a stream without its [DONE], are not counted as answers: the bench says so instead."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(body)))))
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        target = Target("this one", server.server_port, "key", "mock")
        with pytest.raises(BenchError, match=f"this one did not answer every call: 0 good, 1 bad.*{status}"):
            Loader(built[0]).run(target, ["-N", "1", "-s", "-t", "5"], 20)
    finally:
        server.shutdown()
        server.server_close()


def test_a_process_is_measured_and_stopped_with_its_children(tmp_path: Path) -> None:
    """Processor time and memory count the children; after `stop` none of them is left."""
    script = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time\\nwhile 1: pass']);"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    process = Process("A parent", [sys.executable, "-c", script], tmp_path / "log", patience=0.2)
    with process:
        process.wait_for(lambda: len(list(process.tree())) == 2, 10)
        process.wait_for(lambda: process.cpu_seconds() > 0.3, 20)
        tree = list(process.tree())
        now, peak = process.memory()
        assert 0 < now <= peak
    assert not any(machine.runs(pid) for pid in tree)


def test_a_program_that_ends_early_is_explained(tmp_path: Path) -> None:
    """The sentence names the program, its status and its last words."""
    command = [sys.executable, "-c", "import sys; sys.exit('the port is taken')"]
    with (
        Process("The engine", command, tmp_path / "log") as process,
        pytest.raises(BenchError, match=r"The engine ended with status 1\.\nthe port is taken"),
    ):
        process.wait_for(lambda: False, 20)


def test_differences_and_ratios_are_taken_within_a_round() -> None:
    """A machine that is twice as slow in one round does not change what was added."""
    figures = report.Figures(
        [
            [_result("nginx", 10, lat_p50=500), _result("vestry", 60, lat_p50=900)],
            [_result("nginx", 20, lat_p50=1000), _result("vestry", 120, lat_p50=1400)],
            [_result("nginx", 12, lat_p50=520), _result("vestry", 72, lat_p50=920)],
        ]
    )
    assert figures.added("c64", "vestry", "nginx", "lat_p50") == 400
    assert figures.median("c64", "vestry", lambda result: result.cpu_request) == 72


def test_what_one_costs_more_is_told_by_nginx_too() -> None:
    """The median of the pairs' differences; and the same by what nginx took where the targets were set."""
    rounds = ((28, 150, 100), (28, 120, 90), (20, 99, 59))
    runs = [pair for costs in rounds for pair in zip(("nginx", "a", "b"), costs, strict=True)]
    found = Pairs([_result(name, cost) for name, cost in runs], "a", "b")
    assert found.cpu_rows(25) == [
        ["CPU a call, c64, µs (nginx: 28.0)", "120.00", "90.00", "40.00", "25"],
        ["the same where nginx takes 14", "60.00", "45.00", "20.00", "25"],
    ]


def test_verdicts_know_in_which_direction_good_lies() -> None:
    """Less is better for costs, more for the share of tokens/s; both bounds are inclusive."""
    met = report.Figures([[_result("vestry", 90.0)]]).verdicts(memory=130_000_000, real=0.98)
    assert [each.target_met for each in met] == [True, True, True]
    missed = report.Figures([[_result("vestry", 90.1)]]).verdicts(memory=131_000_000, real=0.979)
    assert [each.target_met for each in missed] == [False, False, False]


def test_figures_take_the_place_of_the_old_ones() -> None:
    """Writing the figures twice leaves one set of them on the page, and the words around them untouched."""
    page = command.DOCUMENT.read_text()
    once = command.documented(
        page, command.Measured(report.Figures([[_result("vestry", 61.0, rps=900, lat_p50=700, lat_p99=900)]]))
    )
    twice = command.documented(
        once, command.Measured(report.Figures([[_result("vestry", 62.0, rps=900, lat_p50=700, lat_p99=900)]]))
    )
    assert "| CPU a request, c64, µs | 61 |" in once
    assert "| CPU a request, c64, µs | 62 |" in twice
    assert twice.replace("| 62 |", "| 61 |").replace("| 62.0 |", "| 61.0 |") == once
    assert once.partition(command.BEGIN)[0] == page.partition(command.BEGIN)[0]
    assert once.partition(command.END)[2] == page.partition(command.END)[2]
    with pytest.raises(BenchError, match="has no lines"):
        command.documented("# Another page\n", command.Measured())


def test_the_whole_bench_runs(tmp_path: Path) -> None:
    """nginx and the real server are measured beside each other, and every call is found twice in the record."""
    written = tmp_path / "figures.json"
    bench = [sys.executable, "-m", "bench", "--only", "c64", "--rounds", "1", "--seconds", "0.5"]
    tests = Path(machine.SOURCES).parent
    done = subprocess.run(
        [*bench, "--json", str(written)], cwd=tests, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CPU a request, c64, µs" in done.stdout
    (runs,) = json.loads(written.read_text())["rounds"]
    found = {run["target"]: run for run in runs}
    assert set(found) == {"direct", "nginx", "vestry"}
    assert found["vestry"]["records"] >= 2 * found["vestry"]["load"]["all_ok"]
    assert 0 < found["nginx"]["cpu_request"] < found["vestry"]["cpu_request"]


def test_the_command_explains_itself() -> None:
    """`--help` works without building or starting anything, and a wrong figure is refused."""
    bench = [sys.executable, "-m", "bench"]
    tests = Path(machine.SOURCES).parent
    shown = subprocess.run([*bench, "--help"], cwd=tests, capture_output=True, text=True, timeout=60, check=True)
    assert "--only" in shown.stdout
    wrong = subprocess.run(
        [*bench, "--rounds", "0"], cwd=tests, capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 2
    assert "above 0" in wrong.stderr
