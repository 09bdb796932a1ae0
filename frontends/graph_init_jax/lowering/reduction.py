"""Sums, extremes and scans along axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Value
from graph_init_jax.lowering.registry import Result, rule

_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_and": "ReduceMin",
    "reduce_or": "ReduceMax",
}


@rule(*_REDUCTIONS, broadcasting=False)
def reduce(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    value, kind = inputs[0], np.dtype(out.dtype)
    axes = tuple(int(axis) for axis in params["axes"])
    if not axes:
        return value
    if kind.kind == "b":
        value = g.cast(value, np.int32)
    operands: list[Value | np.ndarray] = [value, np.array(axes, np.int64)]
    op = _REDUCTIONS[out.primitive]
    made = g.add(op, operands, out.shape, value.dtype, keepdims=0)
    g.axes[made.name] = axes
    return g.cast(made, kind)


@rule("argmax", "argmin", broadcasting=False)
def arg(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    (axis,) = params["axes"]
    op = "ArgMax" if out.primitive == "argmax" else "ArgMin"
    made = g.add(op, [inputs[0]], out.shape, np.int64, axis=int(axis), keepdims=0)
    return g.cast(made, out.dtype)


@rule("cumsum", broadcasting=False)
def cumsum(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    axis = np.array(params["axis"], np.int64)
    reverse = int(params["reverse"])
    return g.add("CumSum", [inputs[0], axis], out.shape, out.dtype, reverse=reverse)
