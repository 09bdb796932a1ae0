"""``graph-init apply``."""

from __future__ import annotations

import click
from rich.text import Text

from graph_init.cli.options import json_option
from graph_init.cli.terminal import guarded, out, print_json


@click.command()
@click.argument("scales")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="The file to write.")
@json_option
@guarded
def apply(scales: str, model: str, output: str, as_json: bool) -> None:
    """Apply the saved SCALES file to MODEL."""
    import graph_init

    result = graph_init.apply(scales, model)
    result.save(output)
    if as_json:
        return print_json({"output": output, **result.to_json()})
    out.print(Text(f"{len(result.scales)} tensors scaled → {output}"))
