"""`vestry apply` and `vestry tenants export`, as a stranger types them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fakes.directory import FakeDirectory
from support.cli import Cli
from support.hospital import hospital, recorded, verified
from vestry import administration
from vestry.admin.batch import Refused
from vestry.admin.documents import FORMS
from vestry.audit.scan import LogUnusable
from vestry.cli import main
from vestry.declaring.files import read
from vestry.declaring.plan import plan
from vestry.declaring.state import written
from vestry.settings.tree import Settings
from vestry.types import Kind

FILE = """
tenants:
  radiology:
    projects:
      triage: {models: [scan]}
    users:
      alice@h.example: {roles: [tenant-admin], project: triage}
  research:
    models: [notes]
    concurrency: 8
---
policy:
  rules:
    - {name: no-notes, effect: deny, models: [notes], tenants: [radiology]}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A tenant `radiology` in the settings, models `scan` and `notes`, and no state yet."""
    return hospital(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that declares something of each kind."""
    path = tmp_path / "tenants.yaml"
    path.write_text(FILE)
    return path


def asked(cli: Cli, text: str, *options: str) -> Result:
    """`vestry apply --file -` with this text."""
    hidden: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("VESTRY_"))
    return CliRunner().invoke(main, ["apply", "-f", "-", *options], input=text, env={**hidden, **cli.variables})


def test_plan_apply_plan(cli: Cli, file: Path) -> None:
    """A dry run prints what would be done, status 3, and makes nothing; then it is done; then nothing is left to do."""
    dry = cli("apply", "-f", str(file), "--dry-run")
    assert dry.exit_code == 3
    assert dry.stdout.splitlines() == [
        "+ tenant research",
        '    models: ["notes"]',
        "    concurrency: 8",
        "+ project triage of radiology",
        '    models: ["scan"]',
        "+ user alice@h.example of radiology",
        '    roles: ["tenant-admin"]',
        '    project: "triage"',
        "+ policy",
        '    rules: [{"name": "no-notes", "effect": "deny", "tenants": ["radiology"], "models": ["notes"]}]',
        "4 to add, 0 to change, 0 to remove.",
    ]
    assert not cli.state.exists()
    done = cli("apply", "-f", str(file))
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "Applied: 4 added, 0 changed, 0 removed.")
    kinds = [each["type"] for each in recorded(cli)]
    assert kinds == ["tenant.change", "project.change", "user.change", "policy.change"]
    for options in ([], ["--dry-run"], ["--prune"], ["--prune", "--dry-run"]):
        again = cli("apply", "-f", str(file), *options)
        assert (again.exit_code, again.stdout) == (0, "Nothing to do: everything is as declared.\n")
    assert len(recorded(cli)) == 4
    verified(cli)


def test_changes_field_by_field(cli: Cli, file: Path) -> None:
    """A changed file changes what differs; JSON tells old and new of each field. What it leaves out has its default."""
    cli.ok("apply", "-f", str(file))
    file.write_text(FILE.replace("    concurrency: 8\n", "    content: {default: hashed}\n"))
    dry = cli("apply", "-f", str(file), "--dry-run", "--json")
    assert dry.exit_code == 3
    said = json.loads(dry.stdout)
    assert (said["applied"], said["summary"]) == (False, {"add": 0, "change": 1, "remove": 0})
    [change] = said["changes"]
    assert (change["action"], change["kind"], change["name"]) == ("change", "tenant", "research")
    assert change["place"].endswith("tenants.yaml:8 tenants.research")
    assert change["fields"] == [
        {"field": "concurrency", "old": 8, "new": 64},
        {"field": "content.default", "old": "metadata", "new": "hashed"},
    ]
    assert json.loads(cli.ok("apply", "-f", str(file), "--json"))["applied"] is True
    assert json.loads(cli.ok("tenants", "show", "research", "--json"))["body"]["content"]["default"] == "hashed"


