"""The supervisor: a program is kept running, and stopped without remains. The programs are real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.loops import until
from support.ports import free_port
from support.processes import alive, eventually, number_in
from vestry.models import supervise
from vestry.models.journal import Journal
from vestry.models.supervise import NeverReadyError, Patience, Program, State, Supervisor

QUICK = Patience(shortest=0.05, longest=0.2, stable_seconds=60, attempts=3)

# A program with a health address. The file `mode` in its folder says how it behaves; each start is noted in `starts`.
CHILD = textwrap.dedent("""
    import http.server, os, signal, subprocess, sys, time
    folder, port = sys.argv[1], int(sys.argv[2])
    here = lambda name: os.path.join(folder, name)
    with open(here("starts"), "a") as file: file.write("x")
    mode = open(here("mode")).read().split()
    print("mode", *mode, flush=True)
    if "crash" in mode: print("the last words", flush=True); sys.exit(9)
    if "starve" in mode:
        with open(here("vmstat"), "w") as file: file.write(f"oom_kill {os.getpid()}")
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in mode:
        head = "(Core pid=7) ERROR 11-26 [core.py:9] "
        print(head + "    raise MemoryError(\\n" + head + "cuda.MemoryError: no room\\n" + "noise\\n" * 50)
        print("cuda.MemoryError: no room", flush=True)
        raise RuntimeError("See the cause above.")
    if "stubborn" in mode: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "orphan" in mode:
        orphan = subprocess.Popen(["sleep", "600"], start_new_session="daemon" in mode)
        with open(here("orphan"), "w") as file: file.write(f"{orphan.pid}\\n")
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            while os.path.exists(here("hang")): time.sleep(0.05)
            live = self.path == "/live"
            if live: open(here("asked"), "a").write("x")
            waits = "unready" in mode and not live and not os.path.exists(here("go"))
            self.send_response(503 if waits else 200); self.end_headers()
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Health)
    with open(here("pid"), "w") as file: file.write(f"{os.getpid()}\\n")
    server.serve_forever()
""")


class Stage:
    """A folder for the child, and a supervisor of it."""

    def __init__(self, folder: Path, mode: str = "good", patience: Patience = QUICK, **changes: Any):
        (folder / "child.py").write_text(CHILD)
        (folder / "mode").write_text(mode)
        self.folder = folder
        self.seen: list[tuple[State, str]] = []
        url = f"http://127.0.0.1:{free_port()}/health"
        port = url.rpartition(":")[2].partition("/")[0]
        argv = (sys.executable, str(folder / "child.py"), str(folder), port)
        settings = {"start_seconds": 30, "stop_seconds": 10, **changes}
        if settings.pop("tells", False):
            settings["live"] = f"http://127.0.0.1:{port}/live"
        program = Program("child", argv, {"PATH": os.environ["PATH"]}, folder / "child.log", url, **settings)
        self.supervisor = Supervisor(program, patience=patience, observer=lambda *seen: self.seen.append(seen))

    @property
    def starts(self) -> int:
        """How often the child was started."""
        path = self.folder / "starts"
        return len(path.read_text()) if path.exists() else 0

    @property
    def states(self) -> list[State]:
        """What the supervisor went through."""
        return [state for state, _ in self.seen]

    def pid(self) -> int:
        """The child's process id."""
        return number_in(self.folder / "pid")

    def play(self, scene: Callable[[], Awaitable[None]]) -> None:
        """Run the supervisor while the scene is played, then stop it."""

        async def main() -> None:
            life = asyncio.create_task(self.supervisor.run())
            try:
                async with asyncio.timeout(60):
                    await scene()
            finally:
                self.supervisor.stop()
                await life

        asyncio.run(main())


def test_a_program_is_started_and_stopped(tmp_path: Path) -> None:
    """It is ready once its health address answers, and gone when the supervisor has stopped."""
    stage = Stage(tmp_path)
    stage.play(stage.supervisor.ready)
    assert stage.states == [State.STARTING, State.READY, State.STOPPED]
    assert not alive(stage.pid())
    assert "mode good" in (tmp_path / "child.log").read_text()


def test_a_crash_is_followed_by_a_new_start(tmp_path: Path) -> None:
    """A program that is killed is started again, and ready again."""
    stage = Stage(tmp_path)

    async def scene() -> None:
        await stage.supervisor.ready()
        os.kill(stage.pid(), signal.SIGKILL)
        await until(lambda: stage.supervisor.restarts == 1)
        await stage.supervisor.ready()

    stage.play(scene)
    expected = [State.STARTING, State.READY, State.BACKING_OFF, State.STARTING, State.READY, State.STOPPED]
    assert stage.states == expected
    assert stage.starts == 2
    assert "it was ended by a signal (killed)" in stage.seen[2][1]


