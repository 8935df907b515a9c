"""The server's life as a process: it starts, it stops under load without failing a call, and it says so."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fakes.audit import read
from fakes.engine import FakeEngine
from support import forks
from support.cli import clean
from support.house import PLAIN, House, chat, until
from support.outcomes import events, only_outcome, said
from support.ports import free_port
from support.server import ROOT, ServerProcess
from support.tokens import issuer, rsa, signed
from support.wire import Wire, chat_request

CONTENT = "The capital of France is Paris."
BODIES = (chat(), chat(stream=True), {"model": "small"})


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A good engine."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def server(tmp_path: Path, engine: FakeEngine) -> Iterator[ServerProcess]:
    """A running server."""
    with ServerProcess(tmp_path, [engine], server={"drain_seconds": 40}) as server:
        server.start()
        yield server


@pytest.fixture
def started(tmp_path: Path, engine: FakeEngine) -> Iterator[ServerProcess]:
    """A running server, from the start of Python on."""
    with ServerProcess(tmp_path, [engine], server={"drain_seconds": 40}) as server:
        server.forked = False
        server.start()
        yield server


def log_of(server: ServerProcess) -> list[dict[str, Any]]:
    """The whole record, read strictly."""
    return read(server.settings.audit_directory, server.settings.audit.origin)


class Load:
    """So many clients that call again and again, on connections that they keep, until nobody listens any more."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(clients)
        self.whole: list[str] = []
        self.failed: list[str] = []
        self.refused = 0
        self.work = [self._pool.submit(self._run, number % 2 == 0) for number in range(clients)]

    def _run(self, stream: bool) -> None:
        with self._server.client() as client:
            while True:
                try:
                    answer = client.post("/v1/chat/completions", json=chat(stream=stream))
                except httpx.ConnectError:
                    self.refused += 1
                    return
                except httpx.TransportError as fault:
                    self.failed.append(repr(fault))
                    return
                good = answer.status_code == 200 and (not stream or answer.text.endswith("data: [DONE]\n\n"))
                (self.whole if good else self.failed).append(answer.headers["x-request-id"])

    def wait(self) -> None:
        """Until all clients have found the port closed."""
        for each in self.work:
            each.result(20)
        self._pool.shutdown()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_says_where_it_is_and_stops_at_once(started: ServerProcess, number: signal.Signals) -> None:
    """`server.json` names its addresses and process while it runs; idle connections cost no time; status 0."""
    server = started
    note = server.state / "server.json"
    told = json.loads(note.read_text())
    assert server.process is not None
    assert told["pid"] == server.process.pid
    assert httpx.get(told["ops"] + "/livez", verify=PLAIN).status_code == 200
    with server.client() as used, Wire(server.port), Wire(server.port) as half:
        half.send(b"GET /v1/models HTTP/1.1\r\nhost: loc")
        assert used.get("/v1/models").status_code == 200
        began = time.monotonic()
        server.signal(number)
        half.send(b"alhost\r\n\r\n")
        assert server.wait() == 0
        assert time.monotonic() - began < 15
    assert not note.exists()
    kinds = [each["type"] for each in log_of(server)]
    assert kinds[-1] == "server.stop"
    assert kinds.count("server.start") == 1
    assert "Traceback" not in server.errors.read_text()


@pytest.mark.parametrize("ignored", [False, True])
def test_the_end_of_its_terminal_ends_it_in_order(tmp_path: Path, engine: FakeEngine, ignored: bool) -> None:
    """Where SIGHUP is not ignored, as `nohup` has it."""
    with ServerProcess(tmp_path, [engine]) as server:
        server.forked = False  # a process that is forked has the signals of the one that forks
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        try:
            server.start()
        finally:
            signal.signal(signal.SIGHUP, before)
        server.signal(signal.SIGHUP)
        if ignored:
            assert server.ready()
            server.stop()
        assert server.wait() == 0
        assert log_of(server)[-1]["type"] == "server.stop"


def test_the_first_start_tells_nothing_of_how_tables_are_made(tmp_path: Path, engine: FakeEngine) -> None:
    """Alembic, which is imported where there are none yet, has lines of its own for the log."""
    with ServerProcess(tmp_path, [engine]) as server:
        for each in server.state.glob("keys.sqlite*"):
            each.unlink()
        server.forked = False
        server.start()
        server.stop()
        assert "alembic" not in server.errors.read_text()
        assert server.settings.keys_database.exists()


