"""The live export of a real server: records reach a SIEM, and one that is down holds up nothing and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from fakes.engine import FakeEngine
from support.cli import Cli
from support.house import PLAIN, House, chat, until
from support.outcomes import metric
from support.receivers import Authority, Collector, SyslogReceiver, reset
from support.server import ServerProcess
from vestry.audit.export import worker
from vestry.audit.finding.walk import Walker
from vestry.composition import exporting
from vestry.configuration.reading import load
from vestry.meter.record import RecordMeter


def test_calls_reach_syslog_and_http(tmp_path: Path) -> None:
    """Two exports at once, in two formats; the metrics say what was sent and that nothing waits."""
    authority = Authority(tmp_path)
    with SyslogReceiver(authority) as receiver, Collector() as collector, FakeEngine() as engine:
        exports = [
            {"name": "siem", "url": receiver.url, "ca": authority.ca, "format": "cef"},
            {"name": "lake", "url": collector.url, "format": "ocsf"},
        ]
        with House(tmp_path / "state", [engine], audit={"exports": exports}) as house:
            asked = house.post(json=chat()).headers["x-request-id"]
            until(lambda: sum(asked.encode() in line for line in collector.lines) == 2)
            until(lambda: sum(asked in message.text for message in receiver.messages) == 2)
            until(lambda: metric(house, "vestry_audit_export_lag_records", export="siem") == 0)
            assert metric(house, "vestry_audit_exported_records_total", export="lake") >= 4
            assert metric(house, "vestry_audit_export_failed_records_total", export="lake") == 0
        kinds = [json.loads(line)["metadata"]["event_code"] for line in collector.lines]
        assert kinds[-1] == "server.stop", "the last flush has the server's end"
        assert {"server.start", "intent", "outcome"} < set(kinds)


def test_a_siem_that_is_down_loses_nothing(tmp_path: Path) -> None:
    """Calls go on while the collector is down; after a kill -9 of the server and its own return all is there."""
    collector = Collector()
    port = collector.port
    collector.close()
    exports = [{"name": "lake", "url": f"http://localhost:{port}/records"}]
    with FakeEngine() as engine, ServerProcess(tmp_path, [engine], audit={"exports": exports}) as server:
        server.start()
        with server.client() as client:
            ids = [client.post("/v1/chat/completions", json=chat()).headers["x-request-id"] for _ in range(20)]
        until(lambda: "vestry_audit_export_lag_seconds" in httpx.get(f"{server.ops}/metrics", verify=PLAIN).text)
        server.signal(signal.SIGKILL)
        server.wait()
        with Collector(port) as back:
            server.start()
            Cli(server.state).ok("keys", "create", "--owner", "alice", VESTRY_CONFIG=str(server.config))
            home = server.settings.audit_directory / "server"
            until(
                lambda: (
                    list(dict.fromkeys(line for line in back.lines if b'"origin":"server"' in line))
                    == [leaf for _, leaf in Walker(home).records(0)]
                )
            )
            until(lambda: any(b'"type":"key.create"' in line for line in back.lines))
            sent = b"\n".join(back.lines)
            assert all(sent.count(asked.encode()) >= 2 for asked in ids)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


class Refusing(SyslogReceiver):
    """Takes every connection, and resets it at the first byte, as a balancer with nobody behind it."""

    def _read(self, connection: ssl.SSLSocket) -> None:
        connection.recv(1)
        reset(connection)


def test_what_a_receiver_refuses_again_and_again_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That records were written to a connection is no delivery: while none is confirmed they are behind, without a
    break, or the alert on it would never fire.
    """
    monkeypatch.setattr(worker, "CONFIRM_SECONDS", 0.5)
    authority = Authority(tmp_path)
    with Refusing(authority) as receiver, FakeEngine() as engine:
        exports = [{"name": "siem", "url": receiver.url, "ca": authority.ca}]
        with House(tmp_path / "state", [engine], audit={"exports": exports}) as house:
            until(lambda: metric(house, "vestry_audit_export_failed_records_total", export="siem") > 0)
            until(lambda: metric(house, "vestry_audit_export_lag_seconds", export="siem") > 0)
            connections, behind = receiver.connections, 0.0
            while receiver.connections < connections + 4:
                assert metric(house, "vestry_audit_export_lag_records", export="siem") > 0
                before, behind = behind, metric(house, "vestry_audit_export_lag_seconds", export="siem")
                assert behind > before


def test_an_export_goes_on_beside_a_thousand_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection has a number beyond those that select(2) can be asked about."""
    monkeypatch.setattr(worker, "GATHER_SECONDS", 0.01)
    authority = Authority(tmp_path)
    with SyslogReceiver(authority) as receiver, FakeEngine() as engine, ExitStack() as files:
        for _ in range(1100):
            files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        exports = [{"name": "siem", "url": receiver.url, "ca": authority.ca}]
        with House(tmp_path / "state", [engine], audit={"exports": exports}) as house:
            for _ in range(5):
                asked = house.post(json=chat()).headers["x-request-id"]
                until(lambda asked=asked: sum(asked in each.text for each in receiver.messages) == 2)  # type: ignore[misc]
            assert metric(house, "vestry_audit_export_failed_records_total", export="siem") == 0
            assert receiver.connections == 1


def test_a_siem_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The last flush has a bound."""
    with Collector() as collector, FakeEngine() as engine:
        collector.answer = lambda _body: "hang"
        exports = [{"name": "lake", "url": collector.url, "timeout_seconds": 60}]
        with House(tmp_path / "state", [engine], audit={"exports": exports}) as house:
            assert house.post(json=chat()).status_code == 200
            until(lambda: collector.asked)
            house.stop()  # fails after 30 s
        assert house.records("server.stop")


def test_many_that_hang_end_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers that take a connection and say nothing cost the end no more time than one of them."""
    monkeypatch.setattr(exporting, "FLUSH_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(FakeEngine())
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        exports = [
            {"name": f"siem{number}", "url": f"tls://127.0.0.1:{each.getsockname()[1]}", "timeout_seconds": 60}
            for number, each in enumerate(silent)
        ]
        house = stack.enter_context(House(tmp_path / "state", [engine], audit={"exports": exports}))
        house.post(json=chat())
        for each in silent:
            stack.enter_context(each.accept()[0])  # of the server's own log; there is none of commands yet
        began = time.monotonic()
        house.stop()
        assert time.monotonic() - began < 15


def test_all_are_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: each of these ends only when all of them are being ended."""
    exports = [{"name": f"siem{number}", "url": "tls://siem.example:6514"} for number in range(20)]
    settings = load(None, {"VESTRY_STATE": str(tmp_path), "VESTRY_AUDIT__EXPORTS": json.dumps(exports)})
    settings.audit_directory.mkdir()
    at_once = threading.Barrier(2 * len(exports), timeout=10)
    monkeypatch.setattr(worker.Worker, "start", lambda _: None)
    monkeypatch.setattr(worker.Worker, "stop", lambda _, _seconds: at_once.wait())

    async def run() -> None:
        async with exporting.Exports(settings, RecordMeter()).running(0):
            pass

    asyncio.run(run())
