"""`vestry keys`, as a stranger types it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cli import Cli, clean
from support.house import read_records
from support.keys import Keys, OpenKeys, sqlite_directory
from vestry.adapters.key_format import mint, well_formed
from vestry.secret_files import key_hash
from vestry.settings.tree import Settings

SETTINGS = """
state: {state}
tenants:
  radiology: {{models: [scan]}}
  research:
models:
  scan: {{catalog: smollm2-135m-instruct}}
  notes: {{catalog: phi-3-mini-4k-instruct, engine: {{port: 8101}}}}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with a state directory that is not there yet, the house's signing key in a place of its own, and
    the default settings.
    """
    cli = Cli(tmp_path / "state")
    cli.variables["VESTRY_AUDIT__SIGNING_KEY"] = str(tmp_path / "house" / "audit-key")
    cli.ok("audit", "init")
    return cli


@pytest.fixture
def hospital(tmp_path: Path, cli: Cli) -> Cli:
    """The same with two tenants and two models."""
    path = tmp_path / "vestry.yaml"
    path.write_text(SETTINGS.format(state=cli.state))
    cli.variables = {name: cli.variables[name] for name in cli.variables if name != "VESTRY_STATE"} | {
        "VESTRY_CONFIG": str(path)
    }
    return cli


def store(cli: Cli) -> Keys:
    """The store that the commands changed, as a server opens it."""
    return Keys.of(cli.state / "keys.sqlite", key_hash(Settings(state=cli.state)))


def listed(cli: Cli, *options: str) -> list[dict[str, Any]]:
    """What `keys list --json` says."""
    rows: list[dict[str, Any]] = json.loads(cli.ok("keys", "list", "--json", *options))
    return rows


def recorded(cli: Cli, kind: str) -> list[dict[str, Any]]:
    """The records of this kind that the commands have written."""
    return read_records(cli.state / "audit" / "cli", kind)


def test_an_output_without_the_characters_of_a_name(cli: Cli) -> None:
    """What ISO 8859-1 has is written in it, and the rest is escaped: the command goes on to the end."""
    for owner in ("M\u00fcller", "\u674e\u660e", "zoe"):
        cli.ok("keys", "create", "--owner", owner)
    path = os.pathsep.join(sys.path)
    environment = {**clean(os.environ), **cli.variables, "PYTHONPATH": path, "PYTHONIOENCODING": "latin-1"}
    argv = [sys.executable, "-m", "vestry", "keys", "list"]
    done = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    owners = [line.split()[1] for line in done.stdout.splitlines()[1:]]
    assert owners == [b"M\xfcller", rb"\u674e\u660e", b"zoe"]


def test_create_prints_the_key_alone(cli: Cli) -> None:
    """`KEY=$(vestry keys create ...)` takes the key and nothing else; what it is stands on standard error."""
    done = cli.apart("keys", "create", "--owner", "alice")
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    key = done.stdout.rstrip("\n")
    assert well_formed(key)
    assert key not in done.stderr
    assert "alice" in done.stderr
    assert "vestry keys revoke key_" in done.stderr
    found = store(cli).holder(key)
    assert found is not None
    assert (found.subject, found.tenant, found.role, found.models) == ("alice", "default", "user", None)


def test_create_takes_everything(hospital: Cli) -> None:
    """Owner, tenant, models, limits, role and expiry reach the store, and the JSON tells them."""
    said = json.loads(
        hospital.ok(
            *("keys", "create", "--owner", "triage bot", "--tenant", "research", "--model", "scan", "--model", "notes"),
            *("--expires", "90d", "--concurrency", "3", "--requests-per-minute", "60", "--role", "admin", "--json"),
        )
    )
    found = store(hospital).holder(said["key"])
    assert found is not None
    assert (found.key_id, found.subject, found.tenant, found.role) == (said["id"], "triage bot", "research", "admin")
    assert found.models == frozenset({"scan", "notes"})
    assert (found.limits.concurrency, found.limits.requests_per_minute) == (3, 60)
    assert said["models"] == ["notes", "scan"]
    days = (datetime.fromisoformat(said["expires"]) - datetime.now(UTC)) / timedelta(days=1)
    assert 89.9 < days <= 90


@pytest.mark.parametrize(
    ("when", "hours"),
    [
        ("12h", 12),
        ("2w", 14 * 24),
        ("never", None),
        ("{tomorrow:%Y-%m-%d}", None),
        ("{tomorrow:%Y-%m-%dT%H:%M:%SZ}", 24),
    ],
)
def test_times_of_expiry(cli: Cli, when: str, hours: int | None) -> None:
    """Hours, weeks, a last day, a time and never: each is what it says."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    cli.ok("keys", "create", "--owner", "a", "--expires", when.format(tomorrow=tomorrow))
    [row] = listed(cli)
    if when == "never":
        assert row["expires"] is None
    elif hours is None:
        assert row["expires"].startswith(f"{tomorrow + timedelta(days=1):%Y-%m-%d}T00:00:00")
    else:
        left = (datetime.fromisoformat(row["expires"]) - datetime.now(UTC)) / timedelta(hours=1)
        assert hours - 0.1 < left <= hours


