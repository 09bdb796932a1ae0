"""``graph-init inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import FILE, choose_parameters, declared, json_option
from graph_init.cli.terminal import examples, isolated, out, print_json
from graph_init.options import ProblemOptions

if TYPE_CHECKING:
    from graph_init.sizes import Signature


@click.command(
    short_help="List the tensors of MODEL, and which of them scale.",
    epilog=examples(
        "graph-init inspect model.onnx",
        'graph-init inspect model.onnx --freeze "embed.*" --json',
    ),
)
@click.argument("model", type=FILE)
@declared(ProblemOptions, only=("dims", "input"))
@choose_parameters
@json_option
@isolated
def inspect(model: str, as_json: bool, **options: Any) -> None:
    """List the inputs of MODEL with their sizes, and every initializer: its kind, and why."""
    import graph_init

    found = graph_init.inspect(model, **options)
    if as_json:
        return print_json(found.to_json())
    if found.signature is not None:
        out.print(_inputs(found.signature))
    for note in found.notes:
        out.print(Text(note))
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


def _inputs(signature: Signature) -> Table:
    """What the model is fed with, and why."""
    table = Table("input", "type", "declared", "taken", "why")
    for entry in signature.inputs():
        solved = dict.fromkeys(
            reason
            for size, reason in zip(entry["declared"], entry["reasons"], strict=True)
            if not isinstance(size, int)
        )
        value = entry["value_reason"]
        taken = "×".join(map(str, entry["shape"])) or "scalar"
        if value is not None:
            taken = f"{_plain(entry['value'])} ({taken})"
        table.add_row(
            Text(entry["name"]),
            entry["dtype"],
            Text("×".join("?" if d is None else str(d) for d in entry["declared"]) or "scalar"),
            Text(taken),
            Text("; ".join([*([value] if value else []), *solved])),
        )
    return table


def _plain(value: Any) -> Any:
    """The number of which all elements of an input are."""
    while isinstance(value, list):
        value = value[0]
    return value
