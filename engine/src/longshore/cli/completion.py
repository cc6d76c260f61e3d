"""`longshore completion SHELL`: what a shell needs to complete our commands, flags and names."""

from __future__ import annotations

import click

from longshore.cli.flags import command, one, words

SHELLS = ("bash", "fish", "zsh")
VARIABLE = "_LONGSHORE_COMPLETE"


@command("completion")
@one("shell", "SHELL", complete=words(*SHELLS))
def completion_command(shell: str) -> None:
    """Print the completion script for bash, fish or zsh; the shell sources it.

    \b
    bash:  source <(longshore completion bash)                            in ~/.bashrc
    zsh:   source <(longshore completion zsh)                             in ~/.zshrc
    fish:  longshore completion fish > ~/.config/fish/completions/longshore.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell) if shell in SHELLS else None
    if found is None:
        raise click.UsageError(f"there is no completion for {shell!r}; there is for {', '.join(SHELLS)}")
    root = click.get_current_context().find_root()
    complete = found(root.command, {}, "longshore", VARIABLE)
    click.echo(complete.source_template % complete.source_vars())
