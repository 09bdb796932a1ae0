"""``graph-init measure``."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import FILE, declared, measuring
from graph_init.cli.terminal import examples, isolated, loss_line, out, print_json, shown, warn
from graph_init.deviation.result import FIGURES, finite
from graph_init.options import GradientOptions


@click.command(
    short_help="Measure the gradient deviation of MODEL.",
    epilog=examples(
        "graph-init measure model.onnx",
        "graph-init measure model.onnx --data batch.npz --scale-gradient",
        "graph-init measure model.onnx --dim sequence=64 --micro-batch 4",
    ),
)
@click.argument("model", type=FILE)
@measuring
@declared(GradientOptions)
@isolated
def measure(model: str, as_json: bool, **options: Any) -> None:
    """Gradient deviation of MODEL as it is."""
    import graph_init

    found = graph_init.measure(model, **options)
    warn([*found.notes, *found.warnings])
    if as_json:
        return print_json(found.to_json())
    table = Table("", "value")
    for key, title in FIGURES.items():
        table.add_row(title, shown(finite(getattr(found, key)), ".6g"))
    table.add_row("elements", f"{found.elements:,}")
    table.add_row("loss function", found.loss_kind)
    out.print(table)
    out.print(loss_line(found.loss_kind, found.loss_reason))
    slopes = options["scale_gradient"]
    rows = Table("parameter", "kind", "norm", "deviation", *(["d GD / d log s"] if slopes else []))
    for row in found.parameters:
        cells: list[Text | str] = [Text(row.name), row.kind, f"{row.norm:.4g}"]
        cells.append(f"{row.gradient_deviation:.4g}")
        if slopes:
            slope = row.log_scale_gradient
            cells.append("" if slope is None else f"{slope:+.4g}")
        rows.add_row(*cells)
    out.print(rows)
