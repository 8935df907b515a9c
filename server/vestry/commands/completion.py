"""`vestry completion`: the shell completes commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print a script with which the shell completes `vestry`.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options and names.

    Names of tenants, projects, users, models and keys come from the settings and, where the store is a file on this
    machine, from there; nothing is waited for.

    \b
    Examples:
      eval "$(vestry completion bash)"                                         # in ~/.bashrc
      eval "$(vestry completion zsh)"                                          # in ~/.zshrc
      vestry completion fish > ~/.config/fish/completions/vestry.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"There is no completion for {shell}.")
    made = kind(context.find_root().command, {}, "vestry", "_VESTRY_COMPLETE")
    click.echo(ShellComplete.source(made))
