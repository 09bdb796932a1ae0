"""Replaces operators that an engine lacks, or computes wrongly, by others that it computes.

The transposes of convolutions and gathers stand in a graph as ConvGrad, GatherGrad,
GatherElementsGrad and GatherNDGrad, which only onnxruntime's training build has. When a graph is
finished, each is replaced by its form for the engine that is to run it:

- the derivative of a convolution in its input is the convolution of the delta with the kernel
  turned around, its axes of channels exchanged, where there are no strides, and a transposed
  convolution otherwise;
- that in the kernel is a convolution of the input with the delta as the kernel, batch and channels
  exchanged in both, and strides and dilations exchanged;
- the transpose of a gather adds to zeros with ScatterElements, or gathers from what has been
  gathered, where the places are constants and few read one element.

ScatterND with reduction "add" is not among these: onnxruntime (1.19 to 1.32, CPU) lets several
threads add to one element at once, and loses summands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graph_init.ir import Array, Builder, Form, Node, Value

#: A constant gather is transposed by as many gathers as there are readers of one element, if these
#: are no more than so many.
_READERS = 4


def _inputs(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


# -- convolutions ---------------------------------------------------------------------------------


def _window(node: Node, n: int) -> tuple[int, list[int], list[int], list[int]]:
    """Groups, strides, dilations and pads."""
    strides, dilations = (list(node.attrs.get(k) or [1] * n) for k in ("strides", "dilations"))
    return (
        node.attrs.get("group", 1),
        strides,
        dilations,
        list(node.attrs.get("pads") or [0] * 2 * n),
    )


def _conv(b: Builder, x: Value, w: Value, **window: Any) -> Value:
    return b.op("Conv", x, w, kernel_shape=list(w.dims[2:]), **window)


def _in_input(b: Builder, node: Node) -> Value:
    delta, x, w = _inputs(node)
    kernel = w.dims[2:]
    n = len(kernel)
    group, strides, dilations, pads = _window(node, n)
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    around = [r - p for r, p in zip(reach * 2, pads, strict=True)]
    if all(s == 1 for s in strides) and min(around) >= 0:
        turned = _exchanged(b, _turned(b, w), group)
        ones = [1] * n
        return _conv(b, delta, turned, group=group, strides=ones, dilations=dilations, pads=around)
    surplus = [
        x.dims[2 + i]
        - ((delta.dims[2 + i] - 1) * strides[i] + reach[i] + 1 - pads[i] - pads[n + i])
        for i in range(n)
    ]
    return b.op(
        "ConvTranspose",
        delta,
        w,
        group=group,
        kernel_shape=list(kernel),
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=surplus,
    )


def _turned(b: Builder, w: Value) -> Value:
    """The taps from last to first along all axes."""
    taps = math.prod(w.dims[2:])
    if taps == 1:
        return w
    flat = b.reshape(w, [*w.dims[:2], taps])
    return b.reshape(b.op("Gather", flat, b.ints(range(taps)[::-1]), axis=2), w.dims)


def _exchanged(b: Builder, w: Value, group: int) -> Value:
    """(M, C/group, …) as (C, M/group, …)."""
    outputs, inputs, *kernel = w.dims
    split = b.reshape(w, [group, outputs // group, inputs, *kernel])
    moved = b.transpose(split, [0, 2, 1, *range(3, split.rank)])
    return b.reshape(moved, [group * inputs, outputs // group, *kernel])


def _reach(places: int, stride: int, taps: int, dilation: int) -> int:
    """How many elements a kernel covers that is put at so many places."""
    return stride * (places - 1) + dilation * (taps - 1) + 1


def _in_kernel(b: Builder, node: Node) -> Value:
    delta, x, w = _inputs(node)
    n = w.rank - 2
    group, strides, dilations, pads = _window(node, n)
    # The trailing pads, or cuts, with which as many places remain as the kernel has taps.
    last = [
        _reach(delta.dims[2 + i], strides[i], w.dims[2 + i], dilations[i]) - pads[i] - x.dims[2 + i]
        for i in range(n)
    ]
    cut = [i for i in range(n) if last[i] < 0]
    if cut:
        stops, axes = [x.dims[2 + i] + last[i] for i in cut], [2 + i for i in cut]
        x = b.op("Slice", x, *(b.ints(v) for v in ([0] * len(cut), stops, axes, [1] * len(cut))))
    rows, channels, *space = x.dims
    each = channels // group
    split = b.reshape(x, [rows, group, each, *space])
    moved = b.transpose(split, [2, 1, 0, *range(3, split.rank)])
    batch = b.reshape(moved, [each, group * rows, *space])
    kernel = b.transpose(delta, [1, 0, *range(2, delta.rank)])
    found = _conv(
        b,
        batch,
        kernel,
        group=group,
        strides=dilations,
        dilations=strides,
        pads=[*pads[:n], *(max(p, 0) for p in last)],
    )
    return b.transpose(found, [1, 0, *range(2, found.rank)])


def _in_bias(b: Builder, node: Node) -> Value:
    delta = _inputs(node)[0]
    return b.sum(delta, [0, *range(2, delta.rank)], keepdims=False)


def _conv_grad(b: Builder, node: Node) -> Value:
    which = next(i for i, o in enumerate(node.outputs) if o is not None)
    return (_in_input, _in_kernel, _in_bias)[which](b, node)


def _grouped_conv_grad(b: Builder, node: Node) -> Value | None:
    """The training build's writes outside its buffers for groups unless there are two axes."""
    wrong = node.attrs.get("group", 1) > 1 and _inputs(node)[2].rank != 4
    return _conv_grad(b, node) if wrong else None


