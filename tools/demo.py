"""The demonstration of the README: initialise SqueezeNet at its own size and run what was written.

The file comes with the ``onnx`` package. Its weights are constants, so a scheme fills them first:
``truncated-normal`` with a deviation of 0.02, from which the signal dies on its way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

import graph_init

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def tried(entry: graph_init.HistoryEntry) -> str:
    """A line for a state that the tuner has tried."""
    loss = entry.trial_loss
    if loss is None:
        end = "finite at no learning rate"
    elif loss < 1e-6:
        end = "with its one random row learnt"
    else:
        end = f"with a loss of {loss:.3g}"
    return f"  {entry.state}: its trial ends {end}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="light_squeezenet.onnx", help="a file of the light zoo")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    target = arguments.out / arguments.model
    console = Console()
    console.print(f"initialising {arguments.model} …")
    result = graph_init.initialize(
        LIGHT / arguments.model,
        scheme="truncated-normal",
        on_step=lambda e: console.print(tried(e)),
    )
    result.save(target)
    table = Table("", "before", "after")
    for title, key in (
        ("gradient deviation", "gradient_deviation"),
        ("vanished fraction", "vanished_fraction"),
        ("gradient norm", "gradient_norm"),
        ("loss", "loss"),
        ("output's standard deviation", "output_std"),
    ):
        table.add_row(title, *(f"{getattr(m, key):.4g}" for m in (result.before, result.after)))
    console.print(table)
    onnxruntime.set_default_logger_severity(
        3
    )  # the file lists its weights as inputs: a warning each
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    feeds = {
        i.name: np.random.default_rng(0).standard_normal(i.shape, dtype=np.float32)
        for i in session.get_inputs()
        if i.name not in {x.name for x in onnx.load(target).graph.initializer}
    }
    (output, *_) = session.run(None, feeds)
    console.print(
        f"{target}: runs in ONNX Runtime, output {output.shape}, "
        f"finite: {np.isfinite(output).all()} — {result.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
