"""`vestry check`, as a stranger types it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from support import certificates
from support.cli import Cli
from support.tokens import issuer
from vestry.audit.tlog.notes import Signer
from vestry.configuration.reading import digest, schema
from vestry.settings.tree import Settings


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with a state directory that is not there yet."""
    return Cli(tmp_path / "state")


def test_good_settings(cli: Cli) -> None:
    """Valid settings are summed up, status 0, and nothing is made. That no file was read is said: one that lies here
    and is not named would seem to be valid.
    """
    result = cli.apart("check")
    assert result.returncode == 0
    assert "file            none: --config or VESTRY_CONFIG names one\n" in result.stdout
    assert result.stdout.startswith("settings are valid:\n")
    assert "http://127.0.0.1:8080" in result.stdout
    assert digest(Settings(state=cli.state)) in result.stdout
    assert result.stderr == ""
    assert not cli.state.exists()


def test_a_missing_signing_key_is_named(cli: Cli, tmp_path: Path) -> None:
    """Before the first start the summary says that there is none; once the record or a setting knows of it, a fault."""
    assert "none yet: make it with `vestry audit init`" in cli.ok("check")
    named = cli("check", VESTRY_AUDIT__SIGNING_KEY=str(tmp_path / "elsewhere"))
    assert named.exit_code == 2
    assert f"{tmp_path / 'elsewhere'}: the key that signs the audit log is missing. Make one with" in named.stderr
    cli.ok("audit", "init")
    key = cli.state / "secrets" / "audit-key"
    assert f" {key}\n" in cli.ok("check")
    cli.ok("keys", "create", "--owner", "a")
    key.chmod(0o644)
    assert "others may read" in only_fault(cli)
    key.chmod(0o600)
    key.write_text("this is no signing key")
    assert "Restore it from a copy" in only_fault(cli)
    key.unlink()
    assert "the key that signs the audit log is missing" in only_fault(cli)


def test_another_signing_key_than_the_records_is_named(cli: Cli) -> None:
    """A server would not start with it: said before, and its public half is not handed out without a word."""
    cli.ok("audit", "init", "--name", "hospital.example")
    cli.ok("keys", "create", "--owner", "a")
    key = cli.state / "secrets" / "audit-key"
    right = key.read_text()
    assert "It does not verify" not in cli("audit", "public-key").stderr
    key.write_text(Signer.generate("hospital.example").written())
    assert f"{cli.state / 'audit' / 'origins'}, was not signed with it" in only_fault(cli)
    shown = cli("audit", "public-key")
    assert (shown.exit_code, shown.stdout) == (0, f"{Signer.parse(key.read_text()).public}\n")
    assert f"It does not verify the logs that are here: {key}: the registry of logs" in shown.stderr
    key.write_text(right)
    assert "settings are valid" in cli.ok("check")


def test_a_registry_that_is_a_pipe_is_not_waited_for(cli: Cli) -> None:
    """Nobody writes into it: `check` and `public-key` say that it cannot be read."""
    cli.ok("audit", "init", "--name", "hospital.example")
    cli.ok("keys", "create", "--owner", "a")
    registry = cli.state / "audit" / "origins"
    registry.unlink()
    os.mkfifo(registry)
    assert f"{registry}, was not signed with it: it cannot be read" in only_fault(cli)
    assert "it cannot be read" in cli("audit", "public-key").stderr


