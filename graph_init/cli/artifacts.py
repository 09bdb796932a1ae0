"""``graph-init artifacts``."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from graph_init.cli.options import FILE, posing, scheme_option
from graph_init.cli.terminal import examples, isolated, out
from graph_init.output import targets


@click.command(
    short_help="Write what ONNX Runtime needs to train MODEL.",
    epilog=examples(
        "graph-init artifacts model.onnx -o training",
    ),
)
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", type=FILE, required=True, metavar="DIR", help="The folder to write."
)
@posing()
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="Optimiser of training.",
)
@scheme_option
@isolated
def artifacts(model: str, output: str, **options: Any) -> None:
    """Write the files with which ONNX Runtime trains MODEL (needs the extra 'training')."""
    import graph_init

    targets.folder(output)  # refused now, not after the work
    graph_init.write_artifacts(model, output, **options)
    out.print(Text(f"training artifacts → {output}"))
