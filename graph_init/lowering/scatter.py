"""Operators that write elements to given places."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from graph_init.ir import Array, Builder, Value
from graph_init.lowering.layout import non_negative
from graph_init.lowering.registry import Call, lowers

#: How an element and an update are joined, where an update does not just take the place.
_JOIN = {"mul": "Mul", "max": "GreaterOrEqual", "min": "LessOrEqual"}


def _join(b: Builder, reduction: str, old: Value, new: Value) -> Value:
    if reduction == "mul":
        return b.mul(old, new)
    return b.where(b.op(_JOIN[reduction], old, new), old, new)


def _zeros(b: Builder, like: Value, shape: Sequence[int]) -> Value:
    return b.expand(b.scalar(0.0, like), shape)


def _rounds(places: Array) -> Array:
    """For each place how often it occurred before: updates of one round do not collide."""
    seen: dict[int, int] = {}
    counts = np.empty(places.shape, np.int64)
    for k, place in enumerate(places):
        counts[k] = seen.get(int(place), 0)
        seen[int(place)] = int(counts[k]) + 1
    return counts


def _replace(b: Builder, op: str, x: Value, index: Value, updates: Value, **attrs: Any) -> Value:
    """``x`` with ``updates`` at ``index``; scatters into zeros alone have to be differentiated."""
    zeros = _zeros(b, x, x.dims)
    ones = b.expand(b.scalar(1.0, x), updates.dims)
    written = b.op("Greater", b.op(op, zeros, index, ones, **attrs), b.scalar(0.5, x))
    return b.where(written, b.op(op, zeros, index, updates, **attrs), x)


def _extremes(b: Builder, x: Value, index: Value, updates: Value, how: str) -> Value:
    """The largest or smallest of a row and its updates; equal ones share its derivative."""
    still, given = b.stop_gradient(x), b.stop_gradient(updates)
    # ScatterND with duplicate places is no safe sum or extreme on several threads; this one is.
    places = b.expand(b.reshape(index, [-1, 1]), updates.dims)
    found = b.op("ScatterElements", still, places, given, axis=0, reduction=how)
    nothing = b.scalar(0.0, x)
    own = b.op("Equal", still, found)
    won = b.op("Equal", given, b.op("Gather", found, b.reshape(index, [-1]), axis=0))
    zeros = _zeros(b, x, x.dims)

    def added(rows: Value) -> Value:
        return b.op("ScatterND", zeros, index, rows, reduction="add")

    count = b.add(b.cast(own, x.dtype), added(b.cast(won, x.dtype)))
    total = b.add(b.where(own, x, nothing), added(b.where(won, updates, nothing)))
    return b.mul(total, b.reciprocal(count))


def scatter_rows(b: Builder, c: Call, x: Value, index: Value, updates: Value, how: str) -> Value:
    """ScatterND along the first axis: ``x`` (n, m), ``index`` (k, 1), ``updates`` (k, m)."""
    if how == "none":
        return _replace(b, "ScatterND", x, index=index, updates=updates)
    if how == "add":
        # On zeros, since the engine's gradient takes every scatter for one that replaces.
        return b.add(x, b.op("ScatterND", _zeros(b, x, x.dims), index, updates, reduction="add"))
    if index.const is None:
        if how in _JOIN and how != "mul":
            return _extremes(b, x, index=index, updates=updates, how=how)
        raise c.refuse(
            f"has reduction={how} at places that depend on the data; only 'none', 'add', 'max' and "
            "'min' can be differentiated there"
        )
    places = index.const.reshape(-1)
    rounds = _rounds(places)
    for r in range(int(rounds.max(initial=-1)) + 1):
        chosen = np.flatnonzero(rounds == r)
        rows = b.ints(places[chosen])
        part = b.op("Gather", updates, b.ints(chosen), axis=0)
        joined = _join(b, how, b.op("Gather", x, rows, axis=0), part)
        x = _replace(b, "ScatterND", x, index=b.reshape(rows, [len(chosen), 1]), updates=joined)
    return x


@lowers("ScatterElements", "Scatter")
def _scatter_elements(b: Builder, c: Call) -> Value:
    x, updates = c[0], c[2]
    axis, how = c.attrs.get("axis", 0) % x.rank, c.attrs.get("reduction", "none")
    if not c.requires_grad:
        return b.op("ScatterElements", x, c[1], updates, axis=axis, reduction=how)
    index = non_negative(b, c[1], x.dims[axis])
    if how == "none":
        return _replace(b, "ScatterElements", x, index=index, updates=updates, axis=axis)
    # All elements as rows of one number, at flat places.
    strides = np.cumprod([1, *x.dims[:0:-1]])[::-1]
    grid = np.indices(updates.dims)
    base = sum(
        (grid[i] * int(strides[i]) for i in range(x.rank) if i != axis),
        np.zeros(updates.dims, np.int64),
    )
    flat = b.add(b.mul(index, b.constant(np.int64(strides[axis]))), b.constant(np.asarray(base)))
    column = [updates.size, 1]
    y = scatter_rows(
        b,
        c,
        b.reshape(x, [-1, 1]),
        index=b.reshape(flat, column),
        updates=b.reshape(updates, column),
        how=how,
    )
    return b.reshape(y, x.dims)


@lowers("ScatterND")
def _scatter_nd(b: Builder, c: Call) -> Value:
    x, index, updates = c[0], c[1], c[2]
    how = c.attrs.get("reduction", "none")
    if not c.requires_grad:
        return b.op("ScatterND", x, index, updates, reduction=how)
    depth = index.dims[-1]
    strides = np.cumprod([1, *x.dims[1:depth][::-1]])[::-1]
    count = int(np.prod(index.dims[:-1]))
    wrapped = non_negative(b, b.reshape(index, [count, depth]), x.dims[:depth])
    flat = b.op(
        "ReduceSum",
        b.mul(wrapped, b.constant(strides.astype(np.int64))),
        b.ints([1]),
        keepdims=1,
    )
    width = int(np.prod(x.dims[depth:]))
    rows = int(np.prod(x.dims[:depth]))
    y = scatter_rows(
        b,
        c,
        b.reshape(x, [rows, width]),
        index=flat,
        updates=b.reshape(updates, [count, width]),
        how=how,
    )
    return b.reshape(y, x.dims)


@lowers("TensorScatter")
def _tensor_scatter(b: Builder, c: Call) -> Value:
    """Writes ``update`` into a cache along ``axis``, each row from its own position on."""
    past, update, position = c[0], c[1], c.get(2)
    axis = c.attrs.get("axis", -2) % past.rank
    length, size = update.dims[axis], past.dims[axis]
    steps = np.arange(length).reshape([-1 if i == axis else 1 for i in range(past.rank)])
    index = b.expand(b.constant(steps.astype(np.int64)), update.dims)
    if position is not None:
        starts = b.reshape(
            b.cast(position, TensorProto.INT64), [past.dims[0]] + [1] * (past.rank - 1)
        )
        index = b.add(index, starts)
    if c.attrs.get("mode", "linear") == "circular":
        index = b.op("Mod", index, b.constant(np.int64(size)))
    return _replace(b, "ScatterElements", past, index=index, updates=update, axis=axis)


@lowers("MaxUnpool")
def _max_unpool(b: Builder, c: Call) -> Value:
    """The values at their flat places in zeros."""
    x, index, shape = c[0], c[1], c.ints("", 2)
    kernel = c.attrs["kernel_shape"]
    n = len(kernel)
    strides, pads = c.attrs.get("strides") or [1] * n, c.attrs.get("pads") or [0] * 2 * n
    natural = [
        *x.dims[:2],
        *((x.dims[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[n + i] for i in range(n)),
    ]
    target = shape or natural
    # The indices count in the natural shape, which the given one then embeds.
    flat = b.op(
        "ScatterND",
        _zeros(b, x, [int(np.prod(natural)), 1]),
        b.reshape(b.cast(index, TensorProto.INT64), [-1, 1]),
        b.reshape(x, [-1, 1]),
    )
    if target == natural:
        return b.reshape(flat, natural)
    if int(np.prod(target)) < int(np.prod(natural)):
        raise c.refuse("has an output_shape smaller than its input needs")
    widths = [0] * x.rank + [t - k for t, k in zip(target, natural, strict=True)]
    return b.op("Pad", b.reshape(flat, natural), b.ints(widths), b.scalar(0.0, x), mode="constant")


@lowers("Col2Im")
def _col2im(b: Builder, c: Call) -> Value:
    """Blocks (N, C·∏block, L) added up at their places in images (N, C, …)."""
    x = c[0]
    image, block = c.ints("", 1) or [], c.ints("", 2) or []
    n = len(image)
    strides, dilations = (c.attrs.get(k) or [1] * n for k in ("strides", "dilations"))
    pads = c.attrs.get("pads") or [0] * 2 * n
    rows, channels = x.dims[0], x.dims[1] // int(np.prod(block))
    padded = [image[i] + pads[i] + pads[n + i] for i in range(n)]
    counts = [(padded[i] - (dilations[i] * (block[i] - 1) + 1)) // strides[i] + 1 for i in range(n)]
    places = np.zeros((*block, *counts), np.int64)
    for tap in itertools.product(*(range(k) for k in block)):
        at = np.zeros(counts, np.int64)
        for i in range(n):
            line = tap[i] * dilations[i] + np.arange(counts[i]) * strides[i]
            at = at * padded[i] + line.reshape([-1 if k == i else 1 for k in range(n)])
        places[tap] = at
    flat = b.transpose(b.reshape(x, [rows * channels, -1]), [1, 0])
    total = scatter_rows(
        b,
        c,
        _zeros(b, x, [int(np.prod(padded)), rows * channels]),
        index=b.constant(places.reshape(-1, 1)),
        updates=flat,
        how="add",
    )
    y = b.reshape(b.transpose(total, [1, 0]), [rows, channels, *padded])
    for i in range(n):
        y = b.slice(y, 2 + i, pads[i], pads[i] + image[i])
    return y


@lowers("Compress")
def _compress(b: Builder, c: Call) -> Value:
    """A gather of the chosen places, if these do not depend on the data."""
    x, chosen = c[0], c.const(1)
    assert chosen is not None
    places = b.ints(np.flatnonzero(chosen))
    if "axis" in c.attrs:
        return b.op("Gather", x, places, axis=c.attrs["axis"] % x.rank)
    return b.op("Gather", b.reshape(x, [-1]), places, axis=0)


@lowers("OneHot")
def _one_hot(b: Builder, c: Call) -> Value:
    """A comparison with 0 … depth − 1; of the two values either may be trainable."""
    values, depth = c[2], c.const(1)
    assert depth is not None
    size = int(depth.reshape(-1)[0])
    index = non_negative(b, c[0], size)
    axis = c.attrs.get("axis", -1) % (index.rank + 1)
    places = np.arange(size).reshape([-1 if i == axis else 1 for i in range(index.rank + 1)])
    apart = b.reshape(index, [*index.dims[:axis], 1, *index.dims[axis:]])
    on = b.op("Equal", apart, b.constant(places.astype(np.int64)))
    off, lit = (b.reshape(b.slice(values, 0, k, k + 1), []) for k in (0, 1))
    return b.where(on, lit, off)
