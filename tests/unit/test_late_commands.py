"""Commands are imported when they are called, and libraries where something needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from alembic.script import ScriptDirectory
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from support.cli import Cli, clean, every_command
from vestry.adapters.directory.migrate import FOLDER
from vestry.adapters.directory.schemas import REVISIONS
from vestry.cli import main
from vestry.commands.late import LateGroup

GROUPS = {path: command for path, command in every_command() if isinstance(command, click.Group)}
LIBRARIES = ("pydantic", "msgspec", "sqlalchemy", "cryptography", "yaml", "fastapi", "asyncio")
OF_SERVERS = {"fastapi", "starlette", "uvicorn", "httptools", "prometheus_client", "uvloop"}
OF_DIRECTORIES = {"sqlalchemy", "aiosqlite", "asyncpg", "alembic"}
OF_TOKENS = {"authlib", "joserfc"}
WATCHED = {*LIBRARIES, *OF_SERVERS, *OF_DIRECTORIES, *OF_TOKENS}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


def ask(*words: str, **variables: str) -> list[str]:
    """Which modules of ours, and which libraries, a run of `vestry` has imported."""
    program = (
        "import sys\nfrom vestry.cli import main\nsys.argv[0] = 'vestry'\ntry:\n    main()\nfinally:\n"
        f"    print('>>', *(name for name in sys.modules if name.startswith('vestry') or name in {WATCHED}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**clean(os.environ), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.rpartition(">>")[2].split()


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["keys", "--help"], ["audit", "-h"]], ids=" ".join)
def test_help_imports_no_command(words: list[str]) -> None:
    """The program's version, its help and that of its groups come from the tables alone, without any library."""
    assert set(ask(*words)) == {
        *("vestry", "vestry.cli", "vestry.commands"),
        *("vestry.commands.groups", "vestry.commands.late"),
    }


def test_completing_names_of_commands_imports_none() -> None:
    """A shell that asks for the commands of a group is answered at once: it asks with every press of a key."""
    found = ask(_VESTRY_COMPLETE="bash_complete", COMP_WORDS="vestry audit ver", COMP_CWORD="2")
    assert "vestry.commands.groups" in found
    assert set(found) & {"vestry.settings.tree", "vestry.commands.audit", *LIBRARIES} == set()


def test_a_command_imports_no_other() -> None:
    """Of the groups' commands only the one that is called is imported."""
    found = ask("audit", "verify", "--help")
    assert "vestry.commands.audit.verify" in found
    assert (
        set(found) & {"vestry.commands.audit.show", "vestry.commands.check", "vestry.settings.tree", "pydantic"}
        == set()
    )


@pytest.mark.parametrize(
    "words", ["check", "check --schema", "audit init", "audit public-key", "engine --list", "keys list", "tenants list"]
)
def test_what_opens_no_directory_imports_no_database(words: str, cli: Cli) -> None:
    """Without a directory to open nothing of it is imported; nor, ever, what only a server or an issuer needs."""
    cli.ok("audit", "init")
    assert set(ask(*words.split(), **cli.variables)) & (OF_SERVERS | OF_DIRECTORIES | OF_TOKENS) == set()


def test_a_directory_that_is_there_needs_no_migration(cli: Cli) -> None:
    """A command on SQLite imports SQLAlchemy and its own driver: not Alembic, not the driver of PostgreSQL."""
    cli.ok("audit", "init")
    cli.ok("keys", "create", "--owner", "a")
    for words in ("keys list", "keys create --owner b"):
        found = set(ask(*words.split(), **cli.variables))
        assert found & (OF_SERVERS | OF_DIRECTORIES | OF_TOKENS) == {"sqlalchemy", "aiosqlite"}


def test_the_schemas_are_those_of_the_migrations() -> None:
    """What is known without Alembic of the schemas is what Alembic finds among the migrations."""
    found = ScriptDirectory(str(FOLDER), version_locations=[str(FOLDER / "versions")]).walk_revisions()
    assert [each.revision for each in found] == [*reversed(REVISIONS)]


@pytest.mark.parametrize("path", GROUPS)
def test_tables_say_what_the_commands_say(path: str) -> None:
    """What a group's table says of a command, in its help and to the shell, is what the command says of itself."""
    group = GROUPS[path]
    assert isinstance(group, LateGroup)
    context = click.Context(group)
    for name in group.list_commands(context):
        command, outline = group.get_command(context, name), group.commands[name]
        assert command is not None
        assert (command.name, command.short_help, command.hidden) == (name, outline.short_help, False)


@pytest.mark.parametrize("path", GROUPS)
def test_the_shell_completes_commands_and_options(path: str) -> None:
    """All names of a group's commands are offered, with their short helps; so are its options."""
    words, group = path.split()[1:], GROUPS[path]
    shell = ShellComplete(main, {}, "vestry", "_VESTRY_COMPLETE")
    offered = {item.value: item.help for item in shell.get_completions(words, "")}
    assert offered == {name: outline.get_short_help_str() for name, outline in group.commands.items()}
    assert "--help" in {item.value for item in shell.get_completions(words, "--")}


def test_a_misspelt_command_is_told_of_its_neighbour() -> None:
    """Names that are not imported are still known."""
    done = CliRunner().invoke(main, ["audit", "verfy"])
    assert (done.exit_code, "Did you mean 'verify'" in done.stderr) == (2, True), done.stderr
