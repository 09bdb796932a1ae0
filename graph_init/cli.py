"""The command line. It only translates: options to arguments, results to tables, errors to text."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from graph_init.errors import GraphInitError, UsageError
from graph_init.version import __version__

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
_measuring = _stack(
    click.option(
        "--data",
        metavar="FILE.npz",
        help="Real data: arrays by input name, and 'target'. Without it: random batches.",
    ),
    click.option("--batch-size", type=int, metavar="N", help="Rows of a batch [16]."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option(
        "--loss",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cross-entropy", "binary-cross-entropy", "mse"]),
    ),
    click.option("--output-name", metavar="NAME", help="The output that the loss reads."),
    click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_dims,
        help="Size of a symbolic dimension [batch 16, others 32].",
    ),
    _choose_parameters,
    click.option(
        "--batch-norm",
        type=click.Choice(["eval", "train"]),
        default="eval",
        show_default=True,
        help="Running statistics, or the batch's own.",
    ),
    click.option(
        "--method",
        default="taylor",
        show_default=True,
        type=click.Choice(["taylor", "finite-difference"]),
        help="Exact, or from first-order gradients alone.",
    ),
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


@cli.command()
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", help="The file to write.")
@_measuring
@click.option(
    "--scheme", default="keep", show_default=True, help="Weights before tuning: keep, he, xavier."
)
@click.option("--steps", type=int, default=500, show_default=True)
@click.option("--optimizer", default="sign", show_default=True)
@click.option("--save-scales", metavar="FILE.json", help="Also write the factors.")
@_guarded
def initialize(
    model: str, output: str, as_json: bool, save_scales: str | None, **options: Any
) -> None:
    """Tune the scales of MODEL and write OUT."""
    import graph_init

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
        task = progress.add_task("tuning", total=options["steps"], gd="…", vanished="…")

        def show(entry: dict[str, Any]) -> None:
            progress.update(
                task,
                advance=1,
                gd=f"{entry['gradient_deviation']:.4g}",
                vanished=f"{entry['vanished_fraction']:.0%}",
            )

        result = graph_init.initialize(model, on_step=show, **options)
    result.save(output)
    if save_scales:
        result.save_scales(save_scales)
    if result.interrupted:
        _err.print(f"interrupted after {result.steps} steps; the best scales so far were written")
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
