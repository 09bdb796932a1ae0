"""``graph-init initialize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import FILE, measuring, report_option, starting
from graph_init.cli.terminal import (
    Forecast,
    err,
    examples,
    isolated,
    loss_line,
    out,
    print_json,
    progress,
    shown,
    warn,
)
from graph_init.deviation.result import FIGURES, finite
from graph_init.options import tuner, tuner_settings
from graph_init.output import targets

if TYPE_CHECKING:
    from graph_init import HistoryEntry


@click.command(
    short_help="Find the scales of MODEL, and write OUT.",
    epilog=examples(
        "graph-init initialize model.onnx -o init.onnx",
        "graph-init initialize model.onnx -o init.onnx --scheme he",
        "graph-init initialize model.onnx -o init.onnx --save-scales scales.json",
        "graph-init initialize model.onnx -o init.onnx --report report.html",
        "graph-init initialize model.onnx -o lsuv.onnx --scheme lsuv --updates 0",
    ),
)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="The file to write.")
@measuring
@starting
@click.option("--save-scales", type=FILE, metavar="FILE.json", help="Also write the factors.")
@report_option
@isolated
def initialize(
    model: str,
    output: str,
    as_json: bool,
    save_scales: str | None,
    report_file: str | None,
    **options: Any,
) -> None:
    """Tune the scales of MODEL and write OUT."""
    import graph_init
    from graph_init import report

    # Refused now, not after the work.
    for path in filter(None, (output, save_scales)):
        targets.file(path)
    if report_file:
        report.require(report_file)
    targets.require_distinct((output, save_scales, report_file))
    with progress(
        TextColumn("tuning"),
        TextColumn("GD {task.fields[gd]} · vanished {task.fields[vanished]}"),
        remaining=TextColumn("{task.fields[left]}"),
    ) as bar:
        task = bar.add_task("tuning", total=None, gd="…", vanished="…", left="")
        forecast = Forecast()
        own = {k: options.pop(k) for k in tuner_settings(options)}
        chosen = tuner(options.pop("tuner"), own)

        def move(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, left=forecast(done, total))

        def show(entry: HistoryEntry) -> None:
            bar.update(
                task,
                gd=shown(entry.gradient_deviation, ".4g"),
                vanished=shown(entry.vanished_fraction, ".0%"),
            )

        result = graph_init.initialize(
            model, tuner=chosen, on_step=show, on_progress=move, **options
        )
    result.save(output, scales=save_scales, report=report_file)
    if result.interrupted:
        err.print(
            f"interrupted after {result.steps} {chosen.entries}; the best scales so far were "
            "written"
        )
    warn(result.notes)
    warn(f"after tuning, {sentence}" for sentence in result.after.warnings)
    if as_json:
        return print_json(result.to_json())
    table = Table("", "before", "after")
    for key, title in FIGURES.items():
        values = (getattr(m, key) for m in (result.before, result.after))
        table.add_row(title, *(shown(finite(v), ".6g") for v in values))
    out.print(table)
    out.print(loss_line(result.after.loss_kind, result.after.loss_reason))
    out.print(
        Text(
            f"{result.steps} {chosen.entries}, {len(result.scales)} scales, "
            f"{result.seconds:.1f} s → {output}"
        )
    )