def test_every_fault_at_once(cli: Cli) -> None:
    """Each fault has its line and a mend; nothing is done; a key that was pasted into a file is not printed."""
    secret = "vst_" + "a" * 49
    text = f"""
tenants:
  radiology:
    concurrency: 3
  research:
    modles: [notes]
    users:
      bob: {{roles: [root], project: none}}
    projects: []
  Bad Name: {{}}
keys:
  {secret}: frozen
  key_abc: gone
tenant: {{}}
---
tenants:
  research: {{}}
"""
    result = asked(cli, text)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "The files have 9 faults, and nothing was changed:"
    for place, said in (
        (":4 tenants.radiology.concurrency", "declared in the settings"),
        (":6 tenants.research.modles", "Did you mean `models`?"),
        (":8 tenants.research.users.bob.roles[0]", "'tenant-admin'"),
        (":9 tenants.research.projects", "mapping"),
        (":10 tenants.Bad Name", "no name of a tenant"),
        (":12 keys", "no id of a key"),
        (":13 keys.key_abc", "`active`, `frozen` or `revoked`"),
        (":14 tenant", "Did you mean `tenants`?"),
        (":17 tenants.research", "a second time; the first is standard input:5"),
    ):
        assert any(f"standard input{place}: " in line and said in line for line in lines), (place, said)
    assert secret not in result.output
    as_json = json.loads(asked(cli, text, "--json").stdout)
    assert (as_json["valid"], len(as_json["faults"])) == (False, 9)
    assert not cli.state.exists()


def test_what_only_the_directory_shows(cli: Cli) -> None:
    """Models that are not served, projects and keys that there are not: told together, with their lines."""
    text = """
tenants:
  research: {models: [none]}
  radiology:
    users:
      bob: {project: none}
keys: {key_none: frozen}
"""
    result = asked(cli, text)
    assert result.exit_code == 2
    for line in (":3 tenants.research: ", ":6 tenants.radiology.users.bob: ", ":7 keys.key_none: no key has this id"):
        assert f"standard input{line}" in result.stderr
    assert not cli.state.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "must be a mapping"),
        ("a: [", "not YAML"),
        ("tenants: {a: &x {}}", "anchors"),
        ("tenants: 3", "mapping"),
        ("policy: {rules: 3}", "policy.rules"),
        ("{}\n---\ntenants: {a: {concurrency: 1e9}}", ":3 tenants.a.concurrency"),
    ],
)
def test_files_that_are_none(cli: Cli, text: str, said: str) -> None:
    """What is no such file is refused with its place, status 2."""
    result = asked(cli, text)
    assert result.exit_code == 2
    assert said in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path, file: Path) -> None:
    """A file that is missing, no text, or given twice."""
    assert cli("apply", "-f", str(tmp_path / "none")).exit_code == 2
    binary = tmp_path / "binary"
    binary.write_bytes(b"tenants:\n\xff")
    assert f"{binary}:2: this is not UTF-8" in cli("apply", "-f", str(binary)).stderr
    assert "given twice" in cli("apply", "-f", str(file), "-f", str(file)).stderr
    assert cli("apply").exit_code == 2
    assert asked(cli, "", "--dry-run").exit_code == 0


def test_prune(cli: Cli, file: Path) -> None:
    """What no file declares is removed only with --prune, and only with --yes where nobody can be asked."""
    cli.ok("apply", "-f", str(file))
    file.write_text("tenants:\n  radiology:\n    projects: {triage: {models: [scan]}}\n")
    assert cli.ok("apply", "-f", str(file)).startswith("Nothing to do")
    refused = cli("apply", "-f", str(file), "--prune")
    assert refused.exit_code == 1
    assert "give --yes" in refused.stderr
    assert len(recorded(cli)) == 4
    said = cli.ok("apply", "-f", str(file), "--prune", "--yes")
    assert said.splitlines() == [
        "- policy",
        "- user alice@h.example of radiology",
        "- tenant research",
        "Applied: 0 added, 0 changed, 3 removed.",
    ]
    assert [each["change"] for each in recorded(cli)[4:]] == ["remove"] * 3


def test_prune_keeps_what_is_needed(cli: Cli, file: Path) -> None:
    """A tenant with keys, and a project that a declared user has, are not pruned; nothing else is done then either."""
    cli.ok("apply", "-f", str(file))
    cli.ok("keys", "create", "--owner", "a", "--tenant", "research")
    before = len(recorded(cli))
    file.write_text("tenants:\n  radiology:\n    users: {alice@h.example: {roles: [user], project: triage}}\n")
    result = cli("apply", "-f", str(file), "--prune", "--yes")
    assert result.exit_code == 2
    assert "no file declares the project `triage`" in result.stderr
    assert "The tenant has keys" in result.stderr
    assert len(recorded(cli)) == before


