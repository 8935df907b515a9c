"""`vestry store`, and the other commands on a directory in PostgreSQL: through the command line alone."""

from __future__ import annotations

import json
import secrets
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from support.cli import Cli
from support.front import Front
from support.postgres import USER, Postgres, postgres
from vestry.adapters.directory.schemas import HEAD
from vestry.secret_files import key_hash
from vestry.settings.tree import Settings


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with a state directory of its own, and the house's signing key."""
    cli = Cli(tmp_path / "state")
    cli.variables["VESTRY_AUDIT__SIGNING_KEY"] = str(tmp_path / "house" / "audit-key")
    cli.ok("audit", "init")
    return cli


@pytest.fixture
def server() -> Postgres:
    """PostgreSQL."""
    return postgres()


@pytest.fixture
def hospital(cli: Cli, server: Postgres) -> Cli:
    """The same with an empty database."""
    cli.variables["VESTRY_STORE__URL"] = server.url(server.database())
    cli.variables["VESTRY_STORE__USER"] = USER
    return cli


def failed(cli: Cli, *arguments: str, status: int = 1, **variables: str) -> str:
    """What a command that must not work says: a sentence, no traceback, and this status."""
    result = cli(*arguments, **variables)
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    return result.stderr


def test_the_life_of_a_schema(hospital: Cli) -> None:
    """None, then made, then made already; down and up again. Status tells which, and whether it fits."""
    before = hospital("store", "status")
    assert (before.exit_code, before.stdout) == (1, f"The schema is none; this version needs {HEAD}.\n")
    assert hospital.ok("store", "migrate") == f"The schema is {HEAD} now; before it was none.\n"
    assert hospital.ok("store", "migrate") == f"The schema is {HEAD} already.\n"
    assert hospital.ok("store", "status") == f"The schema is {HEAD}; this version needs {HEAD}.\n"
    assert hospital.ok("store", "downgrade", "v1") == f"The schema is v1 now; before it was {HEAD}.\n"
    told = hospital("store", "status", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["schema"] == "v1"
    assert "none before it" in failed(hospital, "store", "downgrade", "v1")
    assert hospital.ok("store", "migrate") == f"The schema is {HEAD} now; before it was v1.\n"


def test_sqlite_has_the_same_commands(cli: Cli) -> None:
    """Looking makes nothing; a file that the commands made is at the newest schema."""
    assert cli("store", "status").exit_code == 1
    assert not (cli.state / "keys.sqlite").exists()
    assert cli.ok("store", "migrate") == f"The schema is {HEAD} now; before it was none.\n"
    assert (cli.state / "keys.sqlite").stat().st_mode & 0o777 == 0o600
    assert cli.ok("store", "status") == f"The schema is {HEAD}; this version needs {HEAD}.\n"
    key = cli.ok("keys", "create", "--owner", "alice").strip()
    cli.ok("store", "downgrade", "v1")
    for command in (["list"], ["create", "--owner", "b"], ["revoke", key]):
        said = failed(cli, "keys", *command)
        assert "vestry store migrate" in said
        assert "stop that version's server" in said  # it would serve nobody
    cli.ok("store", "migrate")
    assert [each["owner"] for each in json.loads(cli.ok("keys", "list", "--json"))] == ["alice"]


def test_a_newer_schema_is_left_alone(cli: Cli) -> None:
    """What this version does not know it neither uses nor changes."""
    cli.ok("store", "migrate")
    with closing(sqlite3.connect(cli.state / "keys.sqlite")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v999'")
    for command in (["store", "migrate"], ["store", "downgrade", "v1"], ["keys", "create", "--owner", "a"]):
        assert "newer version" in failed(cli, *command)
    assert cli("store", "status").stdout == f"The schema is v999; this version needs {HEAD}.\n"


@pytest.mark.parametrize("command", ["keys list", "tenants list", "policy rules", "keys create --owner a", "doctor"])
def test_looking_makes_no_secret(hospital: Cli, command: str) -> None:
    """A machine without the secret of the store's keys is told so; no other one is made that would fit no key."""
    before = sorted(hospital.state.rglob("*"))
    assert hospital("store", "status").exit_code == 1
    told = hospital(*command.split())
    assert told.exit_code == (1 if command == "doctor" else 2)
    assert "key-hash: it is missing, and the store's keys cannot be told without it" in told.output
    assert "`vestry store migrate` makes it" in told.output
    assert sorted(hospital.state.rglob("*")) == before


def test_keys_in_postgresql(hospital: Cli) -> None:
    """Made, listed, found by their text, revoked; without tables each command names the one that makes them."""
    key_hash(Settings(state=hospital.state))
    for command in (["list"], ["create", "--owner", "b"], ["revoke", "key_1"]):
        assert "make them with `vestry store migrate`" in failed(hospital, "keys", *command)
    hospital.ok("store", "migrate")
    assert json.loads(hospital.ok("keys", "list", "--json")) == []
    key = hospital.ok("keys", "create", "--owner", "alice", "--concurrency", "3", "--expires", "90d").strip()
    [row] = json.loads(hospital.ok("keys", "list", "--json"))
    assert (row["owner"], row["concurrency"], row["state"]) == ("alice", 3, "active")
    assert hospital.ok("keys", "revoke", key) == f"{row['id']}: revoked\n"
    assert hospital.ok("keys", "revoke", row["id"]) == f"{row['id']}: was revoked before\n"
    assert not (hospital.state / "keys.sqlite").exists()
    assert {each["type"] for each in _records(hospital)} >= {"key.create", "key.revoke"}


def _records(cli: Cli) -> list[dict[str, Any]]:
    log = cli.state / "audit" / "cli"
    return [json.loads(line) for each in sorted(log.glob("*.jsonl")) for line in each.read_bytes().splitlines()]


def test_serve_refuses_tables_of_another_version(hospital: Cli, tmp_path: Path) -> None:
    """It starts only on its own schema, says which one there is and what to do, and opens no port."""
    settings = {
        "models": {"small": {"catalog": "smollm2-135m-instruct", "replicas": [{"url": "http://127.0.0.1:9"}]}},
        "server": {"port": 0, "ops_port": 0},
    }
    config = tmp_path / "vestry.yaml"
    config.write_text(yaml.safe_dump(settings))
    hospital.variables["VESTRY_CONFIG"] = str(config)

    def refused() -> str:
        done = hospital.apart("serve")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "make them with `vestry store migrate`" in refused()
    hospital.ok("store", "migrate")
    hospital.ok("store", "downgrade", "v1")
    assert "older version" in refused()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mysql://db/vestry", "postgresql://host:5432/database"),
        ("postgresql://db", "postgresql://host:5432/database"),
        ("postgresql:///vestry", "postgresql://host:5432/database"),
        ("postgresql://db/vestry?sslmode=disable", "postgresql://host:5432/database"),
        ("postgresql://alice:hunter2@db/vestry", "`store.user` and `store.password`"),
        ("postgresql://db:0/vestry", "postgresql://host:5432/database"),
        ("postgresql://db:x/vestry", "postgresql://host:5432/database"),
        ("postgresql://-/vestry", "host name"),
        ("postgresql://db/a/b", "postgresql://host:5432/database"),
        ("postgresql:///vestry?host=relative", "postgresql://host:5432/database"),
    ],
)
def test_urls_that_are_none(cli: Cli, url: str, word: str) -> None:
    """Each is a fault of the settings, with the form to write, and nothing of a password in it."""
    said = failed(cli, "store", "status", status=2, VESTRY_STORE__URL=url)
    assert word in said
    assert "hunter2" not in said


