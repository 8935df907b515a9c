"""`vestry tenants`, `projects`, `users`, `policy` and the newer half of `keys`, as a stranger types them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from support.cli import Cli, clean
from support.hospital import hospital, recorded, verified
from support.keys import Keys
from vestry.adapters.key_format import mint, well_formed
from vestry.cli import main
from vestry.secret_files import key_hash
from vestry.settings.tree import Settings


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A tenant `radiology` in the settings, models `scan` and `notes`, and no state yet."""
    return hospital(tmp_path)


def made(cli: Cli, *arguments: str) -> dict[str, Any]:
    """What a command says with --json."""
    found: dict[str, Any] = json.loads(cli.ok(*arguments, "--json"))
    return found


def refused(cli: Cli, *arguments: str, status: int, said: str) -> None:
    """A command that ends with a sentence, and without a traceback."""
    result = cli(*arguments)
    assert result.exit_code == status, result.output
    assert said in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


def store(cli: Cli) -> Keys:
    """The store, as a server opens it."""
    return Keys.of(cli.state / "keys.sqlite", key_hash(Settings(state=cli.state)))


def test_looking_makes_nothing(cli: Cli) -> None:
    """Lists and exports work before there is a store, show the tenants of the settings, and make no file."""
    assert cli.ok("tenants", "list").splitlines()[1].split()[:3] == ["radiology", "settings", "-"]
    assert "models: [scan]" in cli.ok("tenants", "show", "radiology")
    for group in ("projects", "users"):
        assert json.loads(cli.ok(group, "list", "--json")) == []
    assert cli.ok("tenants", "export").startswith("#")
    assert json.loads(cli.ok("policy", "rules", "--json")) == []
    assert "allowed by" in cli.ok("policy", "explain", "--tenant", "radiology", "--model", "scan")
    refused(cli, "tenants", "set", "x", "--model", "none", status=2, said="not among those that are served")
    refused(cli, "projects", "remove", "x", status=1, said="There is no project `x`")
    refused(cli, "keys", "show", "key_none", status=1, said="No key has this id")
    assert not cli.state.exists()


def test_a_tenants_life(cli: Cli) -> None:
    """Made, changed field by field, given its default again, removed: each is a record with before and after."""
    first = made(cli, "tenants", "set", "research", "--model", "notes", "--concurrency", "3")
    assert (first["version"], first["changed"], first["body"]["models"]) == (1, True, ["notes"])
    again = made(cli, "tenants", "set", "research", "--concurrency", "3")
    assert (again["version"], again["changed"]) == (1, False)
    second = made(cli, "tenants", "set", "research", "--content", "{default: hashed}", "--disabled")
    assert (second["body"]["content"]["default"], second["body"]["disabled"], second["version"]) == ("hashed", True, 2)
    states = [line.split()[:4] for line in cli.ok("tenants", "list").splitlines()[1:]]
    assert states == [["radiology", "settings", "-", "active"], ["research", "directory", "2", "disabled"]]
    assert second["body"]["models"] == ["notes"]
    third = made(cli, "tenants", "set", "research", "--unset", "concurrency", "--unset", "disabled")
    assert (third["body"]["concurrency"], third["body"]["disabled"]) == (64, False)
    assert cli.ok("tenants", "remove", "research") == "tenant research: removed\n"
    refused(cli, "tenants", "show", "research", status=1, said="There is no tenant `research`. Known: `radiology`")
    changes = recorded(cli, "tenant.change")
    assert [each["change"] for each in changes] == ["create", "update", "update", "remove"]
    assert changes[1]["old"] == changes[0]["new"]
    assert changes[3]["old"] == changes[2]["new"]
    assert "new" not in changes[3]
    verified(cli)


def test_versions_keep_two_from_undoing_each_other(cli: Cli) -> None:
    """--if-version refuses what has been changed meanwhile, 0 what exists."""
    cli.ok("tenants", "set", "research", "--if-version", "0")
    refused(
        cli, "tenants", "set", "research", "--concurrency", "2", "--if-version", "0", status=1, said="version 1 now"
    )
    refused(
        cli, "tenants", "set", "research", "--concurrency", "2", "--if-version", "7", status=1, said="version 1 now"
    )
    refused(cli, "tenants", "remove", "research", "--if-version", "2", status=1, said="version 1 now")
    cli.ok("tenants", "set", "research", "--concurrency", "2", "--if-version", "1")
    assert len(recorded(cli, "tenant.change")) == 2