def test_told_to_stop_while_it_comes_up_it_ends_in_a_container_too(tmp_path: Path, engine: FakeEngine) -> None:
    """As the first process there is: the kernel keeps the signal from it where nothing waits for it, and it would come
    up all the same. (Here it waits for an outside copy that does not answer.)
    """
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    credentials.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as silent, ServerProcess(tmp_path, [engine]) as server:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        copy = {
            "kind": "s3",
            "name": "vault",
            "endpoint": endpoint,
            "bucket": "bucket",
            "credentials": str(credentials),
        }
        server.config.write_text(
            yaml.safe_dump({**yaml.safe_load(server.config.read_text()), "audit": {"copies": [copy]}})
        )
        rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = [sys.executable, "-m", "vestry", "--config", str(server.config), "serve"]
        environ = {**clean(os.environ), "PYTHONPATH": str(ROOT / "server")}
        with subprocess.Popen(
            ["unshare", *rootless, "--pid", "--fork", "--kill-child", *command], env=environ
        ) as outside:
            try:
                silent.accept()
                [first] = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
                os.kill(int(first), signal.SIGTERM)
                assert outside.wait(5) == 128 + signal.SIGTERM
            finally:
                outside.kill()


@pytest.mark.parametrize("silent", [False, True], ids=["ports-open", "no-answer-of-the-directory"])
def test_told_to_stop_before_it_is_ready_it_stops_in_order(tmp_path: Path, engine: FakeEngine, silent: bool) -> None:
    """As soon as its ports are open, and before, while it waits for its directory: a start that stands in the record is
    followed by a stop, the note of its addresses is gone, and the exit status is 0.
    """
    with socket.create_server(("127.0.0.1", 0)) as mute, ServerProcess(tmp_path, [engine]) as server:
        if silent:
            database = {"store": {"url": f"postgresql://127.0.0.1:{mute.getsockname()[1]}/vestry", "user": "vestry"}}
            server.config.write_text(yaml.safe_dump({**yaml.safe_load(server.config.read_text()), **database}))
        program = [sys.executable, "-m", "vestry", "--config", str(server.config), "serve"]
        server.process = subprocess.Popen(program, env={**clean(os.environ), "PYTHONPATH": str(ROOT / "server")})
        note = server.state / "server.json"
        if silent:
            mute.settimeout(20)
            mute.accept()
        while not silent and not note.exists() and server.process.poll() is None:
            pass
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not note.exists()
    kinds = [each["type"] for each in log_of(server) if each["type"].startswith("server.")]
    assert kinds == ["server.start", "server.stop"]


def test_started_with_its_standard_streams_closed_it_serves_and_stops(tmp_path: Path, engine: FakeEngine) -> None:
    """As some supervisors do it: no file of its own, such as the record, has their numbers, and what they get."""
    with ServerProcess(tmp_path, [engine]) as server:
        program = [sys.executable, "-m", "vestry", "--config", str(server.config), "serve"]
        environ = {**clean(os.environ), "PYTHONPATH": str(ROOT / "server")}
        server.process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *program], env=environ)
        until((server.state / "server.json").exists, seconds=60, what="server.json")
        server.ops = json.loads((server.state / "server.json").read_text())["ops"]
        until(server.ready, what="readiness")
        streams = {Path(f"/proc/{server.process.pid}/fd/{number}").readlink() for number in range(3)}
        assert streams == {Path(os.devnull)}
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert log_of(server)[-1]["type"] == "server.stop"


def test_it_leaves_no_core_dump(server: ServerProcess) -> None:
    """Whatever the limit of who starts it: the memory of a server holds keys, secrets and prompts."""
    assert server.process is not None
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (line,) = [each.split() for each in limits.splitlines() if each.startswith("Max core file size")]
    assert line[4:6] == ["0", "0"]


def test_all_threads_share_one_heap(started: ServerProcess) -> None:
    """No thread has a heap of its own, which glibc places in 64 MiB of addresses: each would keep what it has freed."""
    assert started.process is not None
    with started.client() as client:
        assert [client.post("/v1/chat/completions", json=body).status_code for body in BODIES[:2]] == [200, 200]
    assert len(list(Path(f"/proc/{started.process.pid}/task").iterdir())) > 2
    places = [line.split() for line in Path(f"/proc/{started.process.pid}/maps").read_text().splitlines()]
    ranges = [([int(end, 16) for end in each[0].split("-")], each[1]) for each in places]
    whole = 64 << 20
    own = [start for ((start, _), _), ((_, end), kind) in pairwise(ranges)
           if kind == "---p" and start % whole == 0 and end - start == whole]  # fmt: skip
    assert own == []


