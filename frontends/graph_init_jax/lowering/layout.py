"""Operators that arrange elements: reshapes, broadcasts, slices, padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Value
from graph_init_jax.lowering.registry import Result, rule

_LAST = np.iinfo(np.int64).max
_FIRST = np.iinfo(np.int64).min


@rule("broadcast_in_dim")
def broadcast_in_dim(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    """Only the axes are put into place; whoever needs all the elements enlarges the tensor."""
    value = inputs[0]
    stored = [1] * len(out.shape)
    for axis, size in zip(params["broadcast_dimensions"], value.stored, strict=False):
        stored[int(axis)] = size
    small = Value(value.stored, value.dtype, stored=value.stored, name=value.name, data=value.data)
    made = g.reshape(small, tuple(stored)) if value.stored else small
    return Value(out.shape, made.dtype, made.stored, made.name)


@rule("reshape", "squeeze", "expand_dims", broadcasting=False)
def reshape(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    if params.get("dimensions"):
        inputs = [g.transpose(inputs[0], params["dimensions"])]
    return g.reshape(inputs[0], out.shape)


@rule("transpose", broadcasting=False)
def transpose(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return g.transpose(inputs[0], params["permutation"])


@rule("rev", broadcasting=False)
def rev(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return flip(g, inputs[0], params["dimensions"])


def flip(g: Graph, value: Value, axes: Any) -> Value:
    """``value`` with the order along ``axes`` reversed."""
    axes = np.array(axes, np.int64)
    if not len(axes):
        return value
    starts, ends, steps = np.full_like(axes, -1), np.full_like(axes, _FIRST), np.full_like(axes, -1)
    return g.add("Slice", [value, starts, ends, axes, steps], value.shape, value.dtype)


@rule("concatenate", broadcasting=False)
def concatenate(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    if len(inputs) == 1:
        return inputs[0]
    return g.add("Concat", inputs, out.shape, out.dtype, axis=int(params["dimension"]))


@rule("split", broadcasting=False)
def split(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
    sizes = np.array(params["sizes"], np.int64)
    axis = int(params["axis"])
    return g.add_many("Split", [inputs[0], sizes], out.shapes, out.dtype, axis=axis)


@rule("pad", broadcasting=False)
def pad(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    value, fill = inputs
    config = params["padding_config"]
    for axis, (_, _, inner) in enumerate(config):
        value = _apart(g, value, fill, axis=axis, count=inner)
    cut = [max(0, -low) for low, _, _ in config], [max(0, -high) for _, high, _ in config]
    if any(cut[0]) or any(cut[1]):
        starts = np.array(cut[0], np.int64)
        ends = np.array(value.shape, np.int64) - np.array(cut[1], np.int64)
        value = crop(g, value, starts, ends)
    edges = [max(0, low) for low, _, _ in config] + [max(0, high) for _, high, _ in config]
    if not any(edges):
        return value
    return g.add("Pad", [value, np.array(edges, np.int64), fill], out.shape, out.dtype)


def _apart(g: Graph, value: Value, fill: Value, axis: int, count: int) -> Value:
    """``value`` with ``count`` times ``fill`` between its elements along ``axis``."""
    shape = value.shape
    if not count or shape[axis] < 2:
        return value
    before, after = shape[: axis + 1], shape[axis + 1 :]
    edges = np.zeros(2 * (len(shape) + 1), np.int64)
    edges[len(shape) + 1 + axis + 1] = count
    wide = (*before, count + 1, *after)
    padded = g.add("Pad", [g.reshape(value, (*before, 1, *after)), edges, fill], wide, value.dtype)
    joined = g.reshape(padded, (*shape[:axis], shape[axis] * (count + 1), *after))
    ends = np.array(joined.shape)
    ends[axis] -= count
    return crop(g, joined, np.zeros(len(ends)), ends)


def crop(g: Graph, value: Value, starts: Any, ends: Any, steps: Any = None) -> Value:
    """Elements from ``starts`` to before ``ends``, for each axis, every ``steps``-th."""
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    steps = np.ones_like(starts) if steps is None else np.asarray(steps, np.int64)
    shape = tuple(int(n) for n in -((starts - ends) // steps))
    cut = [k for k in range(len(starts)) if shape[k] != value.shape[k]]
    if not cut:
        return value
    chosen = [np.array(a[cut]) for a in (starts, ends)]
    operands = [*chosen, np.array(cut, np.int64), np.array(steps[cut])]
    return g.add("Slice", [value, *operands], shape, value.dtype)


@rule("slice", broadcasting=False)
def slice_(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return crop(
        g, inputs[0], params["start_indices"], ends=params["limit_indices"], steps=params["strides"]
    )


@rule("dynamic_slice", broadcasting=False)
def dynamic_slice(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    value, *starts = inputs
    at = _places(starts, value.shape, out)
    return crop(g, value, at, at + np.array(out.shape))


@rule("dynamic_update_slice", broadcasting=False)
def dynamic_update_slice(
    g: Graph, inputs: list[Value], params: dict[str, Any], out: Result
) -> Value:
    """The update, padded to the whole shape, where a fixed mask is true."""
    value, update, *starts = inputs
    if update.shape == value.shape:
        return update
    at = _places([*starts], np.subtract(value.shape, update.shape) + 1, out, room=False)
    after = np.subtract(value.shape, update.shape) - at
    mask = np.zeros(value.shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(at, update.shape, strict=True))] = True
    zero = np.zeros((), np.dtype(out.dtype))
    edges = np.array([*at, *after], np.int64)
    wide = g.add("Pad", [update, edges, zero], out.shape, out.dtype)
    return g.add("Where", [mask, wide, value], out.shape, out.dtype)


def _places(starts: list[Value], sizes: Any, out: Result, room: bool = True) -> np.ndarray:
    """Where a slice starts, kept within the tensor as JAX does."""
    if not all(start.known for start in starts):
        raise out.refused("at a place that depends on the input")
    at = np.array([int(start.data) for start in starts], np.int64)
    limit = np.subtract(sizes, out.shape) if room else np.subtract(sizes, 1)
    return np.clip(at, 0, limit)
