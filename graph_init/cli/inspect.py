"""``graph-init inspect``."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import FILE, choose_parameters, json_option
from graph_init.cli.terminal import examples, guarded, out, print_json


@click.command(
    short_help="List the tensors of MODEL, and which of them scale.",
    epilog=examples(
        "graph-init inspect model.onnx",
        'graph-init inspect model.onnx --freeze "embed.*" --json',
    ),
)
@click.argument("model", type=FILE)
@choose_parameters
@json_option
@guarded
def inspect(model: str, trainable: tuple[str, ...], freeze: tuple[str, ...], as_json: bool) -> None:
    """List every initializer of MODEL: its kind, whether it scales, and why."""
    import graph_init

    found = graph_init.inspect(model, trainable=trainable, freeze=freeze)
    if as_json:
        return print_json(found.to_json())
    table = Table("name", "kind", "shape", "trainable", "scalable", "why")
    for p in found.parameters:
        table.add_row(
            Text(p.name),
            p.kind,
            "×".join(map(str, p.shape)) or "scalar",
            "yes" if p.trainable else "",
            "yes" if p.scalable else "",
            Text(p.reason),
        )
    out.print(table)