def test_a_body_from_a_file(cli: Cli, tmp_path: Path) -> None:
    """What `show` prints, `set --file` takes; a file is the whole, so what it leaves out has its default."""
    cli.ok("projects", "set", "triage", "--model", "scan", "--description", "no")
    file = tmp_path / "triage.yaml"
    file.write_text(cli.ok("projects", "show", "triage"))
    assert not made(cli, "projects", "set", "triage", "--file", str(file))["changed"]
    file.write_text("concurrency: 5\n")
    body = made(cli, "projects", "set", "triage", "-f", str(file))["body"]
    assert (body["concurrency"], body["models"], body["description"]) == (5, None, "")
    for text, said in (
        ("a: [", "not YAML"),
        ("- a", "not a mapping"),
        ("conc: 1", "conc"),
        ("concurrency: x", "concurr"),
    ):
        file.write_text(text)
        refused(cli, "projects", "set", "triage", "-f", str(file), status=2, said=said)
    refused(cli, "projects", "set", "triage", "-f", str(tmp_path / "none"), status=2, said="cannot be read")
    refused(cli, "projects", "set", "triage", "-f", str(file), "--concurrency", "1", status=2, said="not both")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["tenants", "set", "radiology", "--concurrency", "1"], 1, "declared in the settings"),
        (["tenants", "remove", "radiology"], 1, "declared in the settings"),
        (["tenants", "set", "X Y"], 2, "name"),
        (["tenants", "set", "x", "--concurrency", "0"], 2, "concurrency"),
        (["tenants", "set", "x", "--concurrency", "many"], 2, "integer"),
        (["tenants", "set", "x", "--content", "{a: &b c}"], 2, "anchors"),
        (["tenants", "set", "x", "--content", "[1]"], 2, "content"),
        (["tenants", "remove", "x"], 1, "There is no tenant `x`"),
        (["projects", "set", "p", "--tenant", "radiolgy"], 1, "Did you mean `radiology`?"),
        (["projects", "list", "--tenant", "x"], 1, "There is no tenant `x`"),
        (["users", "set", "a", "--role", "root"], 2, "roles"),
        (["users", "set", "a", "--project", "none"], 2, "no such project"),
        (["users", "set", "a\u009bb"], 2, "name"),
        (["users", "set", "a" * 129], 2, "name"),
        (["users", "remove", "a"], 1, "There is no user `a`"),
        (["policy", "remove"], 1, "no policy"),
        (["policy", "show"], 1, "no policy"),
    ],
)
def test_what_is_refused(cli: Cli, arguments: list[str], status: int, said: str) -> None:
    """Each refusal is a sentence with its status, and writes no record."""
    refused(cli, *arguments, status=status, said=said)
    assert not (cli.state / "audit").exists()


def test_what_others_depend_on_stays(cli: Cli) -> None:
    """A tenant with a project, a project with a key or a user: neither goes before what depends on it."""
    cli.ok("tenants", "set", "research")
    cli.ok("projects", "set", "p", "--tenant", "research")
    refused(cli, "tenants", "remove", "research", status=1, said="has a project")
    cli.ok("keys", "create", "--owner", "a", "--tenant", "research", "--project", "p")
    refused(cli, "projects", "remove", "p", "--tenant", "research", status=1, said="has keys")
    [key] = json.loads(cli.ok("keys", "list", "--json"))
    assert (key["tenant"], key["project"], key["state"]) == ("research", "p", "active")
    cli.ok("keys", "revoke", key["id"])
    cli.ok("users", "set", "dana", "--tenant", "research", "--project", "p")
    refused(cli, "projects", "remove", "p", "--tenant", "research", status=1, said="has users")
    cli.ok("users", "set", "dana", "--tenant", "research", "--unset", "project")
    cli.ok("projects", "remove", "p", "--tenant", "research")
    cli.ok("users", "remove", "dana", "--tenant", "research")
    cli.ok("tenants", "remove", "research")
    assert [row["state"] for row in json.loads(cli.ok("keys", "list", "--all", "--json"))] == ["revoked"]