def test_a_database_that_is_not_there_is_told(hospital: Cli, server: Postgres) -> None:
    """No server, no such database: a sentence that names the place and what to look at."""
    nothing = failed(hospital, "store", "status", VESTRY_STORE__URL="postgresql://127.0.0.1:1/vestry")
    assert "127.0.0.1:1/vestry cannot be reached" in nothing
    none = failed(hospital, "store", "migrate", VESTRY_STORE__URL=server.url("none_such"))
    assert "is not there" in none


def test_doctor_looks_at_postgresql(hospital: Cli) -> None:
    """Without tables, without keys, with one: as for a file."""

    def keys() -> dict[str, str]:
        found = json.loads(hospital("doctor", "--json").stdout)
        [finding] = [each for each in found if each["name"] == "keys"]
        return finding  # type: ignore[no-any-return]

    first = keys()
    assert "vestry store migrate" in json.dumps(first)
    hospital.ok("store", "migrate")
    assert "0 active" in json.dumps(keys())
    hospital.ok("keys", "create", "--owner", "a")
    assert "1 active" in json.dumps(keys())


# Who may connect, and over what.


@pytest.fixture
def guarded(cli: Cli, server: Postgres, tmp_path: Path) -> Iterator[tuple[Cli, Path, Path]]:
    """A database behind TLS and a password, and the files that it takes: an authority and a password."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    role, database = f"guarded_{secrets.token_hex(4)}", server.database()
    server.demand_password(role, "correct horse")
    server.execute(f"GRANT ALL ON SCHEMA public TO {role}", database=database)
    ca, password = tmp_path / "ca.pem", tmp_path / "password"
    authority.cert_pem.write_to_path(str(ca))
    password.write_text("correct horse\n")
    password.chmod(0o600)
    with Front(context, server.port) as front:
        cli.variables |= {
            "VESTRY_STORE__URL": f"postgresql://127.0.0.1:{front.port}/{database}",
            "VESTRY_STORE__USER": role,
            "VESTRY_STORE__PASSWORD": str(password),
            "VESTRY_STORE__TLS": "verify",
            "VESTRY_STORE__CA": str(ca),
        }
        yield cli, ca, password


def test_a_certificate_is_verified(guarded: tuple[Cli, Path, Path], tmp_path: Path) -> None:
    """Under its authority and name only; without TLS PostgreSQL's side here does not even answer."""
    cli, ca, _ = guarded
    assert cli.ok("store", "migrate").startswith("The schema is")
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    assert "is not trusted" in failed(cli, "store", "status", VESTRY_STORE__CA=str(stranger))
    elsewhere = cli.variables["VESTRY_STORE__URL"].replace("127.0.0.1", "localhost")
    assert "is not trusted" in failed(cli, "store", "status", VESTRY_STORE__URL=elsewhere)
    failed(cli, "store", "status", VESTRY_STORE__TLS="none")
    ca.write_text("nonsense")
    assert failed(cli, "store", "status") != ""
    assert "certificates cannot be used" in cli("check").output


def test_a_password_is_asked_for_and_never_told(guarded: tuple[Cli, Path, Path]) -> None:
    """The right one lets in, a wrong one does not; one that others may read is refused. A new one holds at once."""
    cli, _, password = guarded
    cli.ok("store", "migrate")
    password.write_text("wrong horse\n")
    said = failed(cli, "store", "status")
    assert "does not let this user in" in said
    assert "horse" not in said
    password.chmod(0o644)
    said = failed(cli, "store", "status")
    assert "password" in said
    assert "horse" not in said
    assert f"chmod 600 {password}" in cli("check").output
    password.unlink()
    assert "cannot be read" in failed(cli, "store", "status")
    password.write_text("correct horse\n")
    password.chmod(0o600)
    cli.ok("store", "status")
