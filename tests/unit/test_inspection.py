"""What the settings name is looked at: files, permissions, addresses, ports."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from support import certificates
from vestry.configuration import inspection
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import read
from vestry.secret_files import key_hash
from vestry.settings.tree import Settings, Tls


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as a server makes it."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def faults(state: Path, **sections: Any) -> list[str]:
    """What is wrong with these settings."""
    return [str(fault) for fault in inspect(Settings.model_validate({"state": state, **sections}))]


def with_tls(state: Path, tls: Tls) -> list[str]:
    """What is wrong with this server."""
    return faults(state, server={"tls": tls})


def test_good_settings_have_no_fault(state: Path) -> None:
    """A state directory, secrets, a certificate, engines elsewhere: nothing to say, and nothing is changed."""
    key_hash(Settings(state=state))
    tls = certificates.made(state).model_copy(update={"client_ca": state / "ca.crt"})
    before = sorted((each.name, each.stat().st_mtime_ns) for each in state.rglob("*"))
    models = {"m": {"replicas": [{"url": "http://10.0.0.1:8000"}, {"url": "http://localhost:8000"}]}}
    assert faults(state, server={"tls": tls}, models=models) == []
    assert sorted((each.name, each.stat().st_mtime_ns) for each in state.rglob("*")) == before


def test_a_directory_that_can_be_made_is_good(tmp_path: Path) -> None:
    """Before the first start there is no state directory."""
    assert faults(tmp_path / "not" / "yet") == []


# TLS.


def asking(folder: Path) -> Tls:
    """A server that asks for client certificates."""
    made = certificates.made(folder)
    return made.model_copy(update={"client_ca": folder / "ca.crt", "client_certificates": "optional"})


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca", "client_crl"])
def test_a_missing_file_is_named(state: Path, name: str) -> None:
    """A file that is not there is told under its setting."""
    tls = asking(state).model_copy(update={name: state / "none.pem"})
    assert with_tls(state, tls) == [
        f"server.tls.{name}: {state / 'none.pem'} cannot be read (No such file or directory). Name a readable PEM file"
    ]


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    """Certificate and key both missing are two faults."""
    assert len(with_tls(tmp_path, Tls(certificate=tmp_path / "a", key=tmp_path / "b"))) == 2


def test_a_folder_or_a_huge_file_is_no_certificate(state: Path) -> None:
    """What cannot be PEM is not read whole."""
    good = certificates.made(state)
    huge = state / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 30)
    assert "is not a file" in with_tls(state, good.model_copy(update={"certificate": state}))[0]
    assert "too large" in with_tls(state, good.model_copy(update={"certificate": huge}))[0]


def test_an_expired_certificate(state: Path) -> None:
    """A certificate that is past its end is told with the day."""
    [said] = with_tls(state, certificates.made(state, begins_days=-30, ends_days=-1))
    assert said.startswith("server.tls.certificate: the certificate expired on 20")


def test_a_certificate_of_the_future(state: Path) -> None:
    """A certificate that is not valid yet points to the clock."""
    [said] = with_tls(state, certificates.made(state, begins_days=2))
    assert "valid only from" in said
    assert "clock" in said


def test_a_key_of_another_certificate(state: Path, tmp_path: Path) -> None:
    """A pair that does not belong together is told under the key."""
    tls, other = certificates.made(state), certificates.made(tmp_path)
    [said] = with_tls(state, tls.model_copy(update={"key": other.key}))
    assert said.startswith("server.tls.key: the key does not belong to the certificate")


def encrypted(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("no key"), encrypted])
def test_a_key_that_cannot_be_used(state: Path, spoil: Callable[[Path], None]) -> None:
    """Garbage, or a key behind a passphrase, is told; nobody is asked for the passphrase."""
    tls = certificates.made(state)
    spoil(tls.key)
    [said] = with_tls(state, tls)
    assert "holds no private key that can be used" in said
    assert "without a passphrase" in said


@pytest.mark.parametrize("content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_is_none(state: Path, content: str) -> None:
    """Garbage in the certificate's place is told under the certificate."""
    tls = certificates.made(state)
    tls.certificate.write_text(content)
    [said] = with_tls(state, tls)
    assert said.startswith("server.tls.certificate: ")
    assert "holds no certificate in PEM" in said


def test_a_key_that_others_may_read(state: Path) -> None:
    """The private key is a secret file like the others."""
    tls = certificates.made(state)
    tls.key.chmod(0o644)
    [said] = with_tls(state, tls)
    assert said.startswith(f"{tls.key}: others may read or write it (mode 0644)")