FIRST_FIELDS = {"roles", "models", "project", "concurrency", "requests_per_minute", "disabled", "description"}
"""Those that every version knows which keeps users: an older one, beside this or in its place again, forbids others."""


def kept(cli: Cli, name: str) -> dict[str, Any]:
    """What is kept of a user."""
    with contextlib.closing(sqlite3.connect(cli.state / "keys.sqlite")) as store:
        [(body,)] = store.execute("SELECT body FROM documents WHERE name = ?", [name])
    found: dict[str, Any] = json.loads(body)
    return found


def test_users(cli: Cli) -> None:
    """Users have names of any printable kind, roles and a project; lists show them by tenant."""
    cli.ok("projects", "set", "triage")
    for name in ("Zoë Å", "CN=x,O=y/z", "alice@h.example"):
        cli.ok("users", "set", name, "--role", "auditor", "--role", "user", "--project", "triage")
    rows = json.loads(cli.ok("users", "list", "--tenant", "radiology", "--json"))
    assert [row["name"] for row in rows] == ["CN=x,O=y/z", "Zoë Å", "alice@h.example"]
    assert cli.ok("users", "list").splitlines()[1].split()[-3:] == ["auditor,user", "triage", "*"]
    for more, spared in (("--except-house", True), ("--description=d", False), ("--except-house", True)):
        set_ = made(cli, "users", "set", "Zoë Å", "--disabled", more)  # refused altogether unless it says otherwise
        assert set_["body"].get("except_house", False) is spared
    assert made(cli, "users", "set", "Zoë Å", "--disabled", "--unset", "except_house")["body"]["disabled"] is True
    assert kept(cli, "Zoë Å").keys() == FIRST_FIELDS
    whole = json.dumps({**kept(cli, "Zoë Å"), "except_house": False})  # as there are from before
    with contextlib.closing(sqlite3.connect(cli.state / "keys.sqlite")) as store, store:
        store.execute("UPDATE documents SET body = ? WHERE name = ?", [whole, "Zoë Å"])
    assert made(cli, "users", "set", "Zoë Å", "--disabled")["changed"] is False
    cli.ok("users", "remove", "Zoë Å")
    assert len(json.loads(cli.ok("users", "list", "--json"))) == 2


MISFITS = """
rules:
  - {name: nights, models: [notes, note]}
  - {name: own, content: sealed, issuers: [hospitl]}
"""
SETTLED = {"VESTRY_POLICY": "{rules: [{name: nights}]}"}


def test_rules_that_would_not_do_what_they_say(cli: Cli, tmp_path: Path) -> None:
    """A model that is not served, an issuer that nobody believes, a name of the settings' rules, content that nobody
    could unseal: each is refused with its place and mend, by `policy set` and `apply` alike, and nothing is written.
    """
    file = tmp_path / "policy.yaml"
    file.write_text(MISFITS)
    done = cli("policy", "set", "-f", str(file), **SETTLED)
    assert done.exit_code == 2
    for said in (
        "rules.0.models.1: no such model is served. Name one of `models`",
        "rules.0.name: the settings have a rule of this name, and records would not tell them apart. Take another name",
        "rules.1.issuers.0: no issuer of this name is believed. Name one of `identity.issuers`",
        "rules.1.content: there is no auditor's key to seal it to. Make one elsewhere with `vestry audit keygen`",
    ):
        assert said in done.stderr
    file.write_text("policy:" + MISFITS.replace("\n", "\n  "))
    done = cli("apply", "-f", str(file), **SETTLED)
    assert done.exit_code == 2
    for said in (
        "policy.yaml:3 policy.rules[0].models[1]: no such model is served",
        "policy.yaml:3 policy.rules[0].name: the settings have a rule of this name",
        "policy.yaml:4 policy.rules[1].issuers[0]: no issuer of this name is believed",
        "policy.yaml:4 policy.rules[1].content: there is no auditor's key",
    ):
        assert said in done.stderr
    assert not cli.state.exists()


