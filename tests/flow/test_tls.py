"""TLS at the API's port: real handshakes, certificates that change while the server runs, and clients' own."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fakes.engine import FakeEngine
from support.house import House, chat, until
from support.outcomes import metric
from support.wire import Wire, chat_request

CONTENT = "The capital of France is Paris."


class Files:
    """A certificate for localhost and its key, as files that can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.clients = (folder / name for name in ("tls.crt", "tls.key", "clients.crt"))
        self.authority, self.client_authority = trustme.CA(), trustme.CA()
        self.issue()
        self.trust(self.client_authority)

    def issue(self, *, begins_days: float = -1) -> int:
        """A new certificate, valid for a month from so many days from now; its serial number."""
        begins = datetime.now(UTC) + timedelta(days=begins_days)
        made = self.authority.issue_cert("localhost", not_before=begins, not_after=begins + timedelta(days=30))
        replace(self.key, made.private_key_pem.bytes())
        replace(self.certificate, b"".join(each.bytes() for each in made.cert_chain_pems))
        return x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).serial_number

    def trust(self, *authorities: trustme.CA) -> None:
        """Client certificates of these authorities are good."""
        replace(self.clients, b"".join(each.cert_pem.bytes() for each in authorities))

    def settings(self, **more: Any) -> dict[str, Any]:
        """The server's settings; changes are looked for ten times a second."""
        tls = {"certificate": self.certificate, "key": self.key, "reload_seconds": 0.1, **more}
        return {"tls": tls}

    def context(self, client: trustme.CA | None = None) -> ssl.SSLContext:
        """A client that trusts this server, with a certificate of its own if an authority is given."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            client.issue_cert("alice@hospital.example").configure_cert(context)
        return context


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of the old one, as tools that renew certificates do."""
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.chmod(0o600)
    draft.replace(path)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A good engine."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Certificates of one test."""
    return Files(tmp_path)


@pytest.fixture
def house(tmp_path: Path, engine: FakeEngine, files: Files) -> Iterator[House]:
    """A house that speaks HTTPS."""
    with House(tmp_path / "state", [engine], server=files.settings()) as house:
        yield house


def client(house: House, context: ssl.SSLContext) -> httpx.Client:
    """A client of the house at its name."""
    headers = {"authorization": f"Bearer {house.key}"}
    return httpx.Client(base_url=f"https://localhost:{house.port}", verify=context, headers=headers, timeout=10)


def serial(house: House, context: ssl.SSLContext) -> int:
    """Serial number of the certificate that a new connection is shown."""
    with Wire(house.port, context=context) as wire:
        shown = wire.socket.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        return x509.load_der_x509_certificate(shown).serial_number


def served(house: House, context: ssl.SSLContext) -> bool:
    """Whether a new connection gets an answer. False where the handshake fails, now or with the first byte read."""
    try:
        with client(house, context) as http:
            return http.post("/v1/chat/completions", json=chat()).status_code == 200
    except httpx.TransportError:
        return False


