"""The settings of live exports: what they accept, and what `vestry check` says of the files that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from support.certificates import made
from vestry.configuration.export_files import context_of, token_of
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import load
from vestry.faults import ConfigurationError
from vestry.settings.record import Export
from vestry.settings.tree import Settings


def settings_with(tmp_path: Path, *exports: dict[str, Any]) -> Settings:
    file = tmp_path / "vestry.yaml"
    file.write_text(yaml.safe_dump({"state": str(tmp_path / "state"), "audit": {"exports": list(exports)}}))
    return load(file, {})


@pytest.mark.parametrize(
    "url",
    [
        "tls://siem.example:6514", "tls://10.0.0.1:6514", "tls://[2001:db8::1]:6514", "https://siem.example",
        "https://siem.example:8088/services/collector/raw?channel=1", "http://127.0.0.1:9880/x", "http://localhost:1",
        "http://[::1]:80/",
    ],
)  # fmt: skip
def test_receivers(url: str) -> None:
    """TLS to anywhere, plain HTTP on this machine."""
    assert Export(name="siem", url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "", "siem.example", "siem.example:6514", "tls://siem.example", "tls://siem.example:6514/x", "tls://:6514",
        "tcp://siem.example:514", "udp://siem.example:514", "http://siem.example", "http://10.0.0.1/", "https://",
        "https://user:secret@siem.example/", "https://siem.example/#x", "https://siem.example:99999/", "file:///etc",
        "https://siem example/", "https://siem.example/\r\nX: y", "https://127.1/", "https://siem.example/\u00e4",
        "http://localhost.example.org/", "https://[::1/", "https://siem.example/a b", "https://siem.example:0/",
    ],
)  # fmt: skip
def test_what_is_no_receiver(url: str) -> None:
    """Records never leave the machine in the clear, and what is no URL of a receiver is refused."""
    with pytest.raises(ValidationError):
        Export(name="siem", url=url)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"certificate": "x.pem"}, "needs both"),
        ({"key": "x.key"}, "needs both"),
        ({"token": "x"}, "a token is for HTTP"),
        ({"format": "leef"}, "must be 'jsonl', 'ocsf' or 'cef'"),
        ({"token_scheme": "Bearer X:"}, "token_scheme"),
        ({"batch_records": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    """Each fault is told with its place."""
    with pytest.raises(ConfigurationError) as caught:
        settings_with(tmp_path, {"name": "siem", "url": "tls://siem.example:6514", **more})
    [fault] = caught.value.faults
    assert "audit.exports[0]" in fault.place
    assert said in f"{fault.place} {fault.what}"


def test_names_are_their_own(tmp_path: Path) -> None:
    """Two exports of one name would share a cursor."""
    one = {"name": "siem", "url": "tls://siem.example:6514"}
    with pytest.raises(ConfigurationError) as caught:
        settings_with(tmp_path, one, {**one, "format": "cef"})
    assert "two of them are named `siem`" in caught.value.faults[0].what


def test_files_are_looked_at(tmp_path: Path) -> None:
    """Authorities that are none, a certificate without its key, an exposed token: each is told, none shown."""
    token = tmp_path / "token"
    token.write_text("s3cret-of-the-siem")
    token.chmod(0o644)
    (tmp_path / "nonsense.pem").write_text("nonsense")
    tls = made(tmp_path)
    good = {"name": "good", "url": "tls://siem.example:6514", "ca": str(tmp_path / "ca.crt")}
    settings = settings_with(
        tmp_path,
        {**good, "certificate": str(tls.certificate), "key": str(tls.key)},
        {**good, "name": "no-ca", "ca": str(tmp_path / "none.pem")},
        {**good, "name": "bad-ca", "ca": str(tmp_path / "nonsense.pem")},
        {**good, "name": "no-key", "certificate": str(tls.certificate), "key": str(tmp_path / "ca.crt")},
        {"name": "token", "url": "https://siem.example/", "token": str(token)},
        {"name": "no-token", "url": "https://siem.example/", "token": str(tmp_path / "none")},
    )
    said = [str(each) for each in inspect(settings)]
    for name in ("no-ca", "bad-ca", "no-key"):
        assert any(f"the certificates of `{name}` cannot be used" in each for each in said), name
    assert not any("`good`" in each or "s3cret" in each for each in said)
    assert any(str(token) in each and "others may read" in each for each in said)
    assert any(str(tmp_path / "none") in each for each in said)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"two\nlines"])
def test_a_token_is_one_line(tmp_path: Path, content: bytes) -> None:
    """What could not stand in a header is no token."""
    token = tmp_path / "token"
    token.write_bytes(content)
    token.chmod(0o600)
    with pytest.raises(OSError, match="the token in"):
        token_of(token)


def test_tls_checks_names_and_is_new_enough(tmp_path: Path) -> None:
    """Whatever the settings say, the receiver's name is checked, and TLS is 1.2 or newer."""
    made(tmp_path)
    context = context_of(Export(name="x", url="tls://siem.example:6514", ca=tmp_path / "ca.crt"))()
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
    assert context.minimum_version.name == "TLSv1_2"