def test_a_start_that_the_system_refuses_is_tried_again(tmp_path: Path) -> None:
    """Short of memory, or of space for the log, a crashed program is waited with, and the others go on."""
    stage = Stage(tmp_path)
    log, aside = tmp_path / "child.log", tmp_path / "aside"

    async def scene() -> None:
        await stage.supervisor.ready()
        log.rename(aside)
        log.mkdir()
        os.kill(stage.pid(), signal.SIGKILL)
        await until(lambda: "it cannot be started: Is a directory" in stage.seen[-1][1])
        log.rmdir()
        await stage.supervisor.ready()

    stage.play(scene)
    assert stage.starts == 2


@pytest.mark.parametrize("mode", ["orphan", "orphan daemon"])
def test_what_a_killed_program_leaves_is_gone(tmp_path: Path, mode: str) -> None:
    """Children of a killed program die with it, also those in a session of their own: as vLLM's must."""
    stage = Stage(tmp_path, mode)

    async def scene() -> None:
        await stage.supervisor.ready()
        orphan = number_in(tmp_path / "orphan")
        os.kill(stage.pid(), signal.SIGKILL)
        await until(lambda: not alive(orphan))

    stage.play(scene)
    assert not alive(number_in(tmp_path / "orphan"))


def test_a_killed_keeper_leaves_nothing(tmp_path: Path) -> None:
    """Should the keeper itself be killed, the program and its children die all the same, and it begins anew."""
    stage = Stage(tmp_path, "orphan")

    async def scene() -> None:
        await stage.supervisor.ready()
        program, orphan = stage.pid(), number_in(tmp_path / "orphan")
        assert stage.supervisor.pid is not None
        os.kill(stage.supervisor.pid, signal.SIGKILL)
        await until(lambda: not alive(program) and not alive(orphan))
        await until(lambda: stage.supervisor.restarts == 1)
        await stage.supervisor.ready()

    stage.play(scene)
    assert not alive(stage.pid())


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    """kill -9 of the supervising process takes the program and its daemons along."""
    stage = Stage(tmp_path, "orphan daemon")
    program = stage.supervisor.program
    code = (
        "import asyncio\nfrom pathlib import Path\nfrom vestry.models.supervise import Program, Supervisor\n"
        f"program = Program('child', {program.argv!r}, {program.environment!r}, Path({str(program.log)!r}),"
        f" {program.health!r})\n"
        "async def main():\n    await Supervisor(program).run()\nasyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    pid, orphan = stage.pid(), number_in(tmp_path / "orphan")
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(pid) and not alive(orphan))


def test_a_stubborn_program_is_killed_in_the_end(tmp_path: Path) -> None:
    """A program that ignores SIGTERM is killed after its time."""
    stage = Stage(tmp_path, "stubborn orphan daemon", stop_seconds=0.3)
    stage.play(stage.supervisor.ready)
    assert not alive(stage.pid())
    assert not alive(number_in(tmp_path / "orphan"))


def test_a_hung_program_is_started_anew(tmp_path: Path) -> None:
    """A program whose health address stops answering is killed and started again, though it still runs."""
    stage = Stage(tmp_path, hang_seconds=0.5)

    async def scene() -> None:
        await stage.supervisor.ready()
        first = stage.pid()
        (tmp_path / "hang").touch()
        await until(lambda: stage.supervisor.restarts == 1)
        assert not alive(first)
        (tmp_path / "hang").unlink()
        await stage.supervisor.ready()

    stage.play(scene)
    assert "it has not answered for 0 s" in str(stage.seen) or "it has not answered for 1 s" in str(stage.seen)


def test_what_was_raised_is_told_the_cause_first(tmp_path: Path) -> None:
    """Of a program that ends with exceptions these are shown, each once, and not the end of a traceback."""
    stage = Stage(tmp_path, "raise")
    with pytest.raises(NeverReadyError) as given_up:
        asyncio.run(stage.supervisor.run())
    _, *said = str(given_up.value).splitlines()
    assert said == ["    cuda.MemoryError: no room", "    RuntimeError: See the cause above."]


def test_a_program_that_never_works_is_given_up(tmp_path: Path) -> None:
    """After three starts without ever being ready it is given up, with its last words and its log's name."""
    stage = Stage(tmp_path, "crash")
    with pytest.raises(NeverReadyError) as given_up:
        asyncio.run(stage.supervisor.run())
    assert stage.starts == 3
    said = str(given_up.value)
    assert "child did not start (3 attempts; it ended with exit status 9)" in said
    assert "the last words" in said
    assert str(tmp_path / "child.log") in said
    assert stage.states[-1] is State.STOPPED


