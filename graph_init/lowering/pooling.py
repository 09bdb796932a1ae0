"""Pooling."""

from __future__ import annotations

import math

import numpy as np

from graph_init.builder import Builder, Value
from graph_init.lowering.linear import window
from graph_init.lowering.registry import Call, lowers


@lowers("GlobalAveragePool")
def _global_average(b: Builder, c: Call) -> Value:
    return b.mean(c[0], list(range(2, c[0].rank)))


@lowers("GlobalMaxPool")
def _global_max(b: Builder, c: Call) -> Value:
    x = c[0]
    flat = b.reshape(x, [*x.dims[:2], -1])
    where = b.op("ArgMax", flat, axis=2, keepdims=1)
    taken = b.op("GatherElements", flat, where, axis=2)
    return b.reshape(taken, [*x.dims[:2]] + [1] * (x.rank - 2))


@lowers("MaxPool")
def _max_pool(b: Builder, c: Call) -> list[Value | None]:
    """Which element is the largest has no derivative; given that, pooling is a gather."""
    x = c[0]
    attrs = {
        "kernel_shape": list(c.attrs["kernel_shape"]),
        "ceil_mode": c.attrs.get("ceil_mode", 0),
        **window(c, x, list(c.attrs["kernel_shape"])),
    }
    y, indices = b.multi("MaxPool", [x], (True, True), attrs=attrs)
    assert y is not None and indices is not None
    if not x.active:
        return [y, indices]
    flat = b.reshape(x, [-1])
    return [b.reshape(b.op("Gather", flat, b.reshape(indices, [-1]), axis=0), y.dims), indices]


@lowers("AveragePool")
def _average_pool(b: Builder, c: Call) -> Value:
    """As a sum over the window with a constant kernel where the plain operator will not do."""
    x = c[0]
    kernel = list(c.attrs["kernel_shape"])
    attrs = window(c, x, kernel)
    n = len(kernel)
    ceil = c.attrs.get("ceil_mode", 0)
    count_pads = c.attrs.get("count_include_pad", 0)
    out, extra = [], []
    for i in range(n):
        reach = (kernel[i] - 1) * attrs["dilations"][i] + 1
        size = x.dims[2 + i] + attrs["pads"][i] + attrs["pads"][n + i]
        steps = (size - reach) / attrs["strides"][i]
        count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
        if ceil and (count - 1) * attrs["strides"][i] >= x.dims[2 + i] + attrs["pads"][i]:
            count -= 1  # a window may not start in the trailing padding
        out.append(count)
        extra.append(max(0, (count - 1) * attrs["strides"][i] + reach - size))
    # Divisors depend on the geometry alone, so they are computed once from a grid of ones.
    channels = x.dims[1]
    taps = b.constant(np.ones((channels, 1, *kernel)), x.dtype)
    pads = attrs["pads"][:n] + [p + e for p, e in zip(attrs["pads"][n:], extra, strict=True)]
    sums = b.op(
        "Conv",
        x,
        taps,
        group=channels,
        kernel_shape=kernel,
        strides=attrs["strides"],
        dilations=attrs["dilations"],
        pads=pads,
    )
    weight = np.ones(out)
    for i in range(n):
        lead = attrs["pads"][i]
        low, high = (
            (0, x.dims[2 + i] + lead + attrs["pads"][n + i])
            if count_pads
            else (
                lead,
                lead + x.dims[2 + i],
            )
        )
        starts = np.arange(out[i]) * attrs["strides"][i]
        positions = starts[:, None] + np.arange(kernel[i])[None, :] * attrs["dilations"][i]
        inside = ((positions >= low) & (positions < high)).sum(1)
        weight = weight * inside.reshape([-1 if k == i else 1 for k in range(n)])
    return b.mul(sums, b.constant(1.0 / np.maximum(weight, 1), x.dtype))
