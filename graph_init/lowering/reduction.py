"""Sums, means, norms, extremes and the largest elements over axes."""

from __future__ import annotations

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.accumulate import product
from graph_init.lowering.registry import Call, lowers


def _axes(c: Call) -> list[int]:
    axes = c.ints("axes", 1)
    if not axes:
        return [] if c.attrs.get("noop_with_empty_axes") else list(range(c[0].rank))
    return sorted(a % max(c[0].rank, 1) for a in axes)


def _passed(b: Builder, c: Call) -> Value | None:
    """Integers and unknown shapes are left to the engine, in the newest form of the operator."""
    if c[0].is_float and c[0].shape is not None:
        return None
    axes = c.ints("axes", 1)
    keep = c.attrs.get("keepdims", 1)
    if axes is None:
        return b.op(c.op, c[0], keepdims=keep)
    return b.op(c.op, c[0], b.ints(axes), keepdims=keep)


@lowers(*"ReduceSum ReduceMean ReduceSumSquare ReduceL2 ReduceL1 ReduceLogSum".split())
def _sums(b: Builder, c: Call) -> Value:
    passed = _passed(b, c)
    if passed is not None:
        return passed
    x, axes, keep = c[0], _axes(c), bool(c.attrs.get("keepdims", 1))
    if c.op in ("ReduceSumSquare", "ReduceL2"):
        x = b.mul(x, x)
    elif c.op == "ReduceL1":
        x = b.op("Abs", x)
    total = (b.mean if c.op == "ReduceMean" else b.sum)(x, axes, keep) if axes else x
    after = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(c.op)
    return b.op(after, total) if after else total


@lowers("ReduceLogSumExp")
def _log_sum_exp(b: Builder, c: Call) -> Value:
    x, axes = c[0], _axes(c)
    if x.size == 0:
        return _constant_of_empty(b, c, axes, -np.inf)
    peak = b.op("ReduceMax", x, b.ints(axes), keepdims=1)
    total = b.sum(b.op("Exp", b.sub(x, peak)), axes)
    y = b.add(b.op("Log", total), peak)
    return y if c.attrs.get("keepdims", 1) else _drop(b, y, axes)


def _drop(b: Builder, y: Value, axes: list[int]) -> Value:
    return b.reshape(y, [d for i, d in enumerate(y.dims) if i not in axes])


def _constant_of_empty(b: Builder, c: Call, axes: list[int], number: float) -> Value:
    """What a reduction over no elements gives."""
    keep = bool(c.attrs.get("keepdims", 1))
    shape = [1 if i in axes else d for i, d in enumerate(c[0].dims) if keep or i not in axes]
    return b.expand(b.scalar(number, c[0]), shape)


@lowers("ReduceMax", "ReduceMin")
def _extremes(b: Builder, c: Call) -> Value:
    """The first extreme element is gathered, so that it alone has a derivative."""
    passed = _passed(b, c)
    if passed is not None:
        return passed
    x, axes = c[0], _axes(c)
    if x.size == 0:
        return _constant_of_empty(b, c, axes, -np.inf if c.op == "ReduceMax" else np.inf)
    if not x.requires_grad:
        return b.op(c.op, x, b.ints(axes), keepdims=c.attrs.get("keepdims", 1))
    keep = [i for i in range(x.rank) if i not in axes]
    moved = b.transpose(x, keep + axes)
    flat = b.reshape(moved, [int(np.prod([x.dims[i] for i in keep])), -1])
    where = b.op("ArgMax" if c.op == "ReduceMax" else "ArgMin", flat, axis=1, keepdims=1)
    taken = b.op("GatherElements", flat, where, axis=1)
    kept = bool(c.attrs.get("keepdims", 1))
    shape = [1 if i in axes else d for i, d in enumerate(x.dims) if kept or i not in axes]
    return b.reshape(taken, shape)


@lowers("TopK")
def _top_k(b: Builder, c: Call) -> list[Value | None]:
    """Which elements are the largest has no derivative; given that, they are gathered."""
    x, axis = c[0], c.attrs.get("axis", -1) % max(c[0].rank, 1)
    count = b.ints([c.attrs["k"]]) if "k" in c.attrs else c[1]
    attrs = {"axis": axis, **{k: c.attrs.get(k, 1) for k in ("largest", "sorted")}}
    values, indices = b.multi("TopK", [x, count], (True, True), attrs=attrs)
    assert indices is not None
    if x.requires_grad:
        values = b.op("GatherElements", x, indices, axis=axis)
    return [values, indices]


@lowers("ReduceProd")
def _prod(b: Builder, c: Call) -> Value:
    passed = _passed(b, c)
    if passed is not None:
        return passed
    x, axes = c[0], _axes(c)
    for axis in axes:
        x = product(b, x, axis)
    return x if c.attrs.get("keepdims", 1) else _drop(b, x, axes)
