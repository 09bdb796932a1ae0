"""Lookups: JAX's general gather in the forms that models use."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Value
from graph_init_jax.lowering.layout import crop
from graph_init_jax.lowering.registry import Result, rule


@rule("gather", broadcasting=False)
def gather(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    """Rows of a table, elements along an axis, elements at coordinates, or one fixed window."""
    table, index = inputs
    numbers = params["dimension_numbers"]
    sizes = tuple(int(n) for n in params["slice_sizes"])
    axes = tuple(int(axis) for axis in numbers.start_index_map)
    collapsed = tuple(int(axis) for axis in numbers.collapsed_slice_dims)
    batching = tuple(int(axis) for axis in numbers.operand_batching_dims)
    offset = tuple(int(axis) for axis in numbers.offset_dims)
    whole = all(
        sizes[k] == table.shape[k] for k in range(len(sizes)) if k not in (*collapsed, *batching)
    )
    count = len(index.shape) - 1
    if batching:
        pairs = tuple(int(axis) for axis in numbers.start_indices_batching_dims)
        aligned = pairs == batching == tuple(range(len(batching)))
        if aligned and whole and axes == collapsed == (len(batching),) and not offset:
            return _along(g, table, index, axis=axes[0], out=out)
        raise out.refused("in this form")
    if axes == collapsed and whole and len(axes) == 1:
        axis = axes[0]
        picked = plain_index(g, index, table.shape[axis])
        picked = g.reshape(picked, index.shape[:-1])
        rest = [n for k, n in enumerate(table.shape) if k != axis]
        shape = (*rest[:axis], *picked.shape, *rest[axis:])
        rows = g.add("Gather", [table, picked], shape, out.dtype, axis=axis)
        order = iter(axis + k for k in range(count))
        others = iter([*range(axis), *range(axis + count, len(shape))])
        return g.transpose(
            rows, [next(others if k in offset else order) for k in range(len(shape))]
        )
    leading = axes == collapsed == tuple(range(len(axes)))
    if leading and whole and offset == tuple(range(count, count + len(offset))):
        index = g.cast(index, np.int64)
        return g.add("GatherND", [table, index], out.shape, out.dtype)
    if index.known and count == 0:
        at = np.zeros(len(sizes), np.int64)
        at[list(axes)] = np.asarray(index.data).reshape(-1)
        at = np.clip(at, 0, np.subtract(table.shape, sizes))
        return g.reshape(crop(g, table, at, at + np.array(sizes)), out.shape)
    raise out.refused("in this form")


def _along(g: Graph, table: Value, index: Value, axis: int, out: Result) -> Value:
    """One element along ``axis`` (after the batch's axes) for each index."""
    index = g.cast(index, np.int64)
    batch = table.shape[:axis]
    flat = g.reshape(index, (*batch, int(np.prod(index.shape[axis:]))))
    wide = g.reshape(flat, (*flat.shape, *[1] * (len(table.shape) - axis - 1)))
    picked = g.add("GatherElements", [table, wide], wide.shape, out.dtype, axis=axis)
    return g.reshape(picked, out.shape)


def plain_index(g: Graph, index: Value, size: int) -> Value:
    """``index`` without JAX's `where(i < 0, i + size, i)`: ONNX counts from the end too.

    The result may lack axes of length 1.
    """
    if index.known:
        return index
    view, start = g.producer(index, "Reshape"), index
    if view is not None:
        start = g.values[view.input[0]]
    choice = g.producer(start, "Where")
    if choice is None:
        return index
    below, raised, plain = choice.input
    first, second = g.producers.get(below), g.producers.get(raised)
    if (
        first is not None
        and second is not None
        and (first.op_type, second.op_type) == ("Less", "Add")
        and (first.input[0], second.input[0]) == (plain, plain)
        and g.constant(first.input[1]) == 0
        and g.constant(second.input[1]) == size
    ):
        return g.values[plain]
    return index


@rule("top_k", broadcasting=False)
def top_k(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
    count = np.array([out.shape[-1]], np.int64)
    values, places = g.add_many("TopK", [inputs[0], count], out.shapes, out.dtype, axis=-1)
    wide = Value(places.shape, np.dtype(np.int64), places.stored, places.name)
    return [values, g.cast(wide, out.dtypes[1])]