def test_content_that_nobody_could_unseal(cli: Cli, tmp_path: Path) -> None:
    """A tenant of the directory is not sealed to nobody: not by what it says, and not by a rule, of the settings or of
    the directory. Files are judged by what they come to, not by what is there before.
    """
    ask = ("tenants", "set", "research", "--content", "{default: sealed}")
    refused(cli, *ask, status=2, said="there is no auditor's key to seal it to. Make a key elsewhere")
    public = cli.ok("audit", "keygen", str(tmp_path / "auditor.key")).strip()
    radiology = {"VESTRY_TENANTS": f"{{radiology: {{models: [scan], content: {{auditor: {public}}}}}}}"}
    rules = {"VESTRY_POLICY": "{rules: [{name: all, content: sealed}]}"}
    done = cli("tenants", "set", "research", **radiology, **rules)
    assert (done.exit_code, "the rule `all` seals it" in done.stderr) == (2, True), done.output
    file = tmp_path / "house.yaml"

    def applied(text: str) -> tuple[int, str]:
        file.write_text(text)
        done = cli("apply", "-f", str(file))
        return done.exit_code, done.output

    plain = "tenants: {research: {}}\npolicy: {rules: [{name: own, tenants: [research]}]}"
    sealed = plain.replace("[research]", "[research], content: sealed")
    keyed = sealed.replace("{}", f"{{content: {{auditor: {public}}}}}")
    status, said = applied("tenants: {research: {content: {default: sealed}}}")
    assert (status, "house.yaml:1 tenants.research.content: it is `sealed`, but" in said) == (2, True), said
    status, said = applied(sealed)
    assert (status, "the tenant `research` has no auditor's key" in said) == (2, True), said
    assert not cli.state.exists()
    for each in (keyed, plain, keyed):
        status, said = applied(each)
        assert status == 0, said
    status, said = applied("tenants: {research: {}}")
    assert (status, "the rule `own` seals it" in said) == (2, True), said
    assert cli("tenants", "set", "research", "--unset", "content", VESTRY_AUDIT__AUDITOR=public).exit_code == 0


def test_a_name_that_the_settings_take_later(cli: Cli, tmp_path: Path) -> None:
    """The directory's rule is told from the settings' one by where it stands."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{name: nights, effect: deny}]")
    cli.ok("policy", "set", "-f", str(file))
    found = json.loads(cli(*("policy", "rules", "--json"), **SETTLED).stdout)
    assert [(each["name"], each["origin"]) for each in found] == [
        ("nights", "settings"),
        ("directory/nights", "directory"),
    ]


def test_policy(cli: Cli, tmp_path: Path) -> None:
    """The directory's rules are written whole, shown as they are taken, in force at once, and removed."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{name: no-nights, effect: deny, models: [notes]}]")
    assert cli.ok("policy", "set", "--file", str(file)) == "policy: made (version 1)\n"
    assert "no-nights" in cli.ok("policy", "rules")
    file.write_text(cli.ok("policy", "show"))
    assert cli.ok("policy", "set", "-f", str(file)) == "policy: is so already (version 1)\n"
    file.write_text("rules: [{name: a}, {name: a}]")
    refused(cli, "policy", "set", "-f", str(file), status=2, said="two of them are named `a`")
    cli.ok("policy", "remove", "--if-version", "1")
    assert [each["change"] for each in recorded(cli, "policy.change")] == ["create", "remove"]


def test_a_key_with_everything(cli: Cli) -> None:
    """Project, routes, networks and several roles reach the store; the same token makes no second key."""
    cli.ok("projects", "set", "night")
    options = (
        *(
            "keys",
            "create",
            "--owner",
            "batch",
            "--project",
            "night",
            "--route",
            "completions",
            "--source",
            "10.1.2.3/8",
        ),
        *("--role", "user", "--role", "auditor", "--expires", "2090-01-31", "--idempotency-key", "t1"),
    )
    first = made(cli, *options)
    assert well_formed(first["key"])
    assert (first["project"], first["routes"], first["sources"]) == ("night", ["completions"], ["10.0.0.0/8"])
    assert (first["role"], first["made_by"] is not None) == ("auditor,user", True)
    again = made(cli, *options)
    assert (again["key"], again["id"]) == (None, first["id"])
    assert cli.ok(*options) == ""
    refused(cli, *options, "--concurrency", "3", status=1, said="Another key was asked for")
    refused(cli, *options, "--expires", "3d", status=2, said="a span is another time")
    refused(cli, "keys", "create", "--owner", "a", "--source", "here", status=1, said="sources")
    refused(cli, "keys", "create", "--owner", "a", "--project", "none", status=1, said="no such project")
    assert len(recorded(cli, "key.create")) == 1