@pytest.mark.parametrize(
    "when",
    [
        "",
        "soon",
        "-1d",
        "0d",
        "90",
        "2020-01-01",
        "2027-13-01",
        "2030-01-01T00:00:00",
        "999999w",
        "2999-01-01",
        "9999-12-31",
        "٣d",
    ],
)
def test_other_times_are_refused(cli: Cli, when: str) -> None:
    """The past, the far future, and what is no time make no key."""
    result = cli("keys", "create", "--owner", "a", f"--expires={when}")
    assert result.exit_code == 2
    assert "--expires" in result.stderr
    assert result.stdout == ""
    assert not cli.state.exists()


def test_a_tenant_is_needed_where_there_are_several(hospital: Cli) -> None:
    """Without --tenant the known ones are named."""
    result = hospital("keys", "create", "--owner", "a")
    assert result.exit_code == 1
    assert "--tenant" in result.stderr
    assert "`radiology`, `research`" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tenant", "radiolgy"], "Did you mean `radiology`?"),
        (["--tenant", "xxx"], "Known: `radiology`, `research`"),
        (["--tenant", "research", "--model", "note"], "Did you mean `notes`?"),
        (["--tenant", "radiology", "--model", "notes"], "may not use `notes`. It may use: `scan`"),
        (["--tenant", "radiology", "--owner", "a\nb"], "printable"),
        (["--tenant", "radiology", "--owner", ""], "1 to 128"),
        (["--tenant", "radiology", "--owner", "\u3164"], "shows nothing"),
        (["--tenant", "radiology", "--owner", "alice\u2800"], "shows nothing"),
    ],
)
def test_what_the_settings_do_not_have_is_named(hospital: Cli, options: list[str], said: str) -> None:
    """Unknown tenants and models, and owners that cannot be, make no key and no record."""
    result = hospital("keys", "create", "--owner", "a", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert listed(hospital, "--all") == []
    assert not (hospital.state / "audit").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "--owner", "a", "--concurrency", "0"],
        ["create", "--owner", "a", "--role", "root"],
        ["create", "--owner", "a", "--requests-per-minute", "many"],
        ["revoke"],
        ["list", "--none"],
        ["destroy"],
    ],
)
def test_wrong_options_are_status_two(cli: Cli, arguments: list[str]) -> None:
    """A command line that is not understood changes nothing."""
    assert cli("keys", *arguments).exit_code == 2
    assert not cli.state.exists()


def test_list_shows_what_works(hospital: Cli) -> None:
    """Keys in use are a table; revoked ones appear with --all; no secret appears."""
    keys = [hospital.ok("keys", "create", "--owner", name, "--tenant", "research").strip() for name in ("ann", "ben")]
    gone = listed(hospital)[0]["id"]
    hospital.ok("keys", "revoke", gone)
    table = hospital.ok("keys", "list")
    assert "ben" in table
    assert "ann" not in table
    assert table.splitlines()[0].split() == ["ID", "OWNER", "TENANT", "ROLE", "MODELS", "STATE", "EXPIRES", "LAST-USED"]
    everything = hospital.ok("keys", "list", "--all")
    assert "revoked" in everything
    assert [row["state"] for row in listed(hospital, "--all")] == ["revoked", "active"]
    assert not any(key in table + everything + hospital.ok("keys", "list", "--all", "--json") for key in keys)


