"""`vestry doctor`, on a fresh machine, a healthy house and a broken one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fakes.engine import FakeEngine
from support import certificates
from support.cli import Cli
from support.house import SIGNING, House
from vestry.diagnosis import machine
from vestry.secret_files import engine_key, key_hash
from vestry.settings.tree import Settings

PYTHON = "ok" if machine.optimized() else "warn"
"""What is said of the Python that runs the tests."""

Lines = dict[str, list[tuple[str, str]]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with a state directory that is not there yet, and ports where nothing answers."""
    cli = Cli(tmp_path / "state")
    cli.variables |= {"VESTRY_SERVER__PORT": "1", "VESTRY_SERVER__OPS_PORT": "2"}
    cli.variables |= {"VESTRY_MODELS": "{smollm2-135m-instruct: {engine: {port: 3}}}"}
    return cli


def diagnosis(cli: Cli, status: int = 0, /, **variables: str) -> Lines:
    """The findings by name, as (state, sentence)."""
    result = cli("doctor", "--json", **variables)
    assert result.exit_code == status, result.output
    lines: Lines = {}
    for line in json.loads(result.stdout):
        assert line["state"] == "ok" or line["mend"]
        lines.setdefault(line["name"], []).append((line["state"], line["said"]))
    return lines


def states(lines: Lines, name: str) -> list[str]:
    return [state for state, _ in lines[name]]


def test_a_fresh_machine_has_nothing_to_mend(cli: Cli) -> None:
    """Before the first start all is ok or yet to come, status 0, and looking makes nothing."""
    lines = diagnosis(cli)
    assert states(lines, "settings") == ["ok"]
    for name in ("state", "keys", "record", "server", "engine"):
        assert states(lines, name) == ["warn"], name
    assert states(lines, "secrets") == ["warn", "warn", "warn"]
    assert states(lines, "python") == [PYTHON]
    for name in ("disk", "durability", "open files", "clock", "gpu"):
        assert set(states(lines, name)) <= {"ok", "warn"}, lines[name]
    assert not cli.state.exists()


def test_the_text_is_for_people(cli: Cli) -> None:
    """One line a finding, its mend below it, a sum at the end."""
    done = cli.apart("doctor")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{PYTHON:<6}python       Python 3.")
    assert "\n                   -> Make one: vestry keys create --owner NAME\n" in done.stdout
    assert "\n0 to mend, " in done.stdout


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A running server with its engine."""
    with FakeEngine() as engine:
        settings = Settings(state=tmp_path / "state")
        (tmp_path / "state").mkdir(mode=0o700)
        key_hash(settings)
        (settings.secrets_directory / "key-hash").write_bytes(b"p" * 32)
        engine_key(settings)
        settings.signing_key.write_text(SIGNING.signer.written() + "\n")
        settings.signing_key.chmod(0o600)
        models = {"small": {"catalog": "smollm2-135m-instruct", "replicas": [{"url": engine.url}]}}
        with House(tmp_path / "state", [engine], models=models) as house:
            yield house


def running(house: House, cli: Cli) -> dict[str, str]:
    """Variables that describe the running house."""
    replicas = json.dumps([{"url": replica.url} for replica in house.models[0].replicas])
    return {
        "VESTRY_SERVER__PORT": "0",
        "VESTRY_SERVER__OPS_PORT": "0",
        "VESTRY_SERVER__ADMIN_PORT": "0",
        "VESTRY_MODELS": f"{{small: {{catalog: smollm2-135m-instruct, replicas: {replicas}}}}}",
    }


def test_a_healthy_house(house: House, cli: Cli) -> None:
    """A running server with a key, a record and an engine is well in every part."""
    key = house.key
    lines = diagnosis(cli, **running(house, cli))
    for name in ("settings", "state", "secrets", "keys", "record", "server", "engine"):
        assert set(states(lines, name)) == {"ok"}, lines[name]
    assert [said.rpartition(" ")[2] for _, said in lines["server"]] == [house.ops, house.url, house.admin]
    assert lines["keys"] == [("ok", "1 active, 0 expired, 0 revoked")]
    assert "server is of 20" in lines["record"][0][1]
    text = cli("doctor", **running(house, cli)).output
    for secret in (key, engine_key(Settings(state=cli.state)), "p" * 32):
        assert secret not in text


def test_a_server_that_is_not_ready(house: House, cli: Cli) -> None:
    """What keeps it from being ready is repeated, and what must be mended fails."""
    assert house.key
    store = house.settings.keys_database
    store.rename(store.with_suffix(".away"))
    store.write_bytes(b"garbage" * 1000)
    store.chmod(0o600)
    lines = diagnosis(cli, 1, **running(house, cli))
    assert states(lines, "keys") == ["fail"]
    assert "damaged" in lines["keys"][0][1]


def test_a_broken_house(cli: Cli) -> None:
    """Open secrets, a lost pepper and faulty settings fail, with status 1 and the mend."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    pepper = cli.state / "secrets" / "key-hash"
    pepper.chmod(0o644)
    cli.state.chmod(0o755)
    lines = diagnosis(cli, 1)
    assert states(lines, "settings") == ["fail"]
    assert states(lines, "secrets")[0] == "fail"
    assert states(lines, "keys") == ["fail"]
    assert states(lines, "state") == ["warn"]
    pepper.unlink()
    lines = diagnosis(cli, 1)
    assert "cannot be used without it" in lines["secrets"][0][1]
    assert "keys" not in lines


