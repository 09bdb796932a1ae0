"""The command line. It only translates: options to arguments, results to tables, errors to text.

Each command has a module of its own; what they share is in ``options`` (what goes in) and
``terminal`` (what comes out).
"""

from __future__ import annotations

import click

from graph_init.cli import process
from graph_init.cli.apply import apply
from graph_init.cli.artifacts import artifacts
from graph_init.cli.check import check
from graph_init.cli.compare import compare
from graph_init.cli.completion import completion
from graph_init.cli.doctor import doctor
from graph_init.cli.initialize import initialize
from graph_init.cli.inspect import inspect
from graph_init.cli.measure import measure
from graph_init.cli.zoo import zoo
from graph_init.version import __version__

#: In the order in which ``--help`` lists them.
_COMMANDS = (
    inspect,
    measure,
    check,
    initialize,
    compare,
    zoo,
    artifacts,
    apply,
    doctor,
    completion,
)


class _InOrder(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="graph-init")
def cli() -> None:
    """Finds the scales of initial weights for any ONNX model."""


for _command in _COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Entry point of ``graph-init``."""
    process.prepare()
    try:
        cli(prog_name="graph-init")
    finally:
        process.finish()
