"""Cumulative sums and products, and products over axes, in log₂ n steps."""

from __future__ import annotations

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers

#: operator -> (primitive that combines two elements, neutral element)
_COMBINE = {"CumSum": ("Add", 0.0), "CumProd": ("Mul", 1.0)}


def _shift(b: Builder, x: Value, axis: int, by: int, fill: float) -> Value:
    """``x`` moved ``by`` places towards higher indices, ``fill`` entering."""
    kept = b.slice(x, axis, 0, max(x.dims[axis] - by, 0))
    widths = [0] * 2 * x.rank
    widths[axis] = min(by, x.dims[axis])
    return b.op("Pad", kept, b.ints(widths), b.scalar(fill, x), mode="constant")


@lowers("CumSum", "CumProd")
def _cumulative(b: Builder, c: Call) -> Value:
    """Doubling (Hillis and Steele 1986): after step k each element covers 2ᵏ predecessors."""
    x, given = c[0], c.const(1)
    assert given is not None
    axis = int(given.reshape(-1)[0]) % x.rank
    size = x.dims[axis]
    combine, neutral = _COMBINE[c.op]
    if not x.is_float:
        attrs = {k: c.attrs.get(k, 0) for k in ("exclusive", "reverse")}
        return b.op(c.op, x, c[1], **attrs)
    mirror = b.ints(np.arange(size)[::-1])
    if c.attrs.get("reverse"):
        x = b.op("Gather", x, mirror, axis=axis)
    if c.attrs.get("exclusive"):
        x = _shift(b, x, axis, by=1, fill=neutral)
    reach = 1
    while reach < size:
        x = b.op(combine, x, _shift(b, x, axis, by=reach, fill=neutral))
        reach *= 2
    return b.op("Gather", x, mirror, axis=axis) if c.attrs.get("reverse") else x


def product(b: Builder, x: Value, axis: int) -> Value:
    """The product over ``axis``, which stays with size 1: halves are multiplied together."""
    while x.dims[axis] > 1:
        size = x.dims[axis]
        half = size // 2
        low, high = b.slice(x, axis, 0, half), b.slice(x, axis, half, 2 * half)
        rest = [b.slice(x, axis, 2 * half, size)] if size % 2 else []
        x = b.op("Concat", b.mul(low, high), *rest, axis=axis)
    if x.dims[axis] == 0:
        return b.expand(b.scalar(1.0, x), [1 if i == axis else d for i, d in enumerate(x.dims)])
    return x
