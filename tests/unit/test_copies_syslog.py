"""The syslog sink against a real rsyslog: over TLS and plain, with and without client certificates, and with faults."""

from __future__ import annotations

import base64
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from support.copies import GrownLog, ListSink
from support.receivers import Authority, SyslogReceiver
from support.rsyslog import receiver
from vestry.audit.copies.couriers import Couriers
from vestry.audit.copies.sink import Item
from vestry.audit.copies.syslog import SyslogSink
from vestry.audit.tlog.notes import Checkpoint
from vestry.settings.section import is_private
from vestry.wires import Peer, Undelivered

AUTHORITY = trustme.CA()
PARAM = re.compile(r'(\w+)="((?:[^"\\\]]|\\.)*)"')


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path


def item(log: GrownLog, size: int) -> Item:
    return Item("checkpoint", log.grow(size))


def test_rsyslog_understands_every_field(tmp_path: Path, ca: Path) -> None:
    """A checkpoint over TLS arrives as RFC 5424 says, and the note in it is verifiable, byte for byte."""
    log = GrownLog(tmp_path / "server")
    with receiver(tmp_path / "rsyslog", AUTHORITY) as running:
        sink = SyslogSink("siem", Peer("localhost", running.port, 5, ca=ca), hostname="gpu-1.hospital.example")
        items = [item(log, 3), item(log, 300)]
        for each in items:
            sink.deliver(each)
        found = running.wait_for(2)
    assert [each["pri"] for each in found] == ["109", "109"], "log audit, notice"
    assert {(each["hostname"], each["app-name"], each["msgid"]) for each in found} == {
        ("gpu-1.hospital.example", "vestry", "checkpoint")
    }
    assert abs(datetime.fromisoformat(found[0]["timestamp"]) - datetime.now(UTC)).total_seconds() < 60
    for message, sent in zip(found, items, strict=True):
        assert message["structured-data"].startswith("[vestry@32473 ")
        data = dict(PARAM.findall(message["structured-data"]))
        note = base64.b64decode(data["note"]).decode()
        assert note == sent.note
        head = Checkpoint.open(note, log.public)
        assert (data["log"], data["size"]) == (head.name, str(head.size))
        assert f"{head.size} records" in message["msg"]
    assert sink.newest() is None
    assert not sink.keeps_registry


def test_plain_tcp_where_it_is_asked_for(tmp_path: Path) -> None:
    """Without TLS the same message arrives; a public address is refused before a byte is sent."""
    log = GrownLog(tmp_path / "server")
    with receiver(tmp_path / "rsyslog", None) as running:
        peer = Peer("127.0.0.1", running.port, 5, tls=False, permitted=is_private)
        SyslogSink("siem", peer).deliver(item(log, 3))
        running.wait_for(1)
        for permitted in (lambda _: False, None):
            strict = Peer("127.0.0.1", running.port, 5, tls=False, permitted=permitted)
            with pytest.raises(Undelivered, match="at a public address"):
                SyslogSink("siem", strict).deliver(item(log, 4))
        time.sleep(0.3)
        assert len(running.messages()) == 1


def test_a_client_certificate(tmp_path: Path, ca: Path) -> None:
    """A receiver that asks for one takes ours, and nothing from a sender without, who hears of it."""
    log = GrownLog(tmp_path / "server")
    issued = AUTHORITY.issue_cert("vestry.hospital.example")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    with receiver(tmp_path / "rsyslog", AUTHORITY, clients=True) as running:
        peer = Peer("localhost", running.port, 5, ca=ca, certificate=certificate, key=key)
        SyslogSink("siem", peer).deliver(item(log, 3))
        running.wait_for(1)
        for size in range(4, 8):
            with pytest.raises(Undelivered):
                SyslogSink("siem", Peer("localhost", running.port, 5, ca=ca)).deliver(item(log, size))
        assert len(running.messages()) == 1
    key.unlink()
    with receiver(tmp_path / "rsyslog2", AUTHORITY) as running:
        peer = Peer("localhost", running.port, 5, ca=ca, certificate=certificate, key=key)
        with pytest.raises(Undelivered, match="needs a file that cannot be read"):
            SyslogSink("siem", peer).deliver(item(log, 8))


@pytest.mark.parametrize(
    ("host", "known", "sentence"),
    [
        ("127.0.0.1", True, "certificate that is not accepted.*IP address mismatch"),
        ("localhost", False, "certificate that is not accepted"),
    ],
)
def test_a_wrong_certificate(tmp_path: Path, ca: Path, host: str, known: bool, sentence: str) -> None:
    """Another name, or an authority that we do not know: nothing is sent."""
    log = GrownLog(tmp_path / "server")
    with receiver(tmp_path / "rsyslog", AUTHORITY) as running:
        sink = SyslogSink("siem", Peer(host, running.port, 5, ca=ca if known else None))
        with pytest.raises(Undelivered, match=sentence):
            sink.deliver(item(log, 3))
        assert running.messages() == []


def test_down_then_up(tmp_path: Path, ca: Path) -> None:
    """The spool holds what a receiver that is down did not take, and brings it in order when it is back."""
    log = GrownLog(tmp_path / "server")
    with receiver(tmp_path / "first", AUTHORITY) as running:
        port = running.port
    sink = SyslogSink("siem", Peer("localhost", port, 30, ca=ca))  # what is given up after it was sent comes again
    with pytest.raises(Undelivered, match="refuses connections"):
        sink.deliver(item(log, 1))
    couriers = Couriers(log.home, [sink, ListSink()], first_pause=0.05, longest_pause=0.2)
    couriers.start()
    for size in (2, 3):
        note = log.grow(size)
        couriers.checkpointed(note, log.head)
    with receiver(tmp_path / "second", AUTHORITY, port=port) as running:
        found = running.wait_for(3)
        couriers.close()
    assert [dict(PARAM.findall(each["structured-data"]))["size"] for each in found] == ["1", "2", "3"]


@contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listener that does this with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    wire, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(wire,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def drip(wire: socket.socket) -> None:
    """A TLS record of 16 KiB that never ends: a byte now and then."""
    try:
        wire.sendall(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb")
        while True:
            wire.sendall(b"\x00")
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize("talk", [lambda wire: time.sleep(20), drip], ids=["silent", "dripping"])
def test_one_that_hangs_has_a_deadline(tmp_path: Path, ca: Path, talk: Callable[[socket.socket], None]) -> None:
    """Silent or dripping in the handshake, it is given up after its seconds, for the whole of a delivery."""
    log = GrownLog(tmp_path / "server")
    with serving(talk) as port:
        began = time.monotonic()
        with pytest.raises(Undelivered, match=r"did not answer within 0\.5 s"):
            SyslogSink("siem", Peer("localhost", port, 0.5, ca=ca)).deliver(item(log, 1))
        assert time.monotonic() - began < 10


def test_one_that_does_not_close(tmp_path: Path, ca: Path) -> None:
    """A TLS receiver that reads and never ends the connection counts as one that has not taken it."""
    issued = AUTHORITY.issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)

    def swallow(wire: socket.socket) -> None:
        with context.wrap_socket(wire, server_side=True, suppress_ragged_eofs=False) as secure:
            while secure.recv(65_536):
                time.sleep(5)

    log = GrownLog(tmp_path / "server")
    with serving(swallow) as port, pytest.raises(Undelivered, match="did not answer"):
        SyslogSink("siem", Peer("localhost", port, 0.5, ca=ca)).deliver(item(log, 1))


@pytest.mark.parametrize("polite", [True, False])
def test_an_end_without_a_word_of_tls_is_one(tmp_path: Path, polite: bool) -> None:
    """A receiver that has read all and closes plainly has taken the message, with TLS's `close_notify` or without."""
    authority, log = Authority(tmp_path), GrownLog(tmp_path / "server")
    with SyslogReceiver(authority) as receiver:
        receiver.polite = polite
        SyslogSink("siem", Peer("localhost", receiver.port, 5, ca=authority.ca)).deliver(item(log, 1))
        assert [each.kind for each in receiver.messages] == ["checkpoint"]


def test_a_reset_is_none(tmp_path: Path) -> None:
    """A receiver that resets the connection may not have read the message: it counts as one that has not."""
    authority, log = Authority(tmp_path), GrownLog(tmp_path / "server")
    with SyslogReceiver(authority) as receiver:
        receiver.cut_after = 1
        sink = SyslogSink("siem", Peer("localhost", receiver.port, 5, ca=authority.ca))
        with pytest.raises(Undelivered):
            sink.deliver(item(log, 1))
        sink.deliver(item(log, 2))
        assert len(receiver.messages) == 1


def garbage(wire: socket.socket) -> None:
    with wire:
        wire.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000)


def test_one_that_speaks_something_else(tmp_path: Path, ca: Path) -> None:
    """Garbage instead of TLS, and an answer where none belongs, are sentences."""
    log = GrownLog(tmp_path / "server")
    with serving(garbage) as port:
        with pytest.raises(Undelivered, match="cannot be spoken to by TLS"):
            SyslogSink("siem", Peer("localhost", port, 5, ca=ca)).deliver(item(log, 1))
        plain = Peer("127.0.0.1", port, 5, tls=False, permitted=is_private)
        with pytest.raises(Undelivered, match=r"answers, which none does|cannot be spoken to"):
            SyslogSink("siem", plain).deliver(item(log, 2))
    with pytest.raises(Undelivered, match="no address is known"):
        SyslogSink("siem", Peer("nowhere.invalid", 6514, 5)).deliver(item(log, 3))


def test_names_are_escaped(tmp_path: Path) -> None:
    """What stands in a value cannot end it, and a host name is printable ASCII (RFC 5424, sections 6 and 6.3.3)."""
    sink = SyslogSink("siem", Peer("localhost", 1, 1), hostname="ho st\nname\u20ac")
    assert SyslogSink("siem", Peer("localhost", 1, 1), hostname="\u20ac")
    log = GrownLog(tmp_path / "server", origin='a"]\\b')
    message = sink.message(item(log, 1), datetime(2026, 11, 25, 21, 0, tzinfo=UTC))
    assert message.startswith("<109>1 2026-11-25T21:00:00.000000Z hostname vestry ")
    assert 'log="house.test/vestry/a\\"\\]\\\\b"' in message
    assert "\n" not in message


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_one_that_closes_before_it_has_read(tmp_path: Path, waits: bool, tls: bool) -> None:
    """A balancer with nobody behind it takes the connection, and ends it in order without having read: that the ends
    cross each other makes no delivery of it.
    """
    authority, log = Authority(tmp_path), GrownLog(tmp_path / "server")

    def leaves(wire: socket.socket) -> None:
        with suppress(OSError):
            if tls:
                wire = authority.context.wrap_socket(wire, server_side=True)
            select.select([wire] if waits else [], [], [], None if waits else 0)
            if isinstance(wire, ssl.SSLSocket):
                wire.setblocking(False)
                with suppress(ssl.SSLWantReadError):
                    wire.unwrap()
        wire.close()

    with serving(leaves) as port:
        host = "localhost" if tls else "127.0.0.1"
        sink = SyslogSink("siem", Peer(host, port, 5, tls=tls, ca=authority.ca, permitted=is_private))
        for size in range(1, 11):
            with pytest.raises(Undelivered):
                sink.deliver(item(log, size))