def test_authorities_that_are_none(state: Path) -> None:
    """A file without certificates cannot judge clients."""
    tls = certificates.made(state)
    (state / "empty").write_text("")
    [said] = with_tls(state, tls.model_copy(update={"client_ca": state / "empty"}))
    assert said.startswith("server.tls.client_ca: ")


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_engines_authorities_that_are_none(state: Path, content: str | None) -> None:
    """A file that is not there, or has no certificate in it, would keep the server from every engine at `https://`."""
    if content is not None:
        (state / "engines.crt").write_text(content)
    [said] = faults(state, relay={"ca": state / "engines.crt"})
    assert said.startswith(f"relay.ca: {state / 'engines.crt'} cannot be used: ")
    assert said.endswith(". Name a readable PEM file")


def test_lists_of_revoked_certificates(state: Path) -> None:
    """Current ones are good; an expired one among them is named, for its authority's clients would be refused."""
    tls = asking(state).model_copy(update={"client_crl": state / "clients.crl"})
    one, other = certificates.Clients("One"), certificates.Clients("Other")
    for content, said in (
        (one.revoked(1, 2) + other.revoked(), None),
        (one.revoked() + other.revoked(ends=-60), "the list of CN=Other expired on 20"),
        (one.pem, "holds no lists of revoked certificates"),
        (b"-----BEGIN X509 CRL-----\nnone\n-----END X509 CRL-----\n", "holds no lists of revoked certificates"),
    ):
        (state / "clients.crl").write_bytes(content)
        found = with_tls(state, tls)
        assert len(found) == (0 if said is None else 1)
        assert all(each.startswith("server.tls.client_crl: ") and str(said) in each for each in found)


# Ports and addresses.


def test_ports_that_overlap(state: Path) -> None:
    """Every listener of this machine needs a port of its own; the later one is named, with the earlier."""
    models = {
        "a": {"engine": {"port": 8080}},
        "b": {"engine": {"port": 8100}},
        "c": {"engine": {"port": 8100}},
        "d": {"replicas": [{"url": "http://10.0.0.1:8100"}]},
    }
    assert [said.partition(". ")[0] for said in faults(state, models=models)] == [
        "models.a.engine.port: port 8080 is also that of server.port",
        "models.c.engine.port: port 8100 is also that of models.b.engine.port",
    ]


@pytest.mark.parametrize(
    ("host", "clash"), [("127.0.0.1", True), ("0.0.0.0", True), ("::", True), ("10.0.0.1", False), ("LOCALHOST", False)]
)
def test_the_same_port_on_another_address_is_no_clash(state: Path, host: str, clash: bool) -> None:
    """Ports overlap on the same address, and with listeners on all addresses."""
    found = faults(state, server={"host": host}, models={"m": {"engine": {"port": 8080}}})
    assert bool(found) == clash


def test_free_ports_do_not_clash(state: Path) -> None:
    """Port 0 takes a free one each time."""
    assert faults(state, server={"port": 0, "ops_port": 0, "admin_port": 0}) == []


def answer(addresses: dict[str, str]) -> Callable[..., list[tuple[Any, ...]]]:
    """A resolver that knows these names only."""

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], 0))]

    return resolve


def test_a_name_with_a_public_address(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's name that leads outside is told; private and unknown ones are not."""
    known = {"in.example": "10.0.0.1", "out.example": "93.184.215.14", "meta.example": "169.254.169.254"}
    monkeypatch.setattr(socket, "getaddrinfo", answer(known))
    urls = [{"url": f"http://{name}:80"} for name in (*known, "later.example")]
    found = faults(state, models={"m": {"replicas": urls}})
    assert [said.partition(",")[0] for said in found] == [
        "models.m.replicas.1.url: out.example is at 93.184.215.14",
        "models.m.replicas.2.url: meta.example is at 169.254.169.254",
    ]


def test_a_resolver_that_hangs_holds_nothing_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are asked for all at once, and only for so long."""
    monkeypatch.setattr(inspection, "RESOLVE_SECONDS", 0.05)
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert faults(state, models={"m": {"replicas": [{"url": f"http://h{n}.example:80"} for n in range(20)]}}) == []
    finally:
        release.set()


def test_an_engine_named_twice(state: Path) -> None:
    """The same engine twice would get twice its share."""
    urls = [{"url": "http://10.0.0.1:80"}, {"url": "http://10.0.0.1:80/"}]
    [said] = faults(state, models={"m": {"replicas": urls}})
    assert said.startswith("models.m.replicas.1.url: http://10.0.0.1:80 stands here a second time")


def test_no_tenant_or_no_model(state: Path) -> None:
    """A server that nobody could use, or that has nothing to serve, is a fault."""
    assert [said.partition(":")[0] for said in faults(state, tenants={}, models={})] == ["tenants", "models"]


# Directories and secret files.


def test_a_file_where_a_directory_belongs(tmp_path: Path) -> None:
    """A state directory below a file can never be made."""
    (tmp_path / "file").write_text("")
    found = faults(tmp_path / "file" / "state")
    assert [said.partition(":")[0] for said in found] == ["state", "audit.directory"]
    assert all("is not a directory" in said for said in found)


def test_a_directory_that_cannot_be_written_to(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that cannot be written is found before the first call."""
    record = state.parent / "record"
    record.mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != record)
    [said] = faults(state, audit={"directory": record})
    assert said == f"audit.directory: {record} cannot be written to by this user. Give it to this user"


