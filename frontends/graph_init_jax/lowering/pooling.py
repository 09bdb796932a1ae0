"""Windows that slide over some of the axes: max and average pools."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Value
from graph_init_jax.lowering.registry import Result, rule


@rule("reduce_window_max", "reduce_window_sum", "reduce_window_min", broadcasting=False)
def window(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    """The axes that the window moves along go last, as ONNX has them; all others are batches."""
    value = inputs[0]
    sizes = [int(n) for n in params["window_dimensions"]]
    strides = [int(n) for n in params["window_strides"]]
    dilations = [int(n) for n in params["window_dilation"]]
    edges = [(int(low), int(high)) for low, high in params["padding"]]
    if any(n != 1 for n in params["base_dilation"]):
        raise out.refused("with base_dilation")
    ranks = range(len(sizes))
    moving = [k for k in ranks if sizes[k] != 1 or strides[k] != 1 or edges[k] != (0, 0)]
    if not moving:
        return value
    fixed = [k for k in ranks if k not in moving]
    order = [*fixed, *moving]
    turned = g.transpose(value, order)
    space = turned.shape[len(fixed) :]
    flat = g.reshape(turned, (1, math.prod(turned.shape[: len(fixed)]), *space))
    ends = [out.shape[k] for k in moving]
    attributes = {
        "kernel_shape": [sizes[k] for k in moving],
        "strides": [strides[k] for k in moving],
        "pads": [edges[k][0] for k in moving] + [edges[k][1] for k in moving],
    }
    if any(dilations[k] != 1 for k in moving):
        attributes["dilations"] = [dilations[k] for k in moving]
    shape = (*flat.shape[:2], *ends)
    if out.primitive == "reduce_window_sum":
        mean = g.add("AveragePool", [flat], shape, out.dtype, count_include_pad=1, **attributes)
        count = np.array(math.prod(attributes["kernel_shape"]), np.dtype(out.dtype))
        pooled = g.add("Mul", [mean, count], shape, out.dtype)
    elif out.primitive == "reduce_window_max":
        pooled = g.add("MaxPool", [flat], shape, out.dtype, **attributes)
    else:
        negative = g.add("Neg", [flat], flat.shape, out.dtype)
        largest = g.add("MaxPool", [negative], shape, out.dtype, **attributes)
        pooled = g.add("Neg", [largest], shape, out.dtype)
    apart = g.reshape(pooled, (*turned.shape[: len(fixed)], *ends))
    return g.transpose(apart, np.argsort(order))