def test_want_of_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel kills says nothing: that something was, for memory, is told beside how the program ended. The
    kernel counts the whole machine's: it may have been another's process, in a container that was full."""
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 1\n")
    monkeypatch.setattr(supervise, "VMSTAT", tmp_path / "vmstat")
    stage = Stage(tmp_path, "starve", Patience(shortest=0.05, attempts=1))
    with pytest.raises(NeverReadyError, match=r"a signal \(killed\); since .* killed a process here for want"):
        asyncio.run(stage.supervisor.run())


def test_another_program_at_the_port_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """Two houses of one machine that start at once find the same port free: the one that comes second says so."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    stage = Stage(tmp_path)

    async def life() -> None:
        async with asyncio.timeout(60):
            await stage.supervisor.run()

    with ThreadingHTTPServer(("127.0.0.1", urlsplit(stage.supervisor.program.health).port or 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        with pytest.raises(NeverReadyError, match="Address already in use"):
            asyncio.run(life())
        stranger.shutdown()
    assert State.READY not in stage.states


def test_a_program_that_is_slow_beyond_reason_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs but does not get ready in its time counts as failed, and is not left running."""
    stage = Stage(tmp_path, "unready", Patience(shortest=0.05, attempts=1))
    later = [0.0]
    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later[0]))

    async def life() -> None:
        running = asyncio.create_task(stage.supervisor.run())
        await until((tmp_path / "pid").exists)
        later[0] = 1000
        await running

    with pytest.raises(NeverReadyError, match="it was not ready within"):
        asyncio.run(life())
    assert not alive(stage.pid())


def test_a_program_that_waits_for_others_is_not_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose engines are not up yet works all the same, however long that takes, and says so."""
    stage = Stage(tmp_path, "unready", Patience(shortest=0.05, attempts=1), tells=True)
    later = [0.0]
    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later[0]))

    def asked() -> int:
        return len((tmp_path / "asked").read_text()) if (tmp_path / "asked").exists() else 0

    async def scene() -> None:
        await until(lambda: asked() > 0)
        later[0], before = 1000, asked()
        await until(lambda: asked() > before + 2)
        (tmp_path / "go").touch()
        await stage.supervisor.ready()

    stage.play(scene)
    assert stage.states == [State.STARTING, State.READY, State.STOPPED]


def test_a_program_that_once_worked_is_never_given_up(tmp_path: Path) -> None:
    """Once it was ready, a program is started again and again, however often it crashes."""
    stage = Stage(tmp_path)

    async def scene() -> None:
        await stage.supervisor.ready()
        (tmp_path / "mode").write_text("crash")
        os.kill(stage.pid(), signal.SIGKILL)
        await until(lambda: stage.starts >= 6)
        (tmp_path / "mode").write_text("good")
        await stage.supervisor.ready()

    stage.play(scene)
    assert stage.states[-2:] == [State.READY, State.STOPPED]


def test_waits_grow_to_a_bound() -> None:
    """Each wait is about double the one before, within a fifth of chance, and no wait passes the bound by more."""
    patience = Patience(shortest=1, longest=30)
    for crashes, expected in enumerate((1, 2, 4, 8, 16, 30, 30, 30), 1):
        waits = {patience.wait(crashes) for _ in range(50)}
        assert all(0.799 * expected <= wait <= 1.201 * expected for wait in waits)
        assert len(waits) > 1


def test_a_program_that_was_stable_begins_with_the_shortest_wait(tmp_path: Path) -> None:
    """Crashes long ago do not count: after a stable run the wait is the shortest again."""
    stage = Stage(tmp_path, patience=Patience(shortest=0.05, longest=100, stable_seconds=0))

    async def scene() -> None:
        for restarts in range(1, 4):
            await stage.supervisor.ready()
            os.kill(stage.pid(), signal.SIGKILL)
            (tmp_path / "pid").unlink()
            await until(lambda wanted=restarts: stage.supervisor.restarts == wanted)  # type: ignore[misc]
        await stage.supervisor.ready()

    stage.play(scene)
    waits = [float(detail.rpartition(" in ")[2].removesuffix(" s")) for state, detail in stage.seen if detail]
    assert max(waits) <= 0.1


def test_stopping_while_waiting_is_at_once(tmp_path: Path) -> None:
    """A supervisor that is told to stop during a wait does not wait on."""
    stage = Stage(tmp_path, "crash", Patience(shortest=1000, longest=1000))

    async def scene() -> None:
        await until(lambda: stage.supervisor.state is State.BACKING_OFF)

    stage.play(scene)
    assert stage.starts == 1


def test_a_cancelled_supervisor_kills_at_once(tmp_path: Path) -> None:
    """Cancelling (a second Ctrl-C) leaves nothing, and does not wait for the program's time."""
    stage = Stage(tmp_path, "stubborn", stop_seconds=600)

    async def main() -> None:
        life = asyncio.create_task(stage.supervisor.run())
        await stage.supervisor.ready()
        life.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(life, return_exceptions=True)

    asyncio.run(main())
    assert not alive(stage.pid())
    assert stage.states[-1] is State.STOPPED


def test_a_log_is_bounded(tmp_path: Path) -> None:
    """At its bound the log goes on in a new file, one old file is kept, and nobody else can read either."""
    path = tmp_path / "logs" / "x.log"
    with Journal(path, largest=100) as journal:
        for number in range(30):
            journal.write(f"line {number:4}\n".encode())
    old = path.with_name("x.log.1")
    assert path.stat().st_size <= 100
    assert old.stat().st_size <= 100
    assert path.read_text().endswith("line   29\n")
    assert {each.name for each in path.parent.iterdir()} == {"x.log", "x.log.1"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """A full disk under the log loses lines, not the program."""
    with Journal(Path("/dev/full")) as journal:
        journal.write(b"lost\n")
