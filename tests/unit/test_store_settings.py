"""The settings of the store, and the files that they name."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from pydantic import ValidationError

from support.certificates import made
from vestry.adapters.directory.faults import Unfit
from vestry.adapters.directory.postgres import Postgres
from vestry.composition.store import directory_of
from vestry.configuration.inspection import inspect
from vestry.configuration.store_files import context_of, password_of
from vestry.settings.store import Address, Store
from vestry.settings.tree import Model, Settings

URL = "postgresql://db.hospital.example/vestry"


@pytest.mark.parametrize(
    ("url", "address", "encrypted"),
    [
        (URL, Address("db.hospital.example", 5432, "vestry"), True),
        ("postgresql://10.0.0.5:6432/keys", Address("10.0.0.5", 6432, "keys"), True),
        ("postgresql://127.0.0.1/vestry", Address("127.0.0.1", 5432, "vestry"), False),
        ("postgresql://localhost/vestry", Address("localhost", 5432, "vestry"), False),
        ("postgresql://[::1]:5433/vestry", Address("::1", 5433, "vestry"), False),
        ("postgresql:///my%20keys?host=/run/postgresql", Address("/run/postgresql", 5432, "my keys"), False),
    ],
)
def test_what_a_url_says(url: str, address: Address, encrypted: bool) -> None:
    """Host, port and database; TLS unless PostgreSQL is on this machine."""
    store = Store(url=url)
    assert store.address == address
    assert store.encrypted is encrypted
    assert Store(url=url, tls="none").encrypted is False
    assert Store(url=url, tls="verify").encrypted is True


def test_without_a_url_there_is_no_address() -> None:
    """SQLite: nothing is spoken to."""
    assert Store().address is None
    assert not Store(tls="verify").encrypted
    assert context_of(Store())() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "postgresql://db/%00"},
        {"url": "postgresql:///v?host=/a%0ab"},
        {"url": "postgresql://db/vestry#x"},
        {"url": "postgresql://db/v?host=/run"},
        {"url": "postgresql://[::1/v"},
        {"url": URL, "certificate": "c.pem"},
        {"url": URL, "key": "k.pem"},
        {"stale_seconds": 1},
        {"connections": 1},
        {"user": ""},
    ],
)
def test_what_is_no_store(fields: dict[str, Any]) -> None:
    """Each is a fault of the settings."""
    with pytest.raises(ValidationError):
        Store.model_validate(fields)


@pytest.mark.parametrize(
    ("content", "word"), [(b"\xff\xfe", "UTF-8"), (b"\n", "one line"), (b"two\nlines\n", "one line"), (b"", "fewer")]
)
def test_a_password_is_one_line(tmp_path: Path, content: bytes, word: str) -> None:
    """What is none is a fault that the settings' check tells with the file's name, and the directory's too."""
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(OSError, match=word):
        password_of(path)
    settings = Settings(
        state=tmp_path, store=Store(url=URL, password=path, ca=made(tmp_path).certificate), models={"m": Model()}
    )
    assert [str(path) in str(fault) for fault in inspect(settings) if "password" in str(fault)] == [True]
    backend = directory_of(settings, bytes(32)).backend
    assert isinstance(backend, Postgres)
    with pytest.raises(Unfit, match=word):
        backend._where.password()
    path.write_text("one line\n")
    assert backend._where.password() == "one line"


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    """It is read with its key; what cannot be used is a fault, and a key that others may read is another."""
    pair = made(tmp_path)
    store = Store(url=URL, ca=tmp_path / "ca.crt", certificate=pair.certificate, key=pair.key)
    context = context_of(store)()
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    settings = Settings(state=tmp_path, store=store, models={"m": Model()})
    assert [fault for fault in inspect(settings) if str(tmp_path) in str(fault)] == []
    pair.key.chmod(0o644)
    assert any(f"chmod 600 {pair.key}" in str(fault) for fault in inspect(settings))
    pair.certificate.write_text("nonsense")
    assert any("certificates cannot be used" in str(fault) for fault in inspect(settings))


def test_a_renewed_client_certificate_is_shown_by_the_next_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a changed password is: a certificate that lives for a day needs no restart. While its key is not there yet,
    the old pair is shown, and the log says why, once.
    """
    pair = made(tmp_path)
    (tmp_path / "server").mkdir()
    its = made(tmp_path / "server")
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(its.certificate, its.key)
    listening.load_verify_locations(tmp_path / "ca.crt")
    listening.verify_mode = ssl.CERT_REQUIRED
    shown: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"S")
        await writer.start_tls(listening)
        shown.append(int(writer.get_extra_info("peercert")["serialNumber"], 16))
        writer.close()

    def serial() -> int:
        return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"postgresql://localhost:{server.sockets[0].getsockname()[1]}/vestry"
            authority = tmp_path / "ca.crt"
            store = Store(url=url, tls="verify", ca=authority, certificate=pair.certificate, key=pair.key)
            settings = Settings(state=tmp_path, store=store)
            backend = directory_of(settings, bytes(32)).backend
            assert isinstance(backend, Postgres)

            async def connect() -> int:
                with pytest.raises(backend.faults):
                    await backend._connect()
                return shown[-1]

            first = serial()
            assert await connect() == first
            key = pair.key.read_bytes()
            made(tmp_path)
            newer = pair.key.read_bytes()
            pair.key.write_bytes(key)
            assert await connect() == first != serial()
            assert await connect() == first
            (said,) = caplog.messages
            assert f"({authority}, {pair.certificate}, {pair.key}) were not loaded" in said
            pair.key.write_bytes(newer)
            assert await connect() == serial()

    asyncio.run(run())