def test_freeze_and_thaw(cli: Cli) -> None:
    """A frozen key is refused until it is thawed; a revoked one stays so; each change is one record with its reason."""
    key = cli.ok("keys", "create", "--owner", "a").strip()
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    assert cli.ok("keys", "freeze", row["id"], "--reason", "odd") == f"{row['id']}: frozen\n"
    assert store(cli).holder(key) is None
    assert cli.ok("keys", "freeze", key) == f"{row['id']}: was frozen before\n"
    assert [each["id"] for each in json.loads(cli.ok("keys", "list", "--state", "frozen", "--json"))] == [row["id"]]
    assert json.loads(cli.ok("keys", "list", "--state", "active", "--json")) == []
    cli.ok("keys", "thaw", row["id"])
    assert store(cli).holder(key) is not None
    cli.ok("keys", "revoke", row["id"])
    refused(cli, "keys", "freeze", row["id"], status=1, said="is revoked, for good")
    refused(cli, "keys", "thaw", mint(), status=1, said="(an unknown key): no key has this id")
    assert [(each["change"], each.get("reason")) for each in recorded(cli, "key.change")] == [
        ("freeze", "odd"),
        ("thaw", None),
    ]


def test_a_frozen_key_is_replaced_by_a_frozen_one(cli: Cli) -> None:
    """Nobody gets past a freeze by replacing the key: the new one works once it is thawed, the old one never again."""
    old = cli.ok("keys", "create", "--owner", "a").strip()
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    cli.ok("keys", "freeze", row["id"])
    done = cli("keys", "rotate", row["id"], "--overlap", "24h")
    new = done.stdout.strip()
    [made] = [each for each in json.loads(cli.ok("keys", "list", "--json")) if each["replaces"] == row["id"]]
    assert "which is frozen, and expires at" in done.stderr
    assert f"It is frozen, as the old one is. When it may be used: vestry keys thaw {made['id']}" in done.stderr
    assert made["state"] == "frozen"
    assert store(cli).holder(new) is None
    cli.ok("keys", "thaw", made["id"])
    assert store(cli).holder(new) is not None
    assert store(cli).holder(old) is None


def test_rotation_overlaps(cli: Cli) -> None:
    """The new key has the rights of the old one, which works until the overlap is over; the new one is shown once."""
    old = cli.ok("keys", "create", "--owner", "a", "--model", "scan").strip()
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    done = cli("keys", "rotate", row["id"], "--overlap", "24h")
    assert done.exit_code == 0
    new = done.stdout.strip()
    assert well_formed(new)
    assert new not in done.stderr
    holder = store(cli).holder(new)
    assert holder is not None
    assert holder.models == frozenset({"scan"})
    assert store(cli).holder(old) is not None
    said = made(cli, "keys", "rotate", holder.key_id, "--overlap", "0s")
    assert said["replaces"] == holder.key_id
    assert store(cli).holder(new) is None
    refused(cli, "keys", "rotate", holder.key_id, status=1, said="has expired")
    refused(cli, "keys", "rotate", said["id"], "--overlap", "31d", status=2, said="30 days")
    refused(cli, "keys", "rotate", said["id"], "--overlap", "soon", status=2, said="24h")
    refused(cli, "keys", "rotate", "key_none", status=1, said="No key has this id")
    log = b"".join(path.read_bytes() for path in (cli.state / "audit").rglob("*") if path.is_file())
    assert not any(each.encode() in log for each in (old, new, said["key"]))
    verified(cli)