def test_secrets_that_others_may_read(state: Path) -> None:
    """Each open secret is a fault, and so are an open folder of secrets and an open key store."""
    settings = Settings(state=state)
    key_hash(settings)
    (settings.secrets_directory / "key-hash").chmod(0o644)
    (settings.secrets_directory / "engine-key").write_text("x" * 32)
    (settings.secrets_directory / "engine-key").chmod(0o666)
    settings.secrets_directory.chmod(0o777)
    settings.keys_database.write_bytes(b"")
    settings.keys_database.chmod(0o604)
    found = faults(state)
    assert [Path(said.partition(":")[0]).name for said in found] == ["secrets", "key-hash", "engine-key", "keys.sqlite"]
    assert stat.S_IMODE(settings.secrets_directory.stat().st_mode) == 0o777


@pytest.mark.parametrize(
    ("sections", "at"),
    [
        ({"tenants": {"a": {"content": {"default": "hashed"}}}}, "tenants.a.content"),
        ({"tenants": {"a": {"content": {"routes": {"completions": "hashed"}}}}}, "tenants.a.content"),
        ({"policy": {"rules": [{"name": "a"}, {"name": "b", "content": "hashed"}]}}, "policy.rules.1.content"),
        ({"policy": {"rules": [{"name": "hashed", "content": "full"}]}}, None),
        (
            {
                "tenants": {
                    "hashed": {
                        "content": {
                            "default": "hashed",
                            "routes": {"completions": "full", "chat.completions": "metadata"},
                        }
                    }
                }
            },
            None,
        ),
    ],
)
def test_hashes_without_their_key(
    sections: dict[str, Any], at: str | None, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where content is hashed and the folder of secrets is mounted read-only, the key of the hashes must be there."""
    folder = state / "secrets"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folder)
    key = folder / "content-hash"
    said = [f"{at}: content is to be hashed with {key}, which is missing and cannot be made."] if at else []
    assert [each[: len(said[0])] if said else each for each in faults(state, **sections)] == said
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    assert faults(state, **sections) == []
    monkeypatch.undo()
    key.unlink()
    assert faults(state, **sections) == []  # it is made at need


def test_keys_without_their_pepper(state: Path) -> None:
    """A lost pepper is told before the server starts."""
    (state / "keys.sqlite").touch(mode=0o600)
    [said] = faults(state)
    assert "cannot be used without it" in said


def test_a_secret_that_cannot_be_looked_at(state: Path) -> None:
    """A loop of links in a secret's place is told."""
    (state / "secrets").mkdir(mode=0o700)
    (state / "secrets" / "key-hash").symlink_to("key-hash")
    (state / "secrets" / "audit-key").symlink_to("audit-key")
    said = faults(state)
    assert ["cannot be looked at" in said[0], "cannot be opened" in said[1]] == [True, True]


def test_places_are_those_of_the_file(state: Path, tmp_path: Path) -> None:
    """With the reading at hand, a fault has the line where the setting was written."""
    path = tmp_path / "vestry.yaml"
    path.write_text(f"state: {state}\nserver:\n  tls:\n    certificate: none.pem\n    key: none.key\n")
    reading = read(path, {})
    found = [fault.place for fault in inspect(reading.settings, reading.places.of)]
    assert found == [f"{path}:4 server.tls.certificate", f"{path}:5 server.tls.key"]
