"""Exporting, measuring and checking one architecture of :mod:`tests.architectures`."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import graph_init
from graph_init.errors import GraphInitError
from tests.architectures import Architecture
from tests.torch_oracle import deviation

#: Triple backprop in float64 of more parameters than this takes too long here.
ORACLE_LIMIT = 150_000


@dataclass(frozen=True)
class Result:
    """``status`` is ``measured``, ``refused`` (``why`` says more) or ``not exported``."""

    architecture: Architecture
    status: str
    why: str = ""
    deviation: float = float("nan")
    elements: int = 0
    nodes: int = 0
    seconds: float = 0.0
    #: |GD − oracle's| / oracle's; None (and ``why``) where the oracle could not be asked
    error: float | None = None


def evaluate(architecture: Architecture, folder: Path) -> Result:
    """Export with PyTorch's exporter, measure, and compare with triple backprop if small."""
    path = folder / "model.onnx"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, inputs = architecture.build()
            nodes = _export(model, inputs, path)
    except Exception as error:  # PyTorch's exporter raises what it likes
        return Result(architecture, "not exported", f"{type(error).__name__}")
    finally:
        logging.disable(logging.NOTSET)
    with torch.no_grad():
        output = model(**inputs)
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    arrays = {n: v.numpy() for n, v in inputs.items()} | {"target": target.numpy()}
    start = time.perf_counter()
    try:
        known = {i.name for i in graph_init.model.load(path).proto.graph.input} | {"target"}
        found = graph_init.measure(
            path, data={n: a for n, a in arrays.items() if n in known}, loss="mse"
        )
    except GraphInitError as error:
        return Result(architecture, "refused", str(error), nodes=nodes)
    seconds = time.perf_counter() - start
    error, why = _against_oracle(model, inputs, target, found)
    return Result(
        architecture=architecture,
        status="measured",
        why=why,
        deviation=found.gradient_deviation,
        elements=found.elements,
        nodes=nodes,
        seconds=seconds,
        error=error,
    )


def _export(model: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> int:
    program = torch.onnx.export(
        model, (), kwargs=inputs, dynamo=True, optimize=False, verbose=False
    )
    assert program is not None
    program.save(str(path))
    return len(program.model_proto.graph.node)


def _against_oracle(
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    target: torch.Tensor,
    found: graph_init.Measurement,
) -> tuple[float | None, str]:
    if found.elements > ORACLE_LIMIT:
        return None, "too large for the oracle"
    double = model.double().requires_grad_()  # some fixed tables are declared as parameters
    every = dict(double.named_parameters(remove_duplicate=False))
    names = [r.name for r in found.parameters]
    missing = [n for n in names if n not in every]
    if missing:
        return None, f"the exporter made '{missing[0]}' of other parameters"
    batch = {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}

    def loss() -> torch.Tensor:
        return torch.nn.functional.mse_loss(double(**batch), target.double())

    try:
        oracle = deviation(loss, {n: every[n] for n in names})
    except (RuntimeError, NotImplementedError) as error:
        return None, f"PyTorch: {str(error).splitlines()[0][:80]}"
    if not np.isfinite(oracle.gradient_deviation):
        return None, "the oracle is not finite"
    return abs(found.gradient_deviation / oracle.gradient_deviation - 1), ""