def test_update(cli: Cli) -> None:
    """Options change what they name; --unset and `never` give defaults again; versions are judged."""
    key = made(cli, "keys", "create", "--owner", "a", "--model", "scan", "--expires", "9d")
    changed = made(cli, "keys", "update", key["id"], "--owner", "b", "--concurrency", "2", "--if-version", "1")
    assert (changed["owner"], changed["concurrency"], changed["models"], changed["version"]) == ("b", 2, ["scan"], 2)
    assert changed["expires"] == key["expires"]
    refused(cli, "keys", "update", key["id"], "--owner", "c", "--if-version", "1", status=1, said="version 2")
    wide = made(cli, "keys", "update", key["id"], "--unset", "models", "--expires", "never")
    assert (wide["models"], wide["expires"]) == (None, None)
    assert cli.ok("keys", "update", key["id"], "--owner", "b") == f"{key['id']}: is so already (version 3)\n"
    refused(cli, "keys", "update", key["id"], "--model", "notes", status=2, said="may not use one of the models")
    refused(cli, "keys", "update", "key_none", "--owner", "c", status=1, said="No key has this id")
    assert [each["change"] for each in recorded(cli, "key.change")] == ["update", "update"]


def test_identify_prints_no_key(cli: Cli) -> None:
    """Whose a key is, from standard input; the key itself does not come back, and an unknown one neither. A text around
    a key is told to be none: who pastes a line of a log must not read that there is no such key.
    """
    key = cli.ok("keys", "create", "--owner", "a").strip()
    [row] = json.loads(cli.ok("keys", "list", "--json"))
    hidden: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("VESTRY_"))
    environment = {**hidden, **cli.variables}
    result = CliRunner().invoke(main, ["keys", "identify", "--json"], input=key + "\n", env=environment)
    assert json.loads(result.stdout) == json.loads(cli.ok("keys", "show", row["id"], "--json"))
    assert key not in result.output
    other = mint()
    unknown = cli("keys", "identify", other)
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: There is no such key here.\n")
    assert other not in unknown.output
    for odd in (b"\xff\xfe" + key.encode("utf-16-le"), b"\xe9t\xe9", b"\x00", b"", b"key=%s" % key.encode()):
        none = CliRunner().invoke(main, ["keys", "identify"], input=odd, env=environment)
        assert (none.exit_code, none.stderr.startswith("Error: This is no key: ")) == (1, True)
        assert key not in none.output
    refused(cli, "keys", "identify", "\udcff", status=1, said="This is no key: ")