def test_list_names_keys_whose_tenant_is_gone(cli: Cli) -> None:
    """A key of a tenant that is no longer in the settings does not work, and the list says so."""
    cli.ok("keys", "create", "--owner", "a")
    result = json.loads(cli.ok("keys", "list", "--json", VESTRY_TENANTS="{other: {}}"))
    assert [row["state"] for row in result] == ["no-tenant"]


def test_list_without_keys_says_how_to_make_one(cli: Cli) -> None:
    """Nothing to list is no error, and lists leave no files behind."""
    result = cli("keys", "list")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "vestry keys create" in result.stderr
    assert json.loads(cli.ok("keys", "list", "--json")) == []
    assert not cli.state.exists()


def test_revoke_acts_at_once(cli: Cli) -> None:
    """A store that is open elsewhere refuses the key with its next look-up."""
    key = cli.ok("keys", "create", "--owner", "a").strip()
    running = OpenKeys(sqlite_directory(cli.state / "keys.sqlite", key_hash(Settings(state=cli.state))))
    assert running.look_up(key) is not None
    [row] = listed(cli)
    assert cli.apart("keys", "revoke", row["id"]).stdout == f"{row['id']}: revoked\n"
    assert running.look_up(key) is None
    running.close()
    assert cli.ok("keys", "revoke", row["id"]) == f"{row['id']}: was revoked before\n"


def test_revoke_does_what_it_can(cli: Cli) -> None:
    """Ids that there are not are named, status 1, and the others are revoked all the same."""
    for name in ("a", "b"):
        cli.ok("keys", "create", "--owner", name)
    first, second = (row["id"] for row in listed(cli))
    result = cli("keys", "revoke", first, "key_none", second, first)
    assert result.exit_code == 1
    assert result.stdout == f"{first}: revoked\n{second}: revoked\n"
    assert result.stderr == "key_none: no key has this id\n"
    assert listed(cli) == []
    said = cli("keys", "revoke", "--json", first, "key_none")
    assert said.exit_code == 1
    assert json.loads(said.stdout) == [{"id": first, "result": "already"}, {"id": "key_none", "result": "unknown"}]


def test_a_leaked_key_can_be_revoked_by_itself(cli: Cli) -> None:
    """Whoever finds a key can revoke it without knowing its id; it is not printed again."""
    key = cli.ok("keys", "create", "--owner", "a").strip()
    result = cli("keys", "revoke", key)
    assert result.exit_code == 0
    assert result.stdout.startswith("key_")
    assert key not in result.output
    assert store(cli).holder(key) is None
    other = mint()
    unknown = cli("keys", "revoke", other, "x" * 100, "a\nb")
    assert unknown.exit_code == 1
    assert other not in unknown.output
    assert "x" * 100 not in unknown.output


def test_revoking_where_there_are_no_keys(cli: Cli) -> None:
    """Without a store every id is unknown, and nothing is made."""
    assert cli("keys", "revoke", "key_1", mint()).exit_code == 1
    assert not cli.state.exists()


def test_changes_are_records(hospital: Cli) -> None:
    """Who made which key for whom, and who revoked it and why, is in the log; the key is not."""
    key = hospital.ok(
        *("keys", "create", "--owner", "ann", "--tenant", "radiology", "--model", "scan", "--expires", "1d")
    ).strip()
    [row] = listed(hospital)
    hospital.ok("keys", "revoke", row["id"], "--reason", "left the house")
    [created] = recorded(hospital, "key.create")
    assert (created["key_id"], created["subject"], created["tenant"]) == (row["id"], "ann", "radiology")
    assert (created["models"], created["expires"]) == (["scan"], row["expires"])
    assert created["actor"]
    [revoked] = recorded(hospital, "key.revoke")
    assert (revoked["key_id"], revoked["reason"]) == (row["id"], "left the house")
    log = b"".join(path.read_bytes() for path in (hospital.state / "audit").rglob("*") if path.is_file())
    assert key.encode() not in log