def test_a_stop_under_load_fails_no_call(server: ServerProcess, engine: FakeEngine) -> None:
    """Every call that was taken is answered whole; readiness turns false first; status 0; the stop is recorded."""
    engine.behave(first_seconds=0.02, between_seconds=0.01)
    load = Load(server, 8)
    until(lambda: len(load.whole) > 40, what="some load")
    server.signal(signal.SIGTERM)
    load.wait()
    assert server.wait() == 0
    assert load.failed == []
    assert load.refused == 8
    records = log_of(server)
    assert records[-1]["type"] == "server.stop"
    outcomes = {each["request_id"]: each["ending"] for each in records if each["type"] == "outcome"}
    assert {outcomes[request_id] for request_id in load.whole} == {"complete"}
    assert set(outcomes) == {each["request_id"] for each in records if each["type"] == "intent"}
    assert "Traceback" not in server.errors.read_text()


def refused(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_connection(("127.0.0.1", port), 20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_streams_finish_while_readiness_is_false(server: ServerProcess, engine: FakeEngine) -> None:
    """A stream that runs when the signal comes runs to its end; meanwhile: not ready, alive, no new connections."""
    engine.behave(between_seconds=0.15)
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        server.signal(signal.SIGTERM)
        until(lambda: not server.ready(), what="not ready")
        ready = httpx.get(server.ops + "/readyz", verify=PLAIN)
        assert (ready.status_code, ready.json()["missing"]) == (503, {"server": "stopping"})
        assert httpx.get(server.ops + "/livez", verify=PLAIN).status_code == 200
        until(lambda: refused(server.port), what="the port to be closed")
        text = "\n".join([first, *lines, ""])
    assert said(events(text)) == CONTENT
    assert text.endswith("data: [DONE]\n\n")
    assert server.wait() == 0


def test_the_administration_stops_with_the_api(server: ServerProcess, engine: FakeEngine) -> None:
    """While a stream goes on, nobody new is let in there either, and who is there gets an answer, the last one: the two
    do not take the drain time one after the other."""
    engine.behave(between_seconds=0.15)
    port = int(server.admin.rpartition(":")[2])
    with Wire(port) as half, server.client() as client:
        half.send(b"GET /admin/v1/whoami HTTP/1.1\r\nhost: loc")
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            until(lambda: not server.ready(), what="not ready")
            until(lambda: refused(port), what="the port to be closed")
            half.send(b"alhost\r\n\r\n")
            assert half.rest().startswith(b"HTTP/1.1 401 ")
            assert httpx.get(server.ops + "/livez", verify=PLAIN).status_code == 200
            assert [each for each in lines if each][-1] == "data: [DONE]"
    assert server.wait() == 0


class Endless:
    """A stream and a call that would go on for ever, each waited for in a thread. Use as a context manager."""

    def __init__(self, client: httpx.Client, engine: FakeEngine) -> None:
        self._client, self._engine = client, engine
        self._pool = ThreadPoolExecutor(2)

    def __enter__(self) -> Endless:
        asked = len(self._engine.calls)
        self._engine.behave(hang_after=4)
        self.streaming = self._post(chat(stream=True))
        until(lambda: [each.events for each in self._engine.calls[asked:]] == [4], what="four events")
        self._engine.behave(hang=True)
        self.waiting = self._post(chat())
        until(lambda: len(self._engine.calls) == asked + 2, what="the call")
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()

    def _post(self, body: Any) -> Future[httpx.Response]:
        return self._pool.submit(self._client.post, "/v1/chat/completions", json=body)

    def check(self, records: list[dict[str, Any]]) -> None:
        """An error event or 503, each recorded; the engine was left; the stop stands last."""
        stream, whole = self.streaming.result(5), self.waiting.result(5)
        assert events(stream.text)[-1]["error"]["code"] == "overloaded"
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "overloaded")
        ends = {each["request_id"]: each for each in records if each["type"] == "outcome"}
        cut = ends[stream.headers["x-request-id"]]
        assert (cut["ending"], cut["completion_tokens"]) == ("truncated", 4)
        failed = ends[whole.headers["x-request-id"]]
        assert (failed["ending"], failed["attempts"], failed["replica"]) == ("failed", 1, cut["replica"])
        assert failed["engine_work"][0]["least"] == [0, 0, 0]
        assert records[-1]["type"] == "server.stop"
        until(lambda: all(call.left_at for call in self._engine.calls), what="the engine to be left")


def test_what_does_not_end_in_the_drain_time_is_cut_off(tmp_path: Path, engine: FakeEngine) -> None:
    """The client is told, the record says what it cost, and only then is the connection closed."""
    with House(tmp_path / "state", [engine], server={"drain_seconds": 0.5}) as house:
        headers = {"authorization": f"Bearer {house.key}"}
        with httpx.Client(base_url=house.url, headers=headers, verify=PLAIN, timeout=20) as client:
            with Endless(client, engine) as endless:
                began = time.monotonic()
                house.stop()
                assert 0.4 < time.monotonic() - began < 15
            endless.check(house.records())


def test_a_stop_does_not_wait_for_a_client_that_takes_no_end(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Its outcome is recorded, and the last bytes wait behind many that it does not read: the connection is closed
    behind the drain time, and no fault of ours is logged."""
    engine.behave(raw=streamed_at_once("x" * 1_000_000))
    with House(tmp_path / "state", [engine], server={"drain_seconds": 0.3}) as house:
        with Wire(house.port, receive_buffer=16_384) as wire:
            wire.send(chat_request(house.key, chat(stream=True)))
            assert only_outcome(house)["ending"] == "complete"
            house.stop()
            rest = wire.rest()
        assert b"xxx" in rest
        assert b"[DONE]" not in rest
        only_outcome(house)
    assert [each.exc_info for each in caplog.records if each.exc_info] == []


def streamed_at_once(text: str) -> bytes:
    """A whole stream in one piece, with one long event in it."""
    events = (
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 24, "completion_tokens": 1}},
    )
    body = b"".join([b"data: %b\n\n" % json.dumps(each).encode() for each in events]) + b"data: [DONE]\n\n"
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def test_a_second_signal_does_not_wait(server: ServerProcess, engine: FakeEngine) -> None:
    """A second or more after the first one, it cuts off what still runs; sooner it may be a supervisor's, sent beside
    the terminal's, and means nothing more. Exit status 0 all the same, and no traceback."""
    with server.client() as client, Endless(client, engine) as endless:
        began = time.monotonic()
        server.signal(signal.SIGINT)
        time.sleep(0.2)
        server.signal(signal.SIGTERM)
        time.sleep(1.0)
        assert not endless.streaming.done()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < 15
    endless.check(log_of(server))
    assert "Traceback" not in server.errors.read_text()


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path, engine: FakeEngine) -> None:
    """The server does not start, and says which address and port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        house = House(tmp_path / "state", [engine], server={"port": port})
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"), house:
            raise AssertionError("it started")


def test_a_start_that_cannot_be_recorded_is_a_sentence(tmp_path: Path, engine: FakeEngine) -> None:
    """As on a disk that is full: the server does not start, and its log has why."""
    server = ServerProcess(tmp_path, [engine])
    with server:
        server.start()
        server.stop()
    written = next(server.settings.audit_directory.glob("server/*.jsonl")).stat().st_size
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({written}, {written}))"
    program = f"{limited}; from vestry.cli import main; main(['--config', {str(server.config)!r}, 'serve'])"
    # What measures coverage would write a file, too, and complain.
    environ = {name: value for name, value in clean(os.environ).items() if not name.startswith("COVERAGE_")}
    done = forks.run(["-c", program], env=environ)
    assert done.returncode == 1
    why, told = done.stderr.splitlines()[-2:]
    assert "the audit log cannot be written, so nothing is served: [Errno 27] File too large" in why
    assert told == f"Error: The start could not be recorded in {server.settings.audit_directory}, so nothing is served."


def test_addresses_of_both_kinds_are_recorded_as_themselves(tmp_path: Path, engine: FakeEngine) -> None:
    """On `::` a caller by IPv4 is not recorded as one by IPv6: whoever searches for an address finds it."""
    with House(tmp_path / "state", [engine], server={"host": "::"}) as house:
        for host in ("127.0.0.1", "[::1]"):
            for key, status in ((house.key, 200), ("vst_wrong", 401)):
                url = f"http://{host}:{house.port}/v1/models"
                assert httpx.get(url, headers={"authorization": f"Bearer {key}"}).status_code == status
            found = [house.records(kind)[-1]["source"] for kind in ("outcome", "refusal")]
            assert found == [host.strip("[]")] * 2


def test_it_listens_on_ipv6_too(tmp_path: Path, engine: FakeEngine) -> None:
    """`host: "::1"`, with the address in brackets where it is written."""
    with House(tmp_path / "state", [engine], server={"host": "::1"}) as house:
        assert house.url.startswith("http://[::1]:")
        assert house.post(json=chat()).status_code == 200


def test_a_second_server_on_the_same_record_is_refused(server: ServerProcess) -> None:
    """One log has one writer: the second process ends with a sentence, and the first goes on."""
    with ServerProcess.__new__(ServerProcess) as second:
        second.__dict__.update(server.__dict__)
        note = (server.state / "server.json").read_text()
        with pytest.raises(AssertionError, match=r"(?i)\berror\b"):
            second.start()
        (server.state / "server.json").write_text(note)
        assert second.wait() != 0
        assert "Traceback" not in server.errors.read_text()
    with server.client() as client:
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_restart_goes_on_with_the_same_record(server: ServerProcess) -> None:
    """The next life appends to the log of the last one, without a gap; keys still work."""
    for _ in range(2):
        with server.client() as client:
            assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        server.start()
    kinds = [each["type"] for each in log_of(server)]
    assert (kinds.count("server.start"), kinds.count("server.stop"), kinds.count("outcome")) == (3, 2, 2)
    assert "intent.closed" not in kinds


def test_a_rolling_restart_fails_no_call(tmp_path: Path, engine: FakeEngine) -> None:
    """Two servers, and clients that turn to the other where one refuses the connection: one restarts, nothing fails."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    engine.behave(first_seconds=0.01, between_seconds=0.002)
    one = ServerProcess(tmp_path / "a", [engine], server={"port": free_port()})
    with one, ServerProcess(tmp_path / "b", [engine]) as two:
        one.start()
        two.start()
        over = threading.Event()
        statuses: dict[str, list[int]] = {one.url: [], two.url: []}
        failed: list[str] = []

        def work(stream: bool) -> None:
            with one.client() as first, two.client() as second:
                while not over.is_set():
                    for client, seen in zip((first, second), statuses.values(), strict=True):
                        try:
                            answer = client.post("/v1/chat/completions", json=chat(stream=stream))
                            seen.append(answer.status_code)
                        except httpx.ConnectError:
                            time.sleep(0.05)
                        except httpx.TransportError as fault:
                            failed.append(repr(fault))

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work, number % 2 == 0) for number in range(4)]
            until(lambda: len(statuses[one.url]) > 20, what="some load")
            one.signal(signal.SIGTERM)
            assert one.wait() == 0
            before = len(statuses[one.url])
            one.start()
            until(lambda: len(statuses[one.url]) > before + 10, what="calls at the new one")
            over.set()
            for each in working:
                each.result(20)
        assert failed == []
        assert {status for seen in statuses.values() for status in seen} == {200}


def test_nothing_is_imported_once_it_is_ready(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a call needs has been imported before the first one, of keys, tokens and errors as well."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    pair = rsa("one")
    with ServerProcess(tmp_path, [engine], identity={"issuers": [issuer(tmp_path, pair)]}) as server:
        server.forked = False
        server.start()
        begun = server.errors.stat().st_size
        assert b"import time:" in server.errors.read_bytes()
        found = []
        for bearer in (server.key, signed(pair), "vst_wrong", "a.b.c"):
            with httpx.Client(headers={"authorization": f"Bearer {bearer}"}, verify=PLAIN) as client:
                asked = [client.post(f"{server.url}/v1/chat/completions", json=body) for body in BODIES]
                found += [each.status_code for each in (*asked, client.get(f"{server.admin}/admin/v1/whoami"))]
        assert found == [*(200, 200, 400, 200) * 2, *(401,) * 8]
        assert httpx.get(f"{server.ops}/metrics", verify=PLAIN).status_code == 200
        assert server.errors.read_bytes()[begun:] == b""
