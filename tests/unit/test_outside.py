"""From the settings to the sinks: kinds, faults with their places, credentials, and the figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from fakes.witness import Witness
from support.copies import HOUSE
from vestry.administration import ChangeRefused, create_key
from vestry.audit.copies.directory import DirectorySink
from vestry.audit.copies.s3 import S3Sink
from vestry.audit.copies.sink import Item
from vestry.audit.copies.syslog import SyslogSink
from vestry.audit.copies.witness import WitnessSink
from vestry.cli import main
from vestry.composition.outside import credentials_in, sinks_of
from vestry.composition.signing import make_signer
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import load
from vestry.faults import ConfigurationError
from vestry.meter.calls import Meter
from vestry.settings.tree import Settings
from vestry.wires import Undelivered, Web

KEY = Witness().vkey
DIRECTORY = "{kind: directory, name: vault, path: /mnt/vault, required: true}"
SYSLOG = "{kind: syslog, name: siem, host: siem.hospital.example}"
WITNESS = f"{{kind: witness, name: w1, url: https://w.example/w1/, public_key: '{KEY}'}}"
S3 = "{kind: s3, name: lock, endpoint: https://s3.example, bucket: audit-log, credentials: CREDENTIALS}"


def settings_of(tmp_path: Path, *entries: str) -> Settings:
    """Settings with these copies, read as from a file."""
    path = tmp_path / "vestry.yaml"
    path.write_text("audit:\n  copies:\n" + "".join(f"    - {entry}\n" for entry in entries))
    return load(path, {})


def credentials(tmp_path: Path, text: str = "", mode: int = 0o600) -> Path:
    path = tmp_path / "credentials"
    path.write_text(text or "[default]\naws_access_key_id = AKID\naws_secret_access_key = sec%ret\n")
    path.chmod(mode)
    return path


def test_each_kind_becomes_its_sink(tmp_path: Path) -> None:
    """All four, with their names and whether they are required; no connection is made."""
    s3 = S3.replace("CREDENTIALS", str(credentials(tmp_path)))
    settings = settings_of(tmp_path, DIRECTORY, SYSLOG, WITNESS, s3)
    sinks = sinks_of(settings, tmp_path, HOUSE.public.of("server"), "server")
    assert [type(each) for each in sinks] == [DirectorySink, SyslogSink, WitnessSink, S3Sink]
    assert [each.name for each in sinks] == ["vault", "siem", "w1", "lock"]
    assert [each.required for each in sinks] == [True, False, False, False]
    assert [each.keeps_registry for each in sinks] == [True, False, False, True]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "{kind: ftp, name: a}",
            ":3 audit.copies[0]: `kind` must be one of `directory`, `syslog`, `witness`, ",
        ),
        ("{name: a}", ":3 audit.copies[0]: `kind` must be one of"),
        ("{kind: directory, name: a}", ":3 audit.copies[0].path: `path` is missing"),
        ("{kind: directory, name: a, pth: /x, path: /x}", "there is no such setting. Did you mean `path`?"),
        ("{kind: directory, name: A!, path: /x}", "audit.copies[0].name: this is not such a name"),
        ("{kind: syslog, name: a, host: 8.8.8.8, transport: tcp}", "without TLS, only loopback and private addresses"),
        ("{kind: syslog, name: a, host: x, certificate: /x}", "`certificate` and `key` are given together"),
        ("{kind: syslog, name: a, host: x, transport: tcp, ca: /x}", "are for `transport: tls`"),
        (WITNESS.replace("https://w.example/w1/", "http://8.8.8.8"), "without TLS, only loopback and private"),
        (WITNESS.replace("https://w.example/w1/", "https://u@w.example"), "write it as https://host"),
        (WITNESS.replace("https://w.example/w1/", "https://w.example:99999"), "write it as https://host"),
        (WITNESS.replace("w.example/w1/", "w.example/w 1/"), "write it as https://host"),
        (S3.replace("https://s3.example", "https://s3.example/a b"), "write it as https://host"),
        (WITNESS.replace(KEY, "key"), "write a witness's public key as NAME+HASH+KEY"),
        (S3.replace("audit-log", "A"), "write 3 to 63 of a-z"),
        (S3.replace("}", ", prefix: no-slash}"), "each with a slash behind it"),
        (S3.replace("}", ", retain_days: 0}"), "this must be at least 1"),
        (f"{DIRECTORY}\n    - {DIRECTORY}", "two of them are named `vault`"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path: Path, entry: str, said: str) -> None:
    """The kind that pydantic puts into the path does not confuse the place."""
    with pytest.raises(ConfigurationError) as raised:
        settings_of(tmp_path, entry)
    assert said in str(raised.value)


def test_a_log_is_not_named_as_a_folder_of_another(tmp_path: Path) -> None:
    """`server/spool` would lie where the spool of `server` does."""
    for name in ("server/spool", "server/tile", "server/cosigned"):
        with pytest.raises(ConfigurationError, match="has its place within a log"):
            load(None, {"VESTRY_AUDIT__ORIGIN": name})


def test_files_are_looked_at(tmp_path: Path) -> None:
    """`vestry check` finds files that are missing, and secrets that others may read, with their places."""
    key = tmp_path / "client.key"
    key.write_text("key")
    key.chmod(0o644)
    syslog = SYSLOG.replace("}", f", ca: {tmp_path}/ca.pem, certificate: {key}, key: {key}}}")
    s3 = S3.replace("CREDENTIALS", str(credentials(tmp_path, mode=0o644)))
    settings = settings_of(tmp_path, syslog, s3)
    found = [str(each) for each in inspect(settings)]
    assert any(each.startswith("audit.copies.0.ca: ") and "cannot be read" in each for each in found)
    assert any(each.startswith(f"{key}: others may read") for each in found)
    assert any(each.startswith(f"{tmp_path}/credentials: others may read") for each in found)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "[other]\naws_access_key_id = AKID\naws_secret_access_key = secret\n",
        "[default]\naws_access_key_id = AKID\n#........\n",
        "[default]\naws_access_key_id = AK\u00fcID\naws_secret_access_key = secret\n",
        "[default]\naws_access_key_id = AK\x07ID\naws_secret_access_key = secret\n",
        "[default]\naws_access_key_id = AKID\naws_secret_access_key = secret\n[default]\n",
    ],
)
def test_bad_credentials(tmp_path: Path, text: str) -> None:
    """What is no credentials file is a sentence that shows nothing of it."""
    path = credentials(tmp_path, text)
    with pytest.raises(ConfigurationError) as raised:
        credentials_in(path, "default")
    assert "secret\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_credentials_are_read_anew(tmp_path: Path) -> None:
    """A renewed file counts for the next request; one that has become readable by others is a failed try."""
    path = credentials(tmp_path)
    assert credentials_in(path, "default").secret_key == "sec%ret"
    [sink] = sinks_of(
        settings_of(tmp_path, S3.replace("CREDENTIALS", str(path))), tmp_path, HOUSE.public.of("server"), "server"
    )
    path.chmod(0o644)
    with pytest.raises(Undelivered, match="others may read"):
        sink.deliver(Item("registry", "origins\n"))


@pytest.mark.parametrize("url", ["ftp://host", "https://", "https://host?x", "https://host#x", "https://u@host"])
def test_urls_that_are_none(url: str) -> None:
    """As the settings refuse them, so does the connection."""
    with pytest.raises(ValueError, match="write it as"):
        Web.at(url, seconds=1)


def test_the_figures() -> None:
    """What the meter is told of a copy becomes its series; one that is never asked has no comparison."""
    meter = Meter()
    meter.record.copy_declared("siem")
    meter.record.copy_declared("vault")
    meter.record.copy_known("vault", 7, 1000.0)
    meter.record.copy_delivered("vault", 9, 2000.0)
    meter.record.copy_failed("vault")
    meter.record.copies_waiting("vault", 2, 0.0)
    meter.record.copies_dropped("vault", 3)
    meter.record.copy_compared("vault", agrees=False)
    registry = CollectorRegistry()
    registry.register(meter)
    lines = generate_latest(registry).decode().splitlines()
    shown: dict[str, Any] = dict(
        line.rsplit(" ", 1) for line in lines if "vestry_audit_cop" in line and not line.startswith("#")
    )
    of = {name.partition("{")[0]: float(value) for name, value in shown.items() if 'copy="vault"' in name}
    assert of.pop("vestry_audit_copy_behind_seconds") > 1e9
    assert of == {
        "vestry_audit_copies_total": 1,
        "vestry_audit_copy_failures_total": 1,
        "vestry_audit_copies_dropped_total": 3,
        "vestry_audit_copy_records": 9,
        "vestry_audit_copy_timestamp_seconds": 2000,
        "vestry_audit_copies_waiting": 2,
        "vestry_audit_copy_compared": 0,
    }
    siem = [name for name in shown if 'copy="siem"' in name]
    assert len(siem) == 7
    assert not any("compared" in name for name in siem)


def test_a_command_copies_its_log_too(tmp_path: Path) -> None:
    """A change of keys is a record of the log `cli`: its checkpoint goes out; a log rolled back stops the change."""
    vault = tmp_path / "vault"
    vault.mkdir()
    copy = {"kind": "directory", "name": "vault", "path": str(vault)}
    settings = Settings.model_validate({"state": tmp_path / "state", "audit": {"copies": [copy]}})
    make_signer(settings, "house.test/vestry")
    create_key(settings, owner="alice")
    log, snapshot = settings.audit_directory / "cli", tmp_path / "snapshot"
    assert (vault / "cli/latest").read_text() == (log / "checkpoint").read_text()
    assert (vault / "origins").exists()
    shutil.copytree(log, snapshot)
    create_key(settings, owner="bob")
    assert (vault / "cli/latest").read_text() == (log / "checkpoint").read_text()
    shutil.rmtree(log)
    shutil.copytree(snapshot, log)
    with pytest.raises(ChangeRefused, match=r"Nothing was changed.*was rolled back or cut off: `vault`"):
        create_key(settings, owner="carol")
    found = CliRunner().invoke(
        main, ["--config", str(_written(tmp_path, copy)), "audit", "checkpoint", "--origin", "cli"]
    )
    assert found.exit_code == 1
    assert "was rolled back or cut off" in found.output


def _written(tmp_path: Path, copy: dict[str, str]) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps({"state": str(tmp_path / "state"), "audit": {"copies": [copy]}}))
    return path


def test_two_servers_with_one_key_copy_to_one_place(tmp_path: Path) -> None:
    """Each has a directory of its own, and commands in it: under one name the second one's log looks rewritten, and is
    refused; under names of their own (`audit.commands`) both are copied, side by side.
    """
    vault, key = tmp_path / "vault", tmp_path / "audit-key"
    vault.mkdir()
    copy = {"kind": "directory", "name": "vault", "path": str(vault)}

    def server(name: str, commands: str) -> Settings:
        audit = {"copies": [copy], "signing_key": key, "commands": commands}
        return Settings.model_validate({"state": tmp_path / name, "audit": audit})

    make_signer(server("one", "cli"), "house.test/vestry")
    create_key(server("one", "cli"), owner="alice")
    with pytest.raises(ChangeRefused, match=r"Nothing was changed.*was rolled back or cut off: `vault`"):
        create_key(server("two", "cli"), owner="bob")
    for name in ("one", "two"):
        create_key(server(name, f"{name}-cli"), owner="carol")
        log = tmp_path / name / "audit" / f"{name}-cli"
        assert (vault / f"{name}-cli/latest").read_text() == (log / "checkpoint").read_text()
    assert len(list((vault / "registry").iterdir())) >= 3