def test_an_actor_behind_sudo_is_named(cli: Cli) -> None:
    """The record names the user who became root."""
    cli.ok("keys", "create", "--owner", "a", SUDO_USER="carol")
    [created] = recorded(cli, "key.create")
    assert created["actor"].endswith("(sudo by carol)")


def test_what_cannot_be_recorded_is_not_done(cli: Cli) -> None:
    """With the record out of order no key is made and none revoked; when it works again, so do they."""
    key = cli.ok("keys", "create", "--owner", "a").strip()
    [row] = listed(cli)
    log = cli.state / "audit" / "cli"
    log.rename(log.with_name("kept"))
    log.write_text("in the way")
    for arguments in (["create", "--owner", "b"], ["revoke", row["id"]]):
        result = cli("keys", *arguments)
        assert result.exit_code == 1
        assert "could not be recorded" in result.stderr
        assert result.stdout == ""
    assert [each["owner"] for each in listed(cli)] == ["a"]
    assert store(cli).holder(key) is not None
    log.unlink()
    log.with_name("kept").rename(log)
    cli.ok("keys", "revoke", row["id"])
    assert store(cli).holder(key) is None


def test_commands_at_the_same_time(cli: Cli) -> None:
    """Four commands in four processes all make their key, and each has its record."""
    cli.ok("keys", "create", "--owner", "first")
    done: list[str] = []
    threads = [
        threading.Thread(
            target=lambda name: done.append(cli.apart("keys", "create", "--owner", name).stdout), args=(f"n{n}",)
        )
        for n in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(store(cli).holder(key.strip()) for key in done)
    assert len(recorded(cli, "key.create")) == len(listed(cli)) == 5


def test_files_are_private_whatever_the_umask(cli: Cli) -> None:
    """What the first command makes is the user's alone."""
    before = os.umask(0)
    try:
        cli.ok("keys", "create", "--owner", "a")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [cli.state, *cli.state.rglob("*")]}
    assert [path for path, mode in modes.items() if mode & 0o077] == []


@pytest.mark.parametrize("command", [["create", "--owner", "a"], ["list"], ["revoke", "key_1"]])
def test_faulty_settings_are_told(cli: Cli, command: list[str]) -> None:
    """Every fault of the settings, and status 2."""
    result = cli("keys", *command, VESTRY_SERVER__PORT="x", VESTRY_NONE="1")
    assert result.exit_code == 2
    assert "The settings have 2 faults:" in result.stderr
    assert result.stdout == ""


def test_secrets_in_disorder_are_told(cli: Cli) -> None:
    """A secret that others may read, or that is lost, stops every command with status 2 and the mend."""
    cli.ok("keys", "create", "--owner", "a")
    pepper = cli.state / "secrets" / "key-hash"
    pepper.chmod(0o644)
    for command in (["create", "--owner", "a"], ["list"], ["revoke", "key_1"]):
        result = cli("keys", *command)
        assert result.exit_code == 2
        assert f"chmod 600 {pepper}" in result.stderr
    pepper.unlink()
    result = cli("keys", "list")
    assert result.exit_code == 2
    assert "Restore it from a copy" in result.stderr
    assert not pepper.exists()


def test_a_damaged_store_is_told(cli: Cli) -> None:
    """Commands on a store that cannot be read end with a sentence and status 1, not with a traceback."""
    key = cli.ok("keys", "create", "--owner", "a").strip()
    (cli.state / "keys.sqlite").write_bytes(b"garbage" * 1000)
    for command in (["create", "--owner", "a"], ["list"], ["revoke", "key_1"], ["revoke", key]):
        result = cli("keys", *command)
        assert result.exit_code == 1
        assert "damaged" in result.stderr
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_state_directory_that_cannot_be_made(cli: Cli) -> None:
    """A file in the way of the state directory is told."""
    cli.state.write_text("")
    result = cli("keys", "create", "--owner", "a")
    assert result.exit_code == 1
    assert "cannot be made" in result.stderr


@pytest.mark.parametrize("command", [[], ["create"], ["list"], ["revoke"]])
def test_help_has_examples(cli: Cli, command: list[str]) -> None:
    """Each help text says what the command does and shows one that can be pasted."""
    said = cli.ok("keys", *command, "--help")
    assert ("Examples:" in said) == bool(command)
    assert "Usage:" in said
