"""`sparsing completion`: completion of commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete sparsing's commands, options and studies.

    \b
    Examples:
      sparsing completion bash > ~/.local/share/bash-completion/completions/sparsing
      sparsing completion zsh > "${fpath[1]}/_sparsing"
      sparsing completion fish > ~/.config/fish/completions/sparsing.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root().command
    click.echo(made(root, {}, "sparsing", "_SPARSING_COMPLETE").source())