def test_states_of_keys(cli: Cli) -> None:
    """Files freeze, thaw and revoke keys, each with its record; a revoked one does not come back."""
    key = json.loads(cli.ok("keys", "create", "--owner", "a", "--json"))["id"]
    assert asked(cli, f"keys: {{{key}: frozen}}").stdout.startswith(f'~ key {key}\n    state: "active" -> "frozen"')
    assert asked(cli, f"keys: {{{key}: frozen}}").stdout.startswith("Nothing to do")
    assert asked(cli, f"keys: {{{key}: active}}").exit_code == 0
    assert "give --yes" in asked(cli, f"keys: {{{key}: revoked}}").stderr
    assert asked(cli, f"keys: {{{key}: revoked}}", "--yes").exit_code == 0
    gone = asked(cli, f"keys: {{{key}: active}}")
    assert gone.exit_code == 2
    assert "revoked, for good" in gone.stderr
    assert [each["type"] for each in recorded(cli)] == ["key.create", "key.change", "key.change", "key.revoke"]


def test_all_or_nothing(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the records cannot be written nothing is changed; all of them are written at once, before anything is."""
    held: list[int] = []

    def fail(_: Settings, records: list[Any]) -> None:
        held.append(len(records))
        raise LogUnusable("the disk is full")

    monkeypatch.setattr(administration, "record_all", fail)
    result = cli("apply", "-f", str(file))
    assert result.exit_code == 1
    assert "could not be recorded. the disk is full" in result.stderr
    assert held == [4]
    assert [row["name"] for row in json.loads(cli.ok("tenants", "list", "--json"))] == ["radiology"]
    assert json.loads(cli.ok("projects", "list", "--json")) == []


def test_somebody_was_faster(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed between plan and apply is not overwritten: nothing is done, and it is said."""
    cli.ok("tenants", "set", "research", "--concurrency", "2")
    planned = administration.look

    def meanwhile(*given: Any) -> Any:
        found = planned(*given)
        cli.ok("tenants", "set", "research", "--concurrency", "3")
        return found

    monkeypatch.setattr("vestry.commands.directory.apply.look", meanwhile)
    result = cli("apply", "-f", str(file))
    assert result.exit_code == 1
    assert "somebody else changed something meanwhile" in result.stderr
    assert json.loads(cli.ok("projects", "list", "--json")) == []
    assert json.loads(cli.ok("tenants", "show", "research", "--json"))["body"]["concurrency"] == 3


def test_what_is_exported_is_what_is_applied(cli: Cli, file: Path, tmp_path: Path) -> None:
    """The export declares all that there is: applied with --prune it changes nothing, elsewhere it makes the same."""
    cli.ok("apply", "-f", str(file))
    cli.ok("users", "set", "no: #1", "--tenant", "radiology", "--role", "user")
    cli.ok("projects", "set", "odd", "--tenant", "radiology", "--description", "12:30")
    text = cli.ok("tenants", "export")
    assert asked(cli, text, "--prune", "--dry-run").exit_code == 0
    folder = tmp_path / "other"
    folder.mkdir()
    other = hospital(folder)
    assert asked(other, text).exit_code == 0
    assert other.ok("tenants", "export") == text
    assert set(yaml.safe_load(cli.ok("tenants", "export", "research"))["tenants"]) == {"research"}
    assert "There is no tenant `x`" in cli("tenants", "export", "x").stderr


LABELS = st.sampled_from(["a", "b", "radiology", "Bad"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-2, 200_000) | TEXTS | st.sampled_from(["scan", "notes", "*", "user"])
LOOSE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


GOOD = {
    "models": st.lists(st.sampled_from(["scan", "notes"]), min_size=1, max_size=2),
    "concurrency": st.integers(1, 100),
    "disabled": st.booleans(),
    "description": TEXTS,
}
ROLES = st.lists(st.sampled_from(["user", "auditor"]), max_size=2)


def bodies(kind: Kind) -> st.SearchStrategy[Any]:
    """Bodies with the right names and whatever values, some of them right."""
    good = {**GOOD, "roles": ROLES}
    fields = {name: good.get(name, LOOSE) for name in FORMS[kind].model_fields}
    right = st.fixed_dictionaries({}, optional={name: good[name] for name in good if name in fields})
    return right | st.fixed_dictionaries({}, optional={name: fields[name] | LOOSE for name in fields}) | LOOSE


TENANTS = st.dictionaries(
    LABELS,
    st.fixed_dictionaries(
        {},
        optional={
            "projects": st.dictionaries(LABELS, bodies(Kind.PROJECT), max_size=2) | SCALARS,
            "users": st.dictionaries(TEXTS, bodies(Kind.USER), max_size=3),
            "concurrency": st.integers(1, 9),
        },
    )
    | bodies(Kind.TENANT),
    max_size=3,
)
FILES = st.fixed_dictionaries(
    {}, optional={"tenants": TENANTS | SCALARS, "policy": LOOSE, "keys": st.dictionaries(TEXTS, SCALARS, max_size=2)}
)
NAMES = st.sampled_from(["a", "b"])
SUBJECTS = st.sampled_from(["ann", "no: #1", "Zoë Å", "12:30", "1e3", "CN=x,O=y", "~", "- a", "'\""])
PARTS = {
    "projects": st.dictionaries(NAMES, st.fixed_dictionaries({}, optional=GOOD), max_size=2),
    "users": st.dictionaries(
        SUBJECTS,
        st.fixed_dictionaries({}, optional={**GOOD, "roles": ROLES, "project": NAMES}),
        max_size=4,
    ),
}
WELL_FORMED = st.fixed_dictionaries(
    {
        "tenants": st.fixed_dictionaries(
            {"a": st.fixed_dictionaries({}, optional={**PARTS, "concurrency": st.integers(1, 9)})},
            optional={"radiology": st.fixed_dictionaries({}, optional=PARTS)},
        )
    },
    optional={"policy": st.fixed_dictionaries({"rules": st.just([{"name": "a"}]) | st.just([])})},
)
HOUSE = Settings.model_validate(
    {
        "tenants": {"radiology": {"models": ["scan"]}},
        "models": {"scan": {"catalog": "smollm2-135m-instruct"}, "notes": {"catalog": "phi-3-mini-4k-instruct"}},
    }
)


async def unwritten(_: object) -> None:
    """Writes no record."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(WELL_FORMED | FILES | LOOSE)
def test_any_file_is_applied_or_told(declared: Any) -> None:
    """Whatever a file declares: either it has faults, each with a place; or it is done, and then nothing is left to do,
    and what is exported declares the same.
    """

    async def go() -> None:
        directory = FakeDirectory()
        office = administration.office_of(HOUSE, directory, "tester", unwritten)
        found = read({"f": yaml.safe_dump(declared, allow_unicode=True)}, HOUSE)
        if found.faults:
            assert all(each.place.startswith("f") and each.what and each.mend for each in found.faults)
            return
        made = await plan(directory, HOUSE, found, prune=True)
        if made.faults:
            return
        steps = [each.step for each in made.differences]
        try:
            await office.batch.rehearse(office.actor, steps)
        except Refused as refused:
            event("refused")
            refusals = list(refused.refusals.values())
            with pytest.raises(Refused):
                await office.batch.do(office.actor, steps)
        else:
            refusals = []
            assert await office.batch.do(office.actor, steps) == len(steps)
        assert all(refusal.reason for refusal in refusals)
        if refusals:
            return
        event(f"{min(len(steps), 3)} steps or more are done")
        assert not (await plan(directory, HOUSE, found, prune=True)).differences
        text = "".join([piece async for piece in written(directory, HOUSE, None)])
        again = read({"g": text}, HOUSE)
        assert not again.faults
        assert not (await plan(directory, HOUSE, again, prune=True)).differences

    asyncio.run(go())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read(text: str) -> None:
    """No text makes the reader raise."""
    read({"f": text}, HOUSE)
