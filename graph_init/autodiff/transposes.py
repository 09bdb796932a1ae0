"""The transposes of linear operators: from the cotangent of a result to that of an operand.

Convolutions and gathers have transposes that no standard operator is. They stand in the graph as
ONNX Runtime's own operators for them (ConvGrad, GatherGrad …), which are closed under
differentiation; where the engine has none, :mod:`graph_init.autodiff.forms` puts standard operators
in their place when the graph is finished.
"""

from __future__ import annotations

import math

import numpy as np

from graph_init.errors import UnsupportedModelError
from graph_init.ir import MICROSOFT, Array, Builder, Node, Value


def _operand(node: Node, position: int) -> Value:
    value = node.inputs[position]
    assert value is not None
    return value


def _numbers(node: Node, position: int) -> Array:
    """A constant operand, such as axes or indices."""
    value = _operand(node, position)
    if value.const is None:
        raise UnsupportedModelError(
            f"{node.label} reads '{value.name}', which depends on the data; graph-init "
            "differentiates this operator only where that is a constant. Export the model "
            "with static shapes"
        )
    return value.const


def identity(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return c


def negation(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.op("Neg", c)


def difference(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.op("Neg", c) if position else c


def cast(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.cast(c, _operand(node, 0).dtype)


def reshape(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    x = _operand(node, 0)
    if c.size == 1:
        return b.reshape(c, [1] * x.rank)
    return b.reshape(c if c.shape == y.shape else b.expand(c, y.dims), x.dims)


def transpose(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.transpose(c, [int(i) for i in np.argsort(node.attrs["perm"])])


def reduce_sum(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """The same for each summand, so of size one along the axes summed over."""
    x = _operand(node, 0)
    axes = _numbers(node, 1).ravel() if len(node.inputs) > 1 else range(x.rank)
    summed = {int(a) % x.rank for a in axes} or set(range(x.rank))
    if node.attrs.get("keepdims", 1):
        return c
    rest = iter(c.dims)
    return b.reshape(c, [1 if i in summed else next(rest) for i in range(x.rank)])


def where(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    zero = b.scalar(0.0, c)
    first, second = (c, zero) if position == 1 else (zero, c)
    return b.op("Where", _operand(node, 0), first, second)


def concat(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    axis = node.attrs["axis"] % y.rank
    sizes = [v.dims[axis] for v in node.inputs if v is not None]
    start = sum(sizes[:position])
    return _cut(b, c, {axis: (start, start + sizes[position])})


def _cut(b: Builder, x: Value, ranges: dict[int, tuple[int, int]]) -> Value:
    """Elements start … stop−1 along each axis named."""
    kept = {a: r for a, r in ranges.items() if r != (0, x.dims[a])}
    if not kept:
        return x
    starts, stops = zip(*kept.values(), strict=True)
    return b.op("Slice", x, *(b.ints(v) for v in (starts, stops, kept, [1] * len(kept))))


def pad(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """What lies over the operand; lowering leaves pads with zeros, or another constant, alone."""
    x, widths = _operand(node, 0), _numbers(node, 1)
    before = [int(w) for w in widths.ravel()[: x.rank]]
    return _cut(b, c, {i: (w, w + x.dims[i]) for i, w in enumerate(before)})


def slices(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """Zeros around a slice of step one; else each element goes to its place."""
    x = _operand(node, 0)
    starts, stops = (_numbers(node, i).ravel() for i in (1, 2))
    axes = _numbers(node, 3).ravel() if len(node.inputs) > 3 else range(len(starts))
    steps = _numbers(node, 4).ravel() if len(node.inputs) > 4 else [1] * len(starts)
    chosen = [range(d) for d in x.dims]
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        chosen[axis] = chosen[axis][int(start) : int(stop) : int(step)]
    if all(r.step == 1 or len(r) < 2 for r in chosen):
        first = [r.start if r else 0 for r in chosen]
        last = [d - s - len(r) for d, s, r in zip(x.dims, first, chosen, strict=True)]
        if not any(first + last):
            return c
        return b.op("Pad", c, b.ints(first + last), b.scalar(0.0, c), mode="constant")
    places = np.arange(math.prod(x.dims)).reshape(x.dims)[np.ix_(*chosen)]
    flat = _gathered(b, [x.size], b.ints(places.ravel()), b.reshape(c, [c.size]), axis=0)
    return b.reshape(flat, x.dims)


# -- gathers and scatters -------------------------------------------------------------------------


def _gathered(b: Builder, shape: list[int], index: Value, c: Value, axis: int) -> Value:
    return b.op("GatherGrad", b.ints(shape), index, c, domain=MICROSOFT, axis=axis)


def gather(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    x = _operand(node, 0)
    return _gathered(b, list(x.dims), _operand(node, 1), c, axis=node.attrs.get("axis", 0) % x.rank)


def gather_grad(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.op("Gather", c, _operand(node, 1), axis=node.attrs.get("axis", 0))


def gather_elements(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    shape, index = b.ints(_operand(node, 0).dims), _operand(node, 1)
    axis = node.attrs.get("axis", 0)
    return b.op("GatherElementsGrad", c, shape, index, domain=MICROSOFT, axis=axis)


def gather_elements_grad(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.op("GatherElements", c, _operand(node, 2), axis=node.attrs.get("axis", 0))


def gather_nd(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    shape, index = b.ints(_operand(node, 0).dims), _operand(node, 1)
    lead = node.attrs.get("batch_dims", 0)
    return b.op("GatherNDGrad", shape, index, c, domain=MICROSOFT, batch_dims=lead)


def gather_nd_grad(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.op("GatherND", c, _operand(node, 1), batch_dims=node.attrs.get("batch_dims", 0))


def _require_linear(node: Node) -> str:
    how = str(node.attrs.get("reduction", "none"))
    if how not in ("none", "add"):
        raise UnsupportedModelError(f"{node.label} has reduction={how}, which is not linear")
    return how


def scatter_nd(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """The data keeps what is added to; what is replaced goes to the updates alone."""
    how, index, updates = _require_linear(node), _operand(node, 1), _operand(node, 2)
    if position == 2:
        return b.op("GatherND", c, index, batch_dims=0)
    zeros = b.expand(b.scalar(0.0, c), updates.dims)
    return c if how == "add" else b.op("ScatterND", c, index, zeros)


def scatter_elements(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    how, index, axis = _require_linear(node), _operand(node, 1), node.attrs.get("axis", 0)
    if position == 2:
        return b.op("GatherElements", c, index, axis=axis)
    zeros = b.expand(b.scalar(0.0, c), index.dims)
    return c if how == "add" else b.op("ScatterElements", c, index, zeros, axis=axis)


# -- products -------------------------------------------------------------------------------------


def product(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """Of MatMul and FusedMatMul, alpha·op(A)·op(B) with operands transposed or not."""
    x, other = _operand(node, position), _operand(node, 1 - position)
    moved = [bool(node.attrs.get(k)) for k in ("transBatchA", "transBatchB")]
    alpha = node.attrs.get("alpha", 1.0)
    inward = _batch_inwards(x.rank)
    if moved[1 - position]:
        other = b.transpose(other, _batch_inwards(other.rank))
    dims = [x.dims[i] for i in inward] if moved[position] else list(x.dims)
    turned = [bool(node.attrs.get(k)) for k in ("transA", "transB")]
    mine, theirs = turned[position], turned[1 - position]
    if position == 1 and len(dims) == 2 < other.rank and not theirs:
        # One matrix has multiplied the whole stack: one product of all rows.
        rows, left = (b.reshape(v, [v.size // v.dims[-1], v.dims[-1]]) for v in (c, other))
        first, second = (rows, left) if mine else (left, rows)
        found = b.product(first, second, transpose_a=True, alpha=alpha)
    else:
        found = _of_stack(b, c, other, mine, theirs=theirs, position=position, alpha=alpha)
        lead = found.rank - len(dims)
        axes = [i for i in range(found.rank - 2) if i < lead or dims[i - lead] != found.dims[i]]
        found = b.reshape(b.sum(found, axes) if axes else found, dims)
    return b.transpose(found, [int(i) for i in np.argsort(inward)]) if moved[position] else found


def _batch_inwards(rank: int) -> list[int]:
    return [*range(1, rank - 1), 0, rank - 1]


def _of_stack(
    b: Builder, c: Value, other: Value, mine: bool, theirs: bool, position: int, alpha: float
) -> Value:
    """One product for each of the result's."""
    if position == 0:
        if mine:  # (C·op(B)ᵀ)ᵀ = op(B)·Cᵀ
            return b.product(other, c, theirs, transpose_b=True, alpha=alpha)
        return b.product(c, other, transpose_b=not theirs, alpha=alpha)
    if mine:
        return b.product(c, other, transpose_a=True, transpose_b=theirs, alpha=alpha)
    return b.product(other, c, not theirs, alpha=alpha)


def conv(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return _conv_grad(b, node, [c, _operand(node, 0), _operand(node, 1)], position)


def _conv_grad(b: Builder, node: Node, inputs: list[Value], output: int) -> Value:
    wanted = [i == output for i in range(output + 1)]
    found = b.multi("ConvGrad", inputs, wanted, domain=MICROSOFT, attrs=node.attrs)[output]
    assert found is not None
    return found


def conv_grad(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    """Σ dY·conv(X, W) is linear in all three, and a derivative in one is a function of the others.

    ``c`` stands where the output of ``node`` does: for X if that is the derivative in X.
    """
    delta, x, w = (_operand(node, i) for i in range(3))
    x, w = (c, w) if node.outputs[0] is not None else (x, c)
    if position == 0:
        return b.op("Conv", x, w, **node.attrs)
    return _conv_grad(b, node, [delta, x, w], position - 1)
