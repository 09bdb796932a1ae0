"""``graph-init completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from graph_init.cli.terminal import examples

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    short_help="Print the completion script of a shell.",
    epilog=examples(
        'eval "$(graph-init completion bash)"    # in ~/.bashrc',
        'eval "$(graph-init completion zsh)"     # in ~/.zshrc',
        "graph-init completion fish > ~/.config/fish/completions/graph-init.fish",
    ),
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options and files."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root().command
    click.echo(kind(root, {}, "graph-init", "_GRAPH_INIT_COMPLETE").source())
