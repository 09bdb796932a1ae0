"""Reductions."""

from __future__ import annotations

import numpy as np

from graph_init.builder import Builder, Value
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


@lowers("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceL1", "ReduceLogSum")
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
    peak = b.op("ReduceMax", x, b.ints(axes), keepdims=1)
    peak.active = False  # a shift: its derivative cancels
    total = b.sum(b.op("Exp", b.sub(x, peak)), axes)
    y = b.add(b.op("Log", total), peak)
    return y if c.attrs.get("keepdims", 1) else _drop(b, y, axes)


def _drop(b: Builder, y: Value, axes: list[int]) -> Value:
    return b.reshape(y, [d for i, d in enumerate(y.dims) if i not in axes])


@lowers("ReduceMax", "ReduceMin")
def _extremes(b: Builder, c: Call) -> Value:
    """The first extreme element is gathered, so that it alone has a derivative."""
    passed = _passed(b, c)
    if passed is not None:
        return passed
    x, axes = c[0], _axes(c)
    if not x.active:
        return b.op(c.op, x, b.ints(axes), keepdims=c.attrs.get("keepdims", 1))
    keep = [i for i in range(x.rank) if i not in axes]
    moved = b.transpose(x, keep + axes)
    flat = b.reshape(moved, [int(np.prod([x.dims[i] for i in keep])), -1])
    where = b.op("ArgMax" if c.op == "ReduceMax" else "ArgMin", flat, axis=1, keepdims=1)
    taken = b.op("GatherElements", flat, where, axis=1)
    kept = bool(c.attrs.get("keepdims", 1))
    shape = [1 if i in axes else d for i, d in enumerate(x.dims) if kept or i not in axes]
    return b.reshape(taken, shape)