def piped(cli: Cli, tmp_path: Path, place: str) -> str:
    """What is said of settings in whose place of a file a pipe is named. Nobody writes into it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    tls = certificates.made(tmp_path)
    pair = {"certificate": str(tls.certificate), "key": str(tls.key)}
    section, _, name = place.partition(" ")
    settings: dict[str, Any] = {
        "issuer": {"identity": {"issuers": [{**issuer(tmp_path), name: str(pipe)}]}},
        "export": {"audit": {"exports": [{"name": "siem", "url": "https://siem.example/", **pair, name: str(pipe)}]}},
        "store": {"store": {"url": "postgresql://db.example/vestry", **pair, name: str(pipe)}},
    }
    file = tmp_path / "vestry.yaml"
    file.write_text(json.dumps(settings[section]))
    waited = threading.Timer(10, lambda: os.close(os.open(pipe, os.O_WRONLY)))  # else the test would hang with it
    waited.start()
    result = cli("--config", str(file), "check")
    in_time = waited.is_alive()
    waited.cancel()
    assert in_time
    assert result.exit_code == 2
    return result.stderr


def test_a_pipe_in_the_place_of_an_issuers_keys_is_a_fault(cli: Cli, tmp_path: Path) -> None:
    """Nobody writes into it, and nobody is waited for."""
    assert f"{tmp_path / 'pipe'} is not a regular file" in piped(cli, tmp_path, "issuer jwks_file")


@pytest.mark.parametrize(
    "place",
    ["issuer ca", "export ca", "export certificate", "export key", "store ca", "store certificate", "store key"],
)
def test_a_pipe_in_the_place_of_a_certificate_is_a_fault(cli: Cli, tmp_path: Path, place: str) -> None:
    """Nor is one waited for where OpenSSL reads: authorities, certificates, keys."""
    assert f"it is no file: '{tmp_path / 'pipe'}'" in piped(cli, tmp_path, place)


def only_fault(cli: Cli) -> str:
    """The one fault that is found."""
    found = cli("check")
    assert found.exit_code == 2
    assert found.stderr.startswith("The settings have 1 fault:")
    return found.stderr


@pytest.mark.parametrize(
    ("secret", "content", "what"),
    [
        ("engine-key", b"", "it holds fewer than 16 bytes"),
        ("engine-key", b"one line of a key\nand another one\n", "it is not one line of 16 to 512 printable ASCII"),
        ("key-hash", b"sixteen and more", "it holds fewer than 32 bytes"),
        ("content-hash", b"sixteen and more", "it holds fewer than 32 bytes"),
    ],
)
def test_a_secret_that_no_server_could_use(cli: Cli, secret: str, content: bytes, what: str) -> None:
    """What `vestry serve` would refuse about a secret is a fault before, and what it holds is not shown."""
    cli.ok("audit", "init")
    file = cli.state / "secrets" / secret
    file.write_bytes(content)
    file.chmod(0o600)
    said = only_fault(cli)
    assert f"{file}: {what}" in said
    assert "one line of a key" not in said
    file.unlink()
    file.mkdir(mode=0o700)
    assert f"{file}: it is not a regular file" in only_fault(cli)


def test_a_manifest_that_cannot_be_read(cli: Cli) -> None:
    """`vestry serve` would refuse it: it could not say which weights answer."""
    cli.ok("audit", "init")
    folder = cli.state / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "vestry-model.json").write_text("{")
    assert "models.smollm2-135m-instruct" in only_fault(cli)
    assert f"{folder / 'vestry-model.json'} cannot be read" in only_fault(cli)


@pytest.mark.parametrize(
    "variable",
    ["SERVER__HOST", "SERVER__OPS_HOST", "SERVER__ADMIN_HOST", "MODELS__SMOLLM2_135M_INSTRUCT__ENGINE__HOST"],
)
def test_an_address_in_brackets(cli: Cli, variable: str) -> None:
    """Brackets are for URLs: nothing could listen on such a host."""
    found = cli("check", **{f"VESTRY_{variable}": '"[::1]"'})
    assert found.exit_code == 2
    assert "write the address without brackets" in found.stderr
    cli.ok("check", **{f"VESTRY_{variable}": '"::1"'})


@contextlib.contextmanager
def shut_out(folder: Path) -> Iterator[None]:
    """As a user who may not look into the folder."""
    folder.chmod(0o000)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o700)


def test_a_state_that_this_user_may_not_look_into(cli: Cli) -> None:
    """Run by another user than the server's, the commands that look say what they cannot see, in sentences."""
    cli.ok("audit", "init")
    with shut_out(cli.state):
        looked = {name: cli(*name.split()) for name in ("check", "doctor", "store status")}
    assert {name: result.exit_code for name, result in looked.items()} == {"check": 2, "doctor": 1, "store status": 1}
    assert f"{cli.state / 'secrets'}: it cannot be looked at (Permission denied)" in looked["check"].stderr
    assert f"{cli.state / 'secrets'}: it cannot be looked at (Permission denied)" in looked["doctor"].stdout
    assert f"The key store {cli.state / 'keys.sqlite'} cannot be looked at" in looked["store status"].stderr


def test_a_model_that_this_user_may_not_look_into_is_not_to_be_deleted(cli: Cli, tmp_path: Path) -> None:
    """The operator's own folder, closed to the server's user: who prepares no model is not told to do that anew."""
    folder = tmp_path / "model"
    folder.mkdir()
    with shut_out(folder):
        said = cli("check", VESTRY_MODELS=f"{{smollm2-135m-instruct: {{path: {folder}}}}}").stderr
    assert f"{folder} cannot be looked into (Permission denied). Let this user read all of it." in said
    assert "Delete" not in said


