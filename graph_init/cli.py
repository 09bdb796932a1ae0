"""The command line. It only translates: options to arguments, results to tables, errors to text."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from graph_init.errors import GraphInitError, UsageError
from graph_init.version import __version__

if TYPE_CHECKING:
    from graph_init import Comparison

#: That of ``graph_init.tuners``, which is not imported before a command runs.
DEFAULT_TUNER = "signal"

_out = Console()
_err = Console(stderr=True)


def _dims(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, int]:
    sizes = {}
    for item in given:
        name, _, size = item.partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"'{item}' is not NAME=SIZE with a positive size")
        sizes[name] = int(size)
    return sizes


def _gain(context: click.Context, option: click.Parameter, given: str | None) -> float | str | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


def _stack(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    def apply_all(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply_all


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)
_choose_parameters = _stack(
    click.option(
        "--trainable", multiple=True, metavar="REGEX", help="Take these tensors for parameters."
    ),
    click.option(
        "--freeze", multiple=True, metavar="REGEX", help="Do not take these for parameters."
    ),
)
_data_option = click.option(
    "--data",
    metavar="FILE.npz",
    help=(
        "Real data: arrays by input name, and 'target' ('target:OUTPUT' for one of several); or a "
        "folder of .npy files. Without it: random batches."
    ),
)
_posing = _stack(
    click.option("--batch-size", type=int, metavar="N", help="Rows of a batch [16]."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option(
        "--loss",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cross-entropy", "binary-cross-entropy", "mse"]),
    ),
    click.option(
        "--output-name",
        metavar="NAME",
        multiple=True,
        help="The output that the loss reads; several: the sum of their losses.",
    ),
    click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_dims,
        help="Size of a symbolic dimension [batch 16, others 32].",
    ),
    _choose_parameters,
)
_method_option = click.option(
    "--method",
    default="taylor",
    show_default=True,
    type=click.Choice(["taylor", "finite-difference"]),
    help="Exact, or from first-order gradients alone.",
)


def _batch_norm_option(default: str) -> Callable[..., Any]:
    return click.option(
        "--batch-norm",
        type=click.Choice(["eval", "train"]),
        default=default,
        show_default=True,
        help="Running statistics, or the batch's own.",
    )


_measuring = _stack(
    _data_option,
    _posing,
    _batch_norm_option("eval"),
    _method_option,
    click.option(
        "--difference-step",
        type=float,
        metavar="H",
        help="Step along the gradient for finite differences [0.0001·‖θ‖/‖g‖].",
    ),
    click.option(
        "--micro-batch",
        type=int,
        metavar="N",
        help="Rows computed at a time: less memory, more time, the same result.",
    ),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Refuse what needs more than this, such as 8GB [what is available].",
    ),
    _json_option,
)


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line and the exit status of its class."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            _err.print("interrupted")
            sys.exit(1)
        except Exception as error:
            if os.environ.get("GRAPH_INIT_DEBUG"):
                traceback.print_exc()
            known = isinstance(error, GraphInitError)
            words = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            _err.print(Text(f"error: {words}"), soft_wrap=True)
            sys.exit(error.exit_status if isinstance(error, GraphInitError) else 1)

    return run


def _print_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="graph-init")
def cli() -> None:
    """Finds the scales of initial weights for any ONNX model."""


@cli.command()
@click.argument("model")
@_choose_parameters
@_json_option
@_guarded
def inspect(model: str, trainable: tuple[str, ...], freeze: tuple[str, ...], as_json: bool) -> None:
    """List every initializer of MODEL: its kind, whether it scales, and why."""
    import graph_init

    found = graph_init.inspect(model, trainable=trainable, freeze=freeze)
    if as_json:
        return _print_json(found.to_json())
    table = Table("name", "kind", "shape", "trainable", "scalable", "why")
    for p in found.parameters:
        table.add_row(
            Text(p.name), p.kind, "×".join(map(str, p.shape)) or "scalar",
            "yes" if p.trainable else "", "yes" if p.scalable else "", Text(p.reason),
        )  # fmt: skip
    _out.print(table)


_FIGURES = (
    ("gradient deviation", "gradient_deviation"),
    ("loss", "loss"),
    ("gradient norm", "gradient_norm"),
    ("vanished fraction", "vanished_fraction"),
    ("output's standard deviation", "output_std"),
)


@cli.command()
@click.argument("model")
@_measuring
@click.option("--scale-gradient", is_flag=True, help="Add the derivative in every log-scale.")
@_guarded
def measure(model: str, as_json: bool, **options: Any) -> None:
    """Gradient deviation of MODEL as it is."""
    import graph_init

    found = graph_init.measure(model, **options)
    _warn(found.warnings)
    if as_json:
        return _print_json(found.to_json())
    table = Table("", "value")
    for title, key in _FIGURES:
        table.add_row(title, f"{getattr(found, key):.6g}")
    table.add_row("elements", f"{found.elements:,}")
    table.add_row("loss function", found.loss_kind)
    _out.print(table)
    slopes = options["scale_gradient"]
    rows = Table("parameter", "kind", "norm", "deviation", *(["d GD / d log s"] if slopes else []))
    for row in found.parameters:
        cells = [Text(row["name"]), row["kind"], f"{row['norm']:.4g}"]
        cells.append(f"{row['gradient_deviation']:.4g}")
        if slopes:
            slope = row.get("log_scale_gradient")
            cells.append("" if slope is None else f"{slope:+.4g}")
        rows.add_row(*cells)
    _out.print(rows)


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        _err.print(Text(f"warning: {sentence}"), soft_wrap=True)


def _shown(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)


def _require_folder(path: str | None) -> None:
    """UsageError unless ``path`` is a folder, or can become one."""
    if path is None:
        return
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"the folder of '{path}' does not exist")
    if Path(path).exists() and not Path(path).is_dir():
        raise UsageError(f"'{path}' is a file; -o names a folder here")


def _comparison_table(found: Comparison, optimizer: str) -> Table:
    table = Table(
        "state", "GD", "vanished", "rate", "loss", "held out", "accuracy", "trained",
        title=f"after {found.settings['updates']} updates with {optimizer}",
    )  # fmt: skip
    for row in found.summary:
        if row.optimizer == optimizer:
            cells = (row.gradient_deviation, row.vanished_fraction, row.learning_rate)
            table.add_row(
                row.state, *("–" if c is None else f"{c:.3g}" for c in cells),
                f"{row.final_loss:.3g}", f"{row.held_out_loss:.3g}",
                "–" if row.accuracy is None else f"{row.accuracy:.1%}", f"{row.trained:.0%}",
            )  # fmt: skip
    return table


@cli.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="The file to write.")
@_measuring
@click.option(
    "--scheme",
    default="keep",
    show_default=True,
    help=(
        "Weights before tuning: keep, he, he-uniform, xavier, xavier-uniform, lecun, "
        "lecun-uniform, orthogonal, delta-orthogonal, lsuv, truncated-normal."
    ),
)
@click.option(
    "--gain",
    metavar="FACTOR",
    callback=_gain,
    help="Factor on the scheme's weights, or 'activation': by what follows each layer.",
)
@click.option("--std", type=float, help="Standard deviation of truncated-normal [0.02].")
@click.option("--steps", type=int, help="Updates of a trial [signal: 30], or steps [sign: 500].")
@click.option(
    "--optimizer",
    default=DEFAULT_TUNER,
    show_default=True,
    help="signal: restore the signal, and try what trains best; sign: the published one.",
)
@click.option("--save-scales", metavar="FILE.json", help="Also write the factors.")
@_guarded
def initialize(
    model: str, output: str, as_json: bool, save_scales: str | None, **options: Any
) -> None:
    """Tune the scales of MODEL and write OUT."""
    import graph_init
    from graph_init import tuners

    for path in filter(None, (output, save_scales)):
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f"the folder of '{path}' does not exist")
    with Progress(
        TextColumn("tuning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("GD {task.fields[gd]} · vanished {task.fields[vanished]}"),
        TimeRemainingColumn(),
        console=_err,
        disable=not _err.is_terminal,
        transient=True,
    ) as progress:
        steps, kind = options["steps"], tuners.kind(options["optimizer"])
        total = None if kind.tries else kind.steps if steps is None else steps
        task = progress.add_task("tuning", total=total, gd="…", vanished="…")

        def show(entry: dict[str, Any]) -> None:
            progress.update(
                task,
                advance=1,
                gd=_shown(entry["gradient_deviation"], ".4g"),
                vanished=_shown(entry["vanished_fraction"], ".0%"),
            )

        result = graph_init.initialize(model, on_step=show, **options)
    result.save(output)
    if save_scales:
        result.save_scales(save_scales)
    if result.interrupted:
        _err.print(f"interrupted after {result.steps} steps; the best scales so far were written")
    _warn(f"after tuning, {sentence}" for sentence in result.after.warnings)
    if as_json:
        return _print_json(result.to_json())
    table = Table("", "before", "after")
    for title, key in _FIGURES:
        values = (getattr(m, key) for m in (result.before, result.after))
        table.add_row(title, *(f"{v:.6g}" for v in values))
    _out.print(table)
    _out.print(
        Text(
            f"{result.steps} steps, {len(result.scales)} scales, {result.seconds:.1f} s → {output}"
        )
    )


@cli.command()
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="TRAIN.npz",
    help="Rows to train on: arrays by input name, and 'target'; or a folder of .npy files.",
)
@click.option("--test", metavar="TEST.npz", help="Rows to score on [a share of the training data].")
@click.option("-o", "--output", metavar="DIR", help="Write comparison.json and pictures there.")
@_posing
@_batch_norm_option("train")
@_method_option
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help="Initial states [keep, he, xavier, orthogonal, lsuv].",
)
@click.option("--tune/--no-tune", default=True, show_default=True, help="Each state tuned, too.")
@click.option("--tune-on-data", "on_data", is_flag=True, help="Tune and LSUV on the data.")
@click.option("--steps", type=int, help="Steps of tuning [signal: 30, sign: 100].")
@click.option(
    "--optimizer", "tuner", default=DEFAULT_TUNER, show_default=True, help="That of tuning."
)
@click.option("--seeds", type=int, default=3, show_default=True)
@click.option("--train-with", "optimizers", multiple=True, help="Of training [sgd, adam].")
@click.option(
    "--learning-rate",
    "learning_rates",
    type=float,
    multiple=True,
    help="The grid [sgd: 0.003, 0.01, 0.03, 0.1, 0.3; adam: a tenth].",
)
@click.option("--updates", type=int, default=300, show_default=True, help="Updates of a run.")
@click.option("--held-out", type=float, default=0.2, show_default=True, help="Share to score on.")
@click.option("--workers", type=int, help="Runs at a time [as many as cores].")
@_json_option
@_guarded
def compare(model: str, data: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Train MODEL for a short while from several initial states, and compare."""
    import graph_init

    _require_folder(output)
    planned = {f.name: options.pop(f.name) for f in fields(graph_init.Plan) if f.name in options}
    planned = {k: v for k, v in planned.items() if v != ()}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_err,
        disable=not _err.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("comparing", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        plan = graph_init.Plan(**planned)
        found = graph_init.compare(model, data, plan=plan, on_progress=show, **options)
    if output:
        found.save(output)
    _warn(found.warnings)
    if as_json:
        return _print_json(found.to_json())
    for optimizer in found.settings["optimizers"]:
        _out.print(_comparison_table(found, optimizer))
    for state in found.states:
        if state.problem:
            _out.print(Text(f"{state.name}, seed {state.seed}: {state.problem}"))
    if output:
        _out.print(Text(f"{len(found.runs)} runs → {output}"))


@cli.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder to write.")
@_posing
@_batch_norm_option("eval")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True
)
@click.option("--scheme", default="keep", show_default=True, help="Weights to start with.")
@_guarded
def artifacts(model: str, output: str, **options: Any) -> None:
    """Write the files with which ONNX Runtime trains MODEL."""
    import graph_init

    _require_folder(output)
    graph_init.write_artifacts(model, output, **options)
    _out.print(Text(f"training artifacts → {output}"))


@cli.command()
@click.argument("scales")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="The file to write.")
@_json_option
@_guarded
def apply(scales: str, model: str, output: str, as_json: bool) -> None:
    """Apply the saved SCALES file to MODEL."""
    import graph_init

    result = graph_init.apply(scales, model)
    result.save(output)
    if as_json:
        return _print_json({"output": output, **result.to_json()})
    _out.print(Text(f"{len(result.scales)} tensors scaled → {output}"))


@cli.command()
@_json_option
@_guarded
def doctor(as_json: bool) -> None:
    """Say whether this installation can work, and what to run if not."""
    from graph_init.doctor import check

    findings = check()
    healthy = all(f.ok for f in findings)
    if as_json:
        _print_json({"ok": healthy, "findings": [f.to_json() for f in findings]})
    else:
        table = Table("", "", "found", "run this")
        for f in findings:
            table.add_row("ok" if f.ok else "bad", f.name, Text(f.detail), Text(f.remedy))
        _out.print(table)
    if not healthy:
        sys.exit(1)


def main() -> None:
    """Entry point of ``graph-init``."""
    cli(prog_name="graph-init")
