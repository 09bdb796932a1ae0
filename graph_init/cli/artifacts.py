"""``graph-init artifacts``."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from graph_init.cli.options import batch_norm_option, posing
from graph_init.cli.terminal import guarded, out, require_folder


@click.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@posing
@batch_norm_option("eval")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option("--scheme", default="keep", show_default=True, help="Weights to start with.")
@guarded
def artifacts(model: str, output: str, **options: Any) -> None:
    """Write the files with which ONNX Runtime trains MODEL."""
    import graph_init

    require_folder(output)
    graph_init.write_artifacts(model, output, **options)
    out.print(Text(f"training artifacts → {output}"))