def test_lists_go_through_every_page(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages of two, all keys and users are listed, once each; more keys than are sorted come by their ids."""
    for number in range(5):
        cli.ok("keys", "create", "--owner", f"o{number}")
        cli.ok("users", "set", f"u{number}")
    for module in ("keys", "documents", "common"):
        monkeypatch.setattr(f"vestry.commands.directory.{module}.PAGE", 2)
    owners = [row["owner"] for row in json.loads(cli.ok("keys", "list", "--json"))]
    assert owners == ["o0", "o1", "o2", "o3", "o4"]
    assert [row["name"] for row in json.loads(cli.ok("users", "list", "--json"))] == [f"u{n}" for n in range(5)]
    monkeypatch.setattr("vestry.commands.directory.keys.SORTED", 2)
    rows = json.loads(cli.ok("keys", "list", "--json"))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert sorted(row["owner"] for row in rows) == owners
    assert len(cli.ok("keys", "list").splitlines()) == 6
    assert [row["owner"] for row in json.loads(cli.ok("keys", "list", "--owner", "o3", "--json"))] == ["o3"]


def test_a_key_whose_tenant_is_gone_can_be_listed_by_it(cli: Cli) -> None:
    """The tenant of a key need not be there any more to be asked for."""
    cli.ok("keys", "create", "--owner", "a")
    said = cli.ok("keys", "list", "--json", "--tenant", "radiology", VESTRY_TENANTS="{other: {}}")
    assert [row["state"] for row in json.loads(said)] == ["no-tenant"]


def test_what_cannot_be_recorded_is_not_done(cli: Cli) -> None:
    """With the record out of order nothing is made, changed or removed."""
    cli.ok("tenants", "set", "research")
    log = cli.state / "audit" / "cli"
    log.rename(log.with_name("kept"))
    log.write_text("in the way")
    for arguments in (["tenants", "set", "x"], ["tenants", "set", "research", "--concurrency", "1"]):
        refused(cli, *arguments, status=1, said="could not be recorded")
    refused(cli, "tenants", "remove", "research", status=1, said="could not be recorded")
    assert [row["name"] for row in json.loads(cli.ok("tenants", "list", "--json"))] == ["radiology", "research"]
    assert made(cli, "tenants", "show", "research")["version"] == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(cli: Cli, shell: str) -> None:
    """Each shell gets a script that asks this program; another shell is refused."""
    assert "_VESTRY_COMPLETE" in cli.ok("completion", shell)
    assert cli("completion", "tcsh").exit_code == 2


def completed(*words: str) -> list[str]:
    """What would be offered for the last of these words."""
    *before, begun = words
    return [each.value for each in BashComplete(main, {}, "vestry", "_VESTRY_COMPLETE").get_completions(before, begun)]


def test_what_is_completed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants of the settings and of the store, projects and users of a tenant, keys that are not revoked, models."""
    cli.ok("tenants", "set", "research")
    cli.ok("projects", "set", "triage", "--tenant", "research")
    cli.ok("users", "set", "Zoë", "--tenant", "radiology")
    keys = [made(cli, "keys", "create", "--owner", "a", "--tenant", "research")["id"] for _ in range(2)]
    cli.ok("keys", "revoke", keys[1])
    for name, value in cli.variables.items():
        monkeypatch.setenv(name, value)
    assert completed("tenants", "show", "r") == ["radiology", "research"]
    assert completed("projects", "show", "--tenant", "research", "") == ["triage"]
    assert completed("projects", "show", "--tenant", "radiology", "") == []
    assert completed("users", "remove", "Z") == ["Zoë"]
    assert completed("keys", "revoke", "key_") == [keys[0]]
    assert completed("keys", "create", "--model", "") == ["notes", "scan"]
    assert completed("keys", "create", "--ro") == ["--route", "--role"]


def test_completion_never_fails(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With faulty settings, a damaged store or none there is nothing to complete, and nothing is made."""
    for name, value in cli.variables.items():
        monkeypatch.setenv(name, value)
    cli.state.mkdir()
    (cli.state / "keys.sqlite").write_bytes(b"garbage" * 1000)
    assert completed("projects", "show", "") == completed("keys", "show", "") == []
    monkeypatch.setenv("VESTRY_STATE", str(tmp_path / "none"))
    assert completed("projects", "show", "") == []
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("VESTRY_SERVER__PORT", "x")
    assert completed("tenants", "show", "") == []


def test_bash_completes(cli: Cli, tmp_path: Path) -> None:
    """In a real bash, with the script that is printed."""
    cli.ok("tenants", "set", "research")
    (tmp_path / "script").write_text(cli.ok("completion", "bash"))
    program = tmp_path / "bin" / "vestry"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom vestry.cli import main\n\nmain()\n")
    program.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    script = """
    source "$0"
    COMP_WORDS=(vestry tenants show r); COMP_CWORD=3; COMPREPLY=()
    _vestry_completion vestry
    echo "${COMPREPLY[*]}"
    """
    environment = {**clean(os.environ), **cli.variables, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "-c", script, str(tmp_path / "script")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["radiology research"], done.stderr


def test_what_was_damaged_by_hand_is_listed_as_such_and_replaced(cli: Cli) -> None:
    """A list shows it beside the others, and the whole of it can be written anew."""
    for name in ("even", "odd"):
        cli.ok("users", "set", name)
    with contextlib.closing(sqlite3.connect(cli.state / "keys.sqlite")) as connection, connection:
        connection.execute("UPDATE documents SET body = '{' WHERE name = 'odd'")
    even, odd = json.loads(cli.ok("users", "list", "--json"))
    assert ("damaged" in even, "damaged" in odd) == (False, True)
    assert "damaged" in next(line for line in cli.ok("users", "list").splitlines() if " odd " in line)
    assert "damaged" in cli.ok("users", "show", "odd")
    file = cli.state / "odd.yaml"
    file.write_text("description: anew\n")
    assert cli.ok("users", "set", "odd", "--file", str(file)).startswith("user odd of radiology: changed")
    assert recorded(cli, "user.change")[-1]["old"] == {"damaged": "damaged: Extra inputs are not permitted."}
