"""``graph-init apply``."""

from __future__ import annotations

import click
from rich.text import Text

from graph_init.cli.options import FILE, declared, json_option
from graph_init.cli.terminal import examples, isolated, out, print_json, warn
from graph_init.errors import UsageError
from graph_init.options import WritingOptions
from graph_init.output import targets


@click.command(
    short_help="Multiply the tensors of MODEL by saved SCALES.",
    epilog=examples(
        "graph-init apply scales.json model.onnx -o init.onnx",
    ),
)
@click.argument("scales", type=FILE)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="The file to write.")
@declared(WritingOptions)
@json_option
@isolated
def apply(scales: str, model: str, output: str, as_json: bool, free_batch: bool) -> None:
    """Apply the saved SCALES file to MODEL."""
    import graph_init

    targets.file(output)
    if targets.same(output, scales):
        raise UsageError(f"-o {output} is the scales file; give another name")
    result = graph_init.apply(scales, model, free_batch=free_batch)
    result.save(output)
    warn(result.notes)
    if as_json:
        return print_json({"output": output, **result.to_json()})
    out.print(Text(f"{len(result.scales)} tensors scaled → {output}"))