# -- gathers and scatters -------------------------------------------------------------------------


def _zeros(b: Builder, like: Value, shape: Sequence[int]) -> Value:
    return b.expand(b.scalar(0.0, like), shape)


def _add_rows(b: Builder, data: Value, index: Value, updates: Value) -> Value:
    """``data`` (n, m) with each row of ``updates`` (k, m) added to that of ``index`` (k,)."""
    places = b.expand(b.reshape(index, [index.size, 1]), updates.dims)
    return b.op("ScatterElements", data, places, updates, axis=0, reduction="add")


def _gather_grad(b: Builder, node: Node) -> Value:
    shape, index, dy = _inputs(node)
    assert shape.const is not None
    dims = [int(d) for d in shape.const]
    axis = node.attrs.get("axis", 0) % len(dims)
    size, lead, tail = dims[axis], math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
    if index.const is not None:
        readers = _readers(index.const.ravel() % max(size, 1), size)
        if len(readers) <= _READERS:
            stack = b.reshape(dy, [lead, index.size, tail])
            return b.reshape(_gathers(b, stack, readers), dims)
    base = b.constant(np.arange(lead, dtype=np.int64).reshape(-1, 1) * size)
    flat = b.reshape(b.cast(index, 7), [1, index.size])
    negative = b.op("Less", flat, b.constant(np.int64(0)))
    flat = b.op("Where", negative, b.add(flat, b.constant(np.int64(size))), flat)
    places = b.reshape(b.add(flat, base), [lead * index.size])
    updates = b.reshape(dy, [lead * index.size, tail])
    return b.reshape(_add_rows(b, _zeros(b, dy, [lead * size, tail]), places, updates), dims)


def _readers(index: Array, size: int) -> Array:
    """(r, size): for each element the places at which ``index`` reads it; len(index) for none."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=size)
    starts = np.cumsum(counts) - counts
    table = np.full((int(counts.max(initial=0)), size), len(index), np.int64)
    found = index[order]
    table[np.arange(len(index)) - starts[found], found] = order
    return table


def _gathers(b: Builder, dy: Value, readers: Array) -> Value:
    """(lead, size, tail) from ``dy`` (lead, k, tail): the sum over an element's readers."""
    lead, count, tail = dy.dims
    if not len(readers):
        return _zeros(b, dy, [lead, readers.shape[1], tail])
    if (readers == count).any():
        dy = b.op("Concat", dy, _zeros(b, dy, [lead, 1, tail]), axis=1)
    total: Value | None = None
    for row in readers:
        part = b.op("Gather", dy, b.ints(row), axis=1)
        total = part if total is None else b.add(total, part)
    assert total is not None
    return total


def _gather_elements_grad(b: Builder, node: Node) -> Value:
    dy, shape, index = _inputs(node)
    assert shape.const is not None
    data = _zeros(b, dy, [int(d) for d in shape.const])
    axis = node.attrs.get("axis", 0)
    return b.op("ScatterElements", data, index, dy, axis=axis, reduction="add")


def _gather_nd_grad(b: Builder, node: Node) -> Value:
    shape, index, dy = _inputs(node)
    assert shape.const is not None
    dims = [int(d) for d in shape.const]
    data = _zeros(b, dy, dims)
    return _add_slices(b, data, index, dy, lead=node.attrs.get("batch_dims", 0))


def _add_slices(b: Builder, data: Value, index: Value, updates: Value, lead: int = 0) -> Value:
    """``data`` with ``updates`` added where ``index`` says, as GatherND reads with ``lead``."""
    depth, dims = index.dims[-1], data.dims
    inner = dims[lead : lead + depth]
    strides = [math.prod(inner[i + 1 :]) for i in range(depth)]
    sizes = b.constant(np.asarray(inner, np.int64))
    negative = b.op("Less", index, b.constant(np.int64(0)))
    wrapped = b.op("Where", negative, b.add(index, sizes), index)
    weighted = b.mul(wrapped, b.constant(np.asarray(strides, np.int64)))
    flat = b.op("ReduceSum", weighted, b.ints([index.rank - 1]), keepdims=0)
    batches = math.prod(dims[:lead])
    base = np.arange(batches, dtype=np.int64).reshape(-1, 1) * math.prod(inner)
    count = math.prod(index.dims[lead:-1])
    places = b.add(b.reshape(flat, [batches, count]), b.constant(base))
    width = math.prod(dims[lead + depth :])
    found = _add_rows(
        b,
        b.reshape(data, [batches * math.prod(inner), width]),
        b.reshape(places, [batches * count]),
        b.reshape(updates, [batches * count, width]),
    )
    return b.reshape(found, dims)


def _scatter_nd(b: Builder, node: Node) -> Value | None:
    data, index, updates = _inputs(node)
    adds = node.attrs.get("reduction", "none") == "add" and data.shape is not None
    if not adds or index.shape is None or updates.shape is None:
        return None
    return _add_slices(b, data, index, updates)


_EVERYWHERE: dict[str, Form] = {"ScatterND": _scatter_nd}

#: Forms by operator, for each engine.
FORMS: dict[str, dict[str, Form]] = {
    "onnxruntime": {
        **_EVERYWHERE,
        "ConvGrad": _conv_grad,
        "GatherGrad": _gather_grad,
        "GatherElementsGrad": _gather_elements_grad,
        "GatherNDGrad": _gather_nd_grad,
    },
    "onnxruntime-training": {**_EVERYWHERE, "ConvGrad": _grouped_conv_grad},
    "torch": {},
}
