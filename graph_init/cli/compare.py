"""``graph-init compare``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import (
    FILE,
    completing,
    computing,
    json_option,
    posing,
    report_option,
    tuning,
)
from graph_init.cli.terminal import (
    examples,
    isolated,
    loss_line,
    out,
    print_json,
    progress,
    warn,
)
from graph_init.comparison.plan import BRIEF, tuned_by
from graph_init.options import SCHEMES, tuner_settings
from graph_init.output import targets

if TYPE_CHECKING:
    from graph_init import Comparison

#: ``--updates`` are those of a run.
_FLAGS = {"updates": "--trial-updates"}


def _comparison_table(found: Comparison, optimizer: str) -> Table:
    table = Table(
        "state",
        "GD",
        "vanished",
        "rate",
        "loss",
        "held out",
        "accuracy",
        "trained",
        title=f"after {found.settings['updates']} updates with {optimizer}",
    )
    for row in found.summary:
        if row.optimizer == optimizer:
            cells = (row.gradient_deviation, row.vanished_fraction, row.learning_rate)
            table.add_row(
                row.state,
                *("–" if c is None else f"{c:.3g}" for c in cells),
                f"{row.final_loss:.3g}",
                f"{row.held_out_loss:.3g}",
                "–" if row.accuracy is None else f"{row.accuracy:.1%}",
                f"{row.trained:.0%}",
            )
    return table


@click.command(
    short_help="Train MODEL from several starts, and compare.",
    epilog=examples(
        "graph-init compare model.onnx --data train.npz",
        "graph-init compare model.onnx --data train.npz --scheme keep --scheme lsuv -o found",
        "graph-init compare model.onnx --data train.npz --report comparison.html",
    ),
)
@click.argument("model", type=FILE)
@click.option(
    "--data",
    type=FILE,
    required=True,
    metavar="TRAIN.npz",
    help="Rows to train on: arrays by input name, and 'target'; or a folder of .npy files.",
)
@click.option(
    "--test", type=FILE, metavar="TEST.npz", help="Rows to score on [a share of the training data]."
)
@click.option(
    "-o", "--output", type=FILE, metavar="DIR", help="Write comparison.json and pictures there."
)
@posing(batch_norm="train")
@computing
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    shell_complete=completing(SCHEMES),
    help="Initial states [keep, he, xavier, orthogonal, lsuv].",
)
@click.option(
    "--tune/--no-tune",
    default=True,
    show_default=True,
    help="Also compare each state after tuning.",
)
@click.option(
    "--tune-on-data",
    "on_data",
    is_flag=True,
    help="Tune and run LSUV on the data, not on random batches.",
)
@tuning(flags=_FLAGS, defaults=BRIEF["metainit"])
@click.option("--seeds", type=int, default=3, show_default=True, help="Runs with different seeds.")
@click.option(
    "--train-with", "optimizers", multiple=True, help="Optimisers of training [sgd, adam]."
)
@click.option(
    "--learning-rate",
    "learning_rates",
    type=float,
    multiple=True,
    help="Learning rates to try [sgd: 0.003, 0.01, 0.03, 0.1, 0.3; adam: a tenth].",
)
@click.option("--updates", type=int, default=300, show_default=True, help="Updates of a run.")
@click.option("--held-out", type=float, default=0.2, show_default=True, help="Share to score on.")
@click.option("--workers", type=int, help="Runs at a time [as many as cores].")
@report_option
@json_option
@isolated
def compare(
    model: str,
    data: str,
    output: str | None,
    report_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL for a short while from several initial states, and compare."""
    import graph_init
    from graph_init import report

    if output:
        targets.folder(output)  # refused now, not after the work
    if report_file:
        report.require(report_file)
    trial = {"updates": options.pop("tuner_updates")}
    own = {k: options.pop(k) for k in tuner_settings(options) if k != "updates"} | trial
    options["tuner"] = tuned_by(options["tuner"], own, _FLAGS)
    planned = {f.name: options.pop(f.name) for f in fields(graph_init.Plan) if f.name in options}
    planned = {k: v for k, v in planned.items() if v != ()}
    with progress(TextColumn("{task.description}")) as bar:
        task = bar.add_task("comparing", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        plan = graph_init.Plan(**planned)
        found = graph_init.compare(model, data, plan=plan, on_progress=show, **options)
    if output:
        found.save(output)
    if report_file:
        found.save_report(report_file)
    warn(found.warnings)
    if as_json:
        return print_json(found.to_json())
    for optimizer in found.settings["optimizers"]:
        out.print(_comparison_table(found, optimizer))
    out.print(loss_line(found.settings["loss_kind"], found.settings["loss_reason"]))
    for state in found.states:
        if state.problem:
            out.print(Text(f"{state.name}, seed {state.seed}: {state.problem}"))
    if output:
        out.print(Text(f"{len(found.runs)} runs → {output}"))
