"""Max, average and Lp pooling, over windows and over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.linear import convolve, window
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


@dataclass(frozen=True)
class _Windows:
    """Geometry of pooling: the window's attributes, the output's sizes, what ceil_mode adds."""

    kernel: list[int]
    attrs: dict[str, Any]
    out: list[int]
    extra: list[int]

    @property
    def pads(self) -> list[int]:
        """Pads that hold the last, partial windows too."""
        n = len(self.kernel)
        tail = [p + e for p, e in zip(self.attrs["pads"][n:], self.extra, strict=True)]
        return [*self.attrs["pads"][:n], *tail]


def _windows(c: Call, x: Value) -> _Windows:
    kernel = list(c.attrs["kernel_shape"])
    attrs = window(c, x, kernel)
    n, ceil = len(kernel), c.attrs.get("ceil_mode", 0)
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
    return _Windows(kernel, attrs, out, extra)


@lowers("MaxPool")
def _max_pool(b: Builder, c: Call) -> list[Value | None]:
    """Which element is the largest has no derivative; given that, pooling is a gather."""
    x, w = c[0], _windows(c, c[0])
    attrs = {"kernel_shape": w.kernel, **w.attrs, "pads": w.pads, "ceil_mode": 0}
    y, indices = b.multi("MaxPool", [x], (True, True), attrs=attrs)
    assert y is not None and indices is not None
    for i, size in enumerate(w.out):
        y, indices = (b.slice(v, 2 + i, 0, size) for v in (y, indices))
    if x.requires_grad:
        flat = b.reshape(x, [-1])
        y = b.reshape(b.op("Gather", flat, b.reshape(indices, [-1]), axis=0), y.dims)
    if c.attrs.get("storage_order") and len(c.wanted) > 1:
        indices = _column_major(b, indices, x.dims[2:])
    return [y, indices]


def _column_major(b: Builder, indices: Value, space: Sequence[int]) -> Value:
    """Flat indices into (N, C, *space) that count the spatial axes first to last."""

    def integer(value: int) -> Value:
        return b.constant(np.int64(value))

    volume = math.prod(space)
    result = b.sub(indices, b.op("Mod", indices, integer(volume)))
    rest, weight = b.op("Mod", indices, integer(volume)), 1
    for axis, size in enumerate(space):
        stride = math.prod(space[axis + 1 :])
        result = b.add(result, b.mul(b.op("Div", rest, integer(stride)), integer(weight)))
        rest, weight = b.op("Mod", rest, integer(stride)), weight * size
    return result


def _window_sums(b: Builder, x: Value, w: _Windows) -> Value:
    """Sums over windows, as a convolution of each channel with ones."""
    channels = x.dims[1]
    ones = b.constant(np.ones((channels, 1, *w.kernel)), x.dtype)
    return convolve(
        b,
        x,
        ones,
        group=channels,
        strides=w.attrs["strides"],
        dilations=w.attrs["dilations"],
        pads=w.pads,
    )


@lowers("AveragePool")
def _average_pool(b: Builder, c: Call) -> Value:
    """Sums over windows times constants: the divisors depend on the geometry alone."""
    x, w = c[0], _windows(c, c[0])
    n = len(w.kernel)
    weight = np.ones(w.out)
    for i in range(n):
        lead, size = w.attrs["pads"][i], x.dims[2 + i]
        low, high = lead, lead + size
        if c.attrs.get("count_include_pad", 0):
            low, high = 0, lead + size + w.attrs["pads"][n + i]
        starts = np.arange(w.out[i]) * w.attrs["strides"][i]
        positions = starts[:, None] + np.arange(w.kernel[i])[None, :] * w.attrs["dilations"][i]
        inside = ((positions >= low) & (positions < high)).sum(1)
        weight = weight * inside.reshape([-1 if k == i else 1 for k in range(n)])
    return b.mul(_window_sums(b, x, w), b.constant(1.0 / np.maximum(weight, 1), x.dtype))


def _power(b: Builder, x: Value, p: float) -> Value:
    """|x|ᵖ."""
    if p == 2:
        return b.mul(x, x)
    size = b.op("Abs", x)
    return size if p == 1 else b.op("Exp", b.scale(b.op("Log", size), p))


def _root(b: Builder, x: Value, p: float) -> Value:
    if p == 1:
        return x
    return b.op("Sqrt", x) if p == 2 else b.op("Exp", b.scale(b.op("Log", x), 1 / p))


@lowers("LpPool")
def _lp_pool(b: Builder, c: Call) -> Value:
    p = float(c.attrs.get("p", 2))
    return _root(b, _window_sums(b, _power(b, c[0], p), _windows(c, c[0])), p)


@lowers("GlobalLpPool")
def _global_lp_pool(b: Builder, c: Call) -> Value:
    p = float(c.attrs.get("p", 2))
    return _root(b, b.sum(_power(b, c[0], p), list(range(2, c[0].rank))), p)