def test_settings_that_cannot_be_read(cli: Cli) -> None:
    """Then only the machine is looked at, and every fault is told."""
    lines = diagnosis(cli, 1, VESTRY_NONE="1", VESTRY_SERVER__PORT="x")
    assert states(lines, "settings") == ["fail", "fail"]
    assert "state" not in lines
    assert states(lines, "python") == [PYTHON]


def test_keys_that_need_a_look(cli: Cli) -> None:
    """Keys that expire soon, keys of tenants that are gone, and no active key at all are warnings."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a", "--expires", "1d")
    assert "1 expire within 14 days" in diagnosis(cli)["keys"][0][1]
    other = diagnosis(cli, VESTRY_TENANTS="{other: }")
    assert states(other, "keys") == ["warn"]
    assert "default" in other["keys"][0][1]
    cli.ok("tenants", "set", "default", VESTRY_TENANTS="{other: }")
    assert "not there" not in diagnosis(cli, VESTRY_TENANTS="{other: }")["keys"][0][1]  # the directory has it
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    cli.ok("keys", "revoke", row["id"])
    assert diagnosis(cli)["keys"] == [("warn", "0 active, 0 expired, 1 revoked")]


def test_records_that_need_a_look(cli: Cli) -> None:
    """A log with a torn end, or with a last record from the future, is a warning."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    [segment] = (cli.state / "audit" / "cli").glob("*.jsonl")
    good = segment.read_bytes()
    segment.write_bytes(b"torn")
    assert "no whole record" in diagnosis(cli)["record"][0][1]
    line = good.splitlines()[-1]
    stamp = json.loads(line)["time"].encode()
    segment.write_bytes(line.replace(stamp, b"2999" + stamp[4:]) + b"\n")
    assert "from the future: 2999" in diagnosis(cli)["record"][0][1]


def test_a_record_that_cannot_be_read(cli: Cli) -> None:
    """A log that this user cannot read fails."""
    (cli.state / "audit" / "server" / "000000000000000000.jsonl").mkdir(parents=True)
    lines = diagnosis(cli, 1)
    assert lines["record"] == [("fail", "the log server cannot be read (Is a directory)")]


def test_a_state_directory_that_is_none(cli: Cli) -> None:
    """A file in the state directory's place fails, and everything else is still looked at."""
    cli.state.write_text("")
    lines = diagnosis(cli, 1)
    assert states(lines, "state") == ["fail"]
    assert states(lines, "durability") == ["fail"]
    assert states(lines, "engine") == ["warn"]


def test_secrets_partly_there(cli: Cli) -> None:
    """A lost pepper fails while the other secrets are still looked at; an open folder of secrets fails."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    (cli.state / "secrets" / "key-hash").unlink()
    (cli.state / "secrets").chmod(0o777)
    assert states(diagnosis(cli, 1), "secrets") == ["fail", "warn", "ok", "fail"]
    (cli.state / "secrets" / "content-hash").write_bytes(b"short")
    assert states(diagnosis(cli, 1), "secrets") == ["fail", "warn", "ok", "fail", "fail"]


def test_the_key_that_signs_the_record(cli: Cli) -> None:
    """Missing, it is a warning with the command that makes it; there, it is fine; missing beside logs that it
    has signed, or open to others, it fails.
    """
    path = cli.state / "secrets" / "audit-key"
    assert ("warn", f"{path} is not there yet") in diagnosis(cli)["secrets"]
    assert "-> Make it: vestry audit init" in cli("doctor").output
    cli.ok("audit", "init")
    assert ("ok", f"{path} is private") in diagnosis(cli)["secrets"]
    cli.ok("keys", "create", "--owner", "a")
    path.rename(cli.state / "aside")
    said = f"the key that signs the audit log is missing, and the logs in {cli.state / 'audit'} were signed with it"
    assert ("fail", f"{path}: {said}") in diagnosis(cli, 1)["secrets"]
    assert "Make it: vestry audit init" not in cli("doctor").output
    (cli.state / "aside").rename(path)
    path.chmod(0o644)
    assert any(state == "fail" and str(path) in said for state, said in diagnosis(cli, 1)["secrets"])


def test_a_certificate_that_ends_soon(cli: Cli, tmp_path: Path) -> None:
    """Two weeks ahead the end of a certificate is a warning; further away it is told."""
    for days, state in ((3, "warn"), (100, "ok")):
        tls = certificates.made(tmp_path, ends_days=days)
        lines = diagnosis(cli, VESTRY_SERVER__TLS=f"{{certificate: {tls.certificate}, key: {tls.key}}}")
        assert states(lines, "certificate") == [state]
    lines = diagnosis(cli, 1, VESTRY_SERVER__TLS="{certificate: none.pem, key: none.key}")
    assert states(lines, "settings") == ["fail", "fail"]
    assert "certificate" not in lines


class Stranger(BaseHTTPRequestHandler):
    """Answers 404 to everything, and is no server of ours."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b"not here")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_another_program_on_the_ports(cli: Cli) -> None:
    """A stranger at the API's port fails; one that is no healthy engine is a warning."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        port = str(stranger.server_address[1])
        models = f"{{smollm2-135m-instruct: {{replicas: [{{url: 'http://127.0.0.1:{port}'}}]}}}}"
        lines = diagnosis(cli, 1, VESTRY_SERVER__PORT=port, VESTRY_MODELS=models)
        assert lines["server"][1][0] == "fail"
        assert "is not this server's API" in lines["server"][1][1]
        assert lines["engine"][0][0] == "warn"
        assert lines["engine"][0][1].endswith("answers 404")
        not_ready = diagnosis(cli, VESTRY_SERVER__OPS_PORT=port)
        assert not_ready["server"][0] == ("warn", "it is not ready: it does not say why")
        stranger.shutdown()