def test_the_summary_knows_tls(cli: Cli, tmp_path: Path) -> None:
    """With a certificate the API is at https; the file that was read is named."""
    tls, path = certificates.made(tmp_path), tmp_path / "vestry.yaml"
    path.write_text("log_level: info\n")
    said = cli.ok(
        "--config", str(path), "check", VESTRY_SERVER__TLS=f"{{certificate: {tls.certificate}, key: {tls.key}}}"
    )
    assert "https://127.0.0.1:8080" in said
    assert f"file            {path}\n" in said


def test_every_fault_with_its_place_and_mend(cli: Cli, tmp_path: Path) -> None:
    """Faults of the file and the environment, one a line on standard error, and status 2."""
    path = tmp_path / "vestry.yaml"
    path.write_text("server:\n  prot: 1\n  backlog: 1\n")
    result = cli.apart("--config", str(path), "check", VESTRY_LOG_LEVEL="loud")
    assert result.returncode == 2
    assert result.stdout == ""
    head, *lines = result.stderr.splitlines()
    assert head == "The settings have 3 faults:"
    assert set(lines) == {
        "- environment VESTRY_LOG_LEVEL: this must be 'debug', 'info', 'warning' or 'error'. "
        "About `log_level`: How much the server says on standard error",
        f"- {path}:2 server.prot: there is no such setting. Did you mean `port`?",
        f"- {path}:3 server.backlog: this must be at least 128. "
        "About `backlog`: Connections that may wait to be accepted",
    }


def test_faults_of_what_the_settings_name(cli: Cli, tmp_path: Path) -> None:
    """Files, ports and models are looked at too, with the line where they are named."""
    path = tmp_path / "vestry.yaml"
    path.write_text(
        "server:\n  tls:\n    certificate: none.pem\n    key: none.key\nmodels:\n"
        "  smollm2-135m-instruct:\n    engine: {arguments: [--trust-remote-code]}\n"
        "  own:\n    engine: {port: 8101}\n"
        "  other:\n    catalog: llama\n    engine: {port: 8080}\n"
        "  phi-3-mini-4k-instruct:\n    engine: {host: 8.8.8.8, port: 8102}\n"
    )
    result = cli("--config", str(path), "check")
    assert result.exit_code == 2
    places = [line.removeprefix(f"- {path}:").partition(": ")[0] for line in result.stderr.splitlines()[1:]]
    assert places == [
        "3 server.tls.certificate",
        "4 server.tls.key",
        "12 models.other.engine.port",
        "7 models.smollm2-135m-instruct.engine.arguments",
        "8 models.own",
        "11 models.other.catalog",
        "14 models.phi-3-mini-4k-instruct.engine.host",
    ]
    assert "Did you mean" not in result.stderr
    assert "`llama-3-8b-instruct`" in result.stderr


def test_one_fault_is_singular(cli: Cli) -> None:
    """The count reads well."""
    assert cli("check", VESTRY_NONE="1").stderr.startswith("The settings have 1 fault:\n")


def test_as_json(cli: Cli) -> None:
    """For programs: valid or not, the faults, the digest."""
    good = json.loads(cli.ok("check", "--json"))
    assert good == {"valid": True, "faults": [], "digest": digest(Settings(state=cli.state))}
    result = cli("check", "--json", VESTRY_NONE="1")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "valid": False,
        "faults": [{"place": "environment VESTRY_NONE", "what": "there is no such setting", "mend": "Remove it"}],
    }


def test_the_schema_can_be_printed(cli: Cli) -> None:
    """`--schema` prints a JSON Schema, settings or not."""
    said = cli.ok("check", "--schema", VESTRY_NONE="1")
    assert said == schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(said))


def test_a_file_that_is_a_folder(cli: Cli, tmp_path: Path) -> None:
    """A --config that cannot be a file is status 2, however it is given."""
    for result in (cli("--config", str(tmp_path), "check"), cli("check", VESTRY_CONFIG=str(tmp_path / "none"))):
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_help_has_examples(cli: Cli) -> None:
    """The help says what is looked at, the statuses, and shows commands that can be pasted."""
    said = cli.ok("check", "--help")
    assert "Exit status" in said
    assert "vestry check --schema > settings.schema.json" in said