def test_openais_client_speaks_https(house: House, files: Files) -> None:
    """Answers and streams, over TLS 1.3 and HTTP/1.1."""
    assert house.url.startswith("https://")
    http = openai.DefaultHttpxClient(verify=files.context())
    with openai.OpenAI(
        base_url=f"https://localhost:{house.port}/v1", api_key=house.key, http_client=http, max_retries=0
    ) as api:
        assert api.chat.completions.create(**chat()).choices[0].message.content == CONTENT
        stream = api.chat.completions.create(**chat(stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == CONTENT
    context = files.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Wire(house.port, context=context) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert (wire.socket.version(), wire.socket.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


def test_a_client_that_leaves_over_tls_stops_the_engine(house: House, files: Files, engine: FakeEngine) -> None:
    """A closed TLS connection is a client that left, like any other."""
    engine.behave(hang_after=2)
    with Wire(house.port, context=files.context()) as wire:
        wire.send(chat_request(house.key, chat(stream=True)))
        assert wire.line().startswith(b"HTTP/1.1 200")
    until(lambda: engine.calls[0].left_at, seconds=8, what="the engine to be left")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(house: House, files: Files, version: ssl.TLSVersion) -> None:
    """Both versions that are still good."""
    context = files.context()
    context.minimum_version = context.maximum_version = version
    assert served(house, context)


def test_tls_1_1_is_refused(house: House, files: Files) -> None:
    """A client that offers nothing newer, and is willing to, is hung up on."""
    context = files.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert served(house, context)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        Wire(house.port, context=context)


# Certificates that change ----------------------------------------------------------------------------------------


def test_a_changed_certificate_serves_the_next_connection(house: House, files: Files, engine: FakeEngine) -> None:
    """A stream that is open goes on to its end; new connections see the new certificate; so does the metric."""
    engine.behave(between_seconds=0.1)
    context = files.context()
    before = serial(house, context)
    left = metric(house, "vestry_tls_certificate_expiry_timestamp_seconds") - time.time()
    assert 0 < left <= metric(house, "vestry_tls_certificate_lifetime_seconds")
    with Wire(house.port, context=context) as wire:
        wire.send(chat_request(house.key, chat(stream=True)))
        until(lambda: engine.calls, what="the engine to be asked")
        after = files.issue()
        until(lambda: serial(house, context) == after != before, seconds=15, what="the new certificate")
        assert "data: [DONE]" in wire.answer().text
        wire.send(chat_request(house.key, chat()))
        assert wire.answer().status_code == 200
    engine.behave(between_seconds=0)
    assert served(house, context)


def mismatched(files: Files) -> None:
    """A key that belongs to another certificate."""
    replace(files.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())


def garbled(files: Files) -> None:
    """A certificate that is none."""
    replace(files.certificate, b"-----BEGIN CERTIFICATE-----\nnot really\n-----END CERTIFICATE-----\n")


def missing(files: Files) -> None:
    """No key at all."""
    files.key.unlink()


def locked(files: Files) -> None:
    """A key under a passphrase, which nobody is there to enter."""
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    replace(files.key, key.private_bytes(*form, how))


def early(files: Files) -> None:
    """A certificate that is good from tomorrow on."""
    files.issue(begins_days=1)


def late(files: Files) -> None:
    """One that was good until yesterday."""
    files.issue(begins_days=-31)


@pytest.mark.parametrize("spoil", [mismatched, garbled, missing, locked, early, late])
def test_files_that_do_not_fit_leave_the_old_ones(
    house: House, files: Files, spoil: Callable[[Files], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes on with what it has, says so in its log, and takes the next good pair."""
    context = files.context()
    before = serial(house, context)
    spoil(files)
    until(lambda: "was not loaded" in caplog.text, what="a word in the log")
    assert str(files.key) in caplog.text
    assert serial(house, context) == before
    assert served(house, context)
    after = files.issue()
    until(lambda: serial(house, context) == after, seconds=15, what="the new certificate")
    assert served(house, context)


# Certificates of clients -----------------------------------------------------------------------------------------


def asking(files: Files, mode: str) -> dict[str, Any]:
    """Settings of a server that asks for client certificates."""
    return files.settings(client_certificates=mode, client_ca=files.clients)


def test_client_certificates_may_be_required(tmp_path: Path, engine: FakeEngine, files: Files) -> None:
    """None, or one of another authority: no connection. A key is needed all the same."""
    with House(tmp_path / "state", [engine], server=asking(files, "required")) as house:
        assert served(house, files.context(files.client_authority))
        assert not served(house, files.context())
        assert not served(house, files.context(trustme.CA()))
        with client(house, files.context(files.client_authority)) as http:
            assert http.get("/v1/models", headers={"authorization": "Bearer vst_wrong"}).status_code == 401


def test_client_certificates_may_be_optional(tmp_path: Path, engine: FakeEngine, files: Files) -> None:
    """With one or without; a bad one is still refused."""
    with House(tmp_path / "state", [engine], server=asking(files, "optional")) as house:
        assert served(house, files.context(files.client_authority))
        assert served(house, files.context())
        assert not served(house, files.context(trustme.CA()))


def test_client_certificates_need_tls_1_3(tmp_path: Path, engine: FakeEngine, files: Files) -> None:
    """In TLS 1.2 a session from before a rotation could be resumed, and no certificate would be looked at."""
    with House(tmp_path / "state", [engine], server=asking(files, "optional")) as house:
        context = files.context(files.client_authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not served(house, context)


def test_an_authority_that_was_taken_out_is_no_longer_trusted(tmp_path: Path, engine: FakeEngine, files: Files) -> None:
    """After a rotation the old authority's clients are refused, those with a session from before it too."""
    newer = trustme.CA()
    with House(tmp_path / "state", [engine], server=asking(files, "required")) as house:
        old, new = files.context(files.client_authority), files.context(newer)
        assert not served(house, new)
        with Wire(house.port, context=old) as wire:
            wire.send(chat_request(house.key, chat()))
            assert wire.answer().status_code == 200
            assert isinstance(wire.socket, ssl.SSLSocket)
            session = wire.socket.session
        files.trust(newer)
        until(lambda: served(house, new), seconds=15, what="the new authority")
        assert not served(house, old)
        assert not resumed(house, old, session)


def resumed(house: House, context: ssl.SSLContext, session: ssl.SSLSession | None) -> bool:
    """Whether a connection that offers an earlier session is answered."""
    try:
        with (
            socket.create_connection(("127.0.0.1", house.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as wire,
        ):
            wire.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
            return bool(wire.recv(10))
    except OSError:
        return False


# Handshakes that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"])
def test_a_handshake_that_does_not_go_on_is_ended(
    tmp_path: Path, engine: FakeEngine, files: Files, sent: bytes
) -> None:
    """Nothing, or the beginning of a greeting: closed in time; others are served meanwhile; a stop does not wait."""
    with House(tmp_path / "state", [engine], server=files.settings(), door={"header_seconds": 0.5}) as house:
        with Wire(house.port) as wire:
            wire.send(sent)
            assert served(house, files.context())
            began = time.monotonic()
            assert wire.closed()
            assert time.monotonic() - began < 10
        with Wire(house.port) as wire:
            wire.send(sent)
            began = time.monotonic()
            house.stop()
            assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "sent", [b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\x00" * 100, b"SSH-2.0-x\r\n"]
)
def test_plain_bytes_at_the_tls_port_do_not_hang(house: House, files: Files, sent: bytes) -> None:
    """Plain HTTP, or anything else that is no greeting: closed at once, without an answer in the clear."""
    with Wire(house.port) as wire:
        wire.send(sent)
        assert wire.readable(7)
        assert not wire.rest().startswith(b"HTTP")
    assert served(house, files.context())


def test_a_greeting_at_the_plain_port_does_not_hang(tmp_path: Path, engine: FakeEngine, files: Files) -> None:
    """TLS to a server without it: refused at once as malformed."""
    with House(tmp_path / "state", [engine]) as house, pytest.raises(ssl.SSLError):
        Wire(house.port, context=files.context())
