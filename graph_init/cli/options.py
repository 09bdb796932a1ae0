"""Options that several commands share, in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

#: That of ``graph_init.tuning.registry``, which is not imported before a command runs.
DEFAULT_TUNER = "signal"
TUNERS = ("signal", "sign")
#: Those of ``graph_init.init.schemes``.
SCHEMES = (
    "keep", "he", "he-uniform", "xavier", "xavier-uniform", "lecun", "lecun-uniform", "orthogonal",
    "delta-orthogonal", "lsuv", "truncated-normal",
)  # fmt: skip
#: A file or folder: the shell completes it, and the library says what is wrong with it.
FILE = click.Path()


def completing(names: Iterable[str]) -> Callable[..., list[str]]:
    """For ``shell_complete`` of an option whose values the library checks."""

    def matching(context: click.Context, option: click.Parameter, begun: str) -> list[str]:
        return [n for n in names if n.startswith(begun)]

    return matching


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


def gain(context: click.Context, option: click.Parameter, given: str | None) -> float | str | None:
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


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)
report_option = click.option(
    "--report",
    "report_file",
    type=FILE,
    metavar="FILE.html",
    help="Also write a page that shows the result (needs the extra 'report').",
)
choose_parameters = _stack(
    click.option(
        "--trainable", multiple=True, metavar="REGEX", help="Take these tensors for parameters."
    ),
    click.option(
        "--freeze", multiple=True, metavar="REGEX", help="Do not take these for parameters."
    ),
)
data_option = click.option(
    "--data",
    type=FILE,
    metavar="FILE.npz",
    help=(
        "Real data: arrays by input name, and 'target' ('target:OUTPUT' for one of several); or a "
        "folder of .npy files. Without it: random batches."
    ),
)
posing = _stack(
    click.option("--batch-size", type=int, metavar="N", help="Rows of a batch [16]."),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of everything that is drawn."
    ),
    click.option(
        "--loss",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "cross-entropy", "binary-cross-entropy", "mse"]),
        help="What is minimised; auto: chosen by what the output is.",
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
    choose_parameters,
)
method_option = click.option(
    "--method",
    default="taylor",
    show_default=True,
    type=click.Choice(["taylor", "finite-difference"]),
    help="Exact, or from first-order gradients alone.",
)


def batch_norm_option(default: str) -> Callable[..., Any]:
    return click.option(
        "--batch-norm",
        type=click.Choice(["eval", "train"]),
        default=default,
        show_default=True,
        help="Running statistics, or the batch's own.",
    )


measuring = _stack(
    data_option,
    posing,
    batch_norm_option("eval"),
    method_option,
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
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help="Where it is computed; cuda needs the [gpu] extra.",
    ),
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Refuse what needs more than this, such as 8GB [what is available].",
    ),
    click.option(
        "--engine",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "onnxruntime", "onnxruntime-training"]),
        help="Build of onnxruntime to compute for; auto: the one that is installed.",
    ),
    json_option,
)
starting = _stack(
    click.option(
        "--scheme",
        default="keep",
        show_default=True,
        shell_complete=completing(SCHEMES),
        help=f"Weights before tuning: {', '.join(SCHEMES)}.",
    ),
    click.option(
        "--gain",
        metavar="FACTOR",
        callback=gain,
        help="Factor on the scheme's weights, or 'activation': by what follows each layer.",
    ),
    click.option("--std", type=float, help="Standard deviation of truncated-normal [0.02]."),
    click.option(
        "--steps", type=int, help="Updates of a trial [signal: 30], or steps [sign: 500]."
    ),
    click.option(
        "--optimizer",
        default=DEFAULT_TUNER,
        shell_complete=completing(TUNERS),
        show_default=True,
        help="signal: restore the signal, and try what trains best; sign: the published one.",
    ),
)
