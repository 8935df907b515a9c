"""Commands are imported when they are called: what the program says of itself needs none of them."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from support.cli import clean, every_command
from vestry.cli import main
from vestry.commands.late import LateGroup

GROUPS = {path: command for path, command in every_command() if isinstance(command, click.Group)}
LIBRARIES = ("pydantic", "msgspec", "sqlalchemy", "cryptography", "yaml", "fastapi", "asyncio")


def ask(*words: str, **variables: str) -> list[str]:
    """Which modules of ours, and which libraries, a run of `vestry` has imported."""
    program = (
        "import sys\nfrom vestry.cli import main\nsys.argv[0] = 'vestry'\ntry:\n    main()\nfinally:\n"
        f"    print('>>', *(name for name in sys.modules if name.startswith('vestry') or name in {LIBRARIES}))\n"
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
    assert set(found) & {"vestry.settings", "vestry.commands.audit", *LIBRARIES} == set()


def test_a_command_imports_no_other() -> None:
    """Of the groups' commands only the one that is called is imported."""
    found = ask("audit", "verify", "--help")
    assert "vestry.commands.audit.verify" in found
    assert set(found) & {"vestry.commands.audit.show", "vestry.commands.check", "vestry.settings", "pydantic"} == set()


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
