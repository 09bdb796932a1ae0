"""Rules for elementwise operators, reductions, and those that arrange elements."""

from __future__ import annotations

import math
from collections.abc import Collection

from graph_init.rows.layout import (
    Count,
    Entry,
    Held,
    Rows,
    Step,
    axis_of,
    flat,
    rule,
    together,
)
from graph_init.sizes.known import marks_of

#: A slice that ends here, or later, ends behind every axis.
_FAR = 2**31 - 1


@rule(
    *"Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp FastGelu Floor Gelu "
    "Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual "
    "Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuickGelu Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu "
    "Where Xor".split()
)
def _elementwise(step: Step) -> Rows | None:
    slots = [k for k, v in enumerate(step.node.inputs) if v is not None]
    found = together(step, slots)
    rank = max(len(step.dims(k)) for k in slots)
    return None if found is None else found.at(found.axis + rank)


def _apart(step: Step, axes: Collection[int], does: str) -> Rows:
    """The rows of the first input, which the node takes along none of ``axes``."""
    rows = step.only(0)
    if rows.axis in axes:
        raise Held(f"{does} the axis of the batch")
    return rows


@rule("CumSum")
def _sums(step: Step) -> Rows:
    axis = int(step.call.numbers(1)[0]) % len(step.dims(0))
    return _apart(step, [axis], "adds up along")


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(step: Step) -> Rows:
    if step.call.opset >= 13:
        return _apart(step, [axis_of(step, -1)], "compares the entries of")
    rank = len(step.dims(0))
    return _apart(step, range(axis_of(step, 1), rank), "compares the entries of")


@rule("LpNormalization")
def _unit(step: Step) -> Rows:
    return _apart(step, [axis_of(step, -1)], "divides by the length of")


@rule("Trilu")
def _triangle(step: Step) -> Rows:
    rank = len(step.dims(0))
    return _apart(step, [rank - 2, rank - 1], "cuts a triangle out of")


@rule(*(f"Reduce{n}" for n in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()))
def _reduce(step: Step) -> Rows:
    axes = step.call.ints("axes", 1)
    rank = len(step.dims(0))
    if not axes:
        axes = [] if step.call.attr("noop_with_empty_axes") else list(range(rank))
    return _dropped(step, {int(a) % rank for a in axes}, "reduces")


@rule("ArgMax", "ArgMin")
def _arg(step: Step) -> Rows:
    return _dropped(step, {axis_of(step, 0)}, "compares the entries of")


def _dropped(step: Step, axes: set[int], does: str) -> Rows:
    rows = _apart(step, axes, does)
    if step.call.attr("keepdims", 1):
        return rows
    return rows.at(rows.axis - sum(a < rows.axis for a in axes))


@rule("TopK")
def _top(step: Step) -> Rows:
    return _apart(step, [axis_of(step, -1)], "compares the entries of")


@rule("OneHot")
def _one_hot(step: Step) -> Rows:
    rows, rank = step.only(0), len(step.dims(0)) + 1
    axis = int(step.call.attr("axis", -1)) % rank
    return rows.at(rows.axis + (axis <= rows.axis))


# -- arrangement --------------------------------------------------------------------------------


@rule("Transpose")
def _transpose(step: Step) -> Rows:
    rows = step.only(0)
    order = step.call.attr("perm") or range(len(step.dims(0)))[::-1]
    return rows.at(list(order).index(rows.axis))


@rule("Unsqueeze")
def _unsqueeze(step: Step) -> Rows:
    rows, axes = step.only(0), step.call.ints("axes", 1) or []
    rank = len(step.dims(0)) + len(axes)
    new = {int(a) % rank for a in axes}
    return rows.at([k for k in range(rank) if k not in new][rows.axis])


@rule("Squeeze")
def _squeeze(step: Step) -> Rows:
    dims, axes = step.dims(0), step.call.ints("axes", 1)
    if axes is None:
        axes = [k for k, n in enumerate(dims) if n == 1]
    places = {int(a) % len(dims) for a in axes}
    rows = _apart(step, places, "drops")
    return rows.at(rows.axis - sum(a < rows.axis for a in places))


@rule("Flatten")
def _flatten(step: Step) -> Rows:
    rows, dims = step.only(0), step.dims(0)
    axis = int(step.call.attr("axis", 1))
    axis += len(dims) if axis < 0 else 0
    before = flat(dims, rows)
    inner = math.prod(map(int, dims[rows.axis + 1 :])) * rows.inner
    left = math.prod(map(int, dims[:axis]))
    if rows.axis < axis:
        return Rows(0, before, left // (before * step.count))
    return Rows(1, before // left, inner)


@rule("Reshape")
def _reshape(step: Step) -> Rows:
    """Elements keep their order, so the rows stay where they are among them."""
    out = step.made[0].dims
    if not step.given(1) or out is None:
        raise Held("has a target that is not known")
    rows, target = step.only(0), step.call.numbers(1)
    follows = [
        k for k, n in enumerate(target) if n == -1 or marks_of(n) or (n == 0 and k == rows.axis)
    ]
    found = _placed(step, [int(n) for n in out], follows)
    if found.axis not in follows:
        rest = [int(n) for k, n in enumerate(target) if k != found.axis]
        same = rows.alone and found.alone and rows.axis == found.axis
        new: Entry = Count(found.outer * found.inner)
        if same and not step.call.attr("allowzero"):
            new = 0
        elif -1 not in rest:
            new = -1
        step.entry(1, found.axis, new)
    return found


def _placed(step: Step, out: list[int], follows: list[int]) -> Rows:
    """The axis of a new shape that has as many elements in front of the first row's.

    Several can be it: one that counts rows alone (that of before, if it does), then one whose
    entry ``follows`` already, then the first.
    """
    rows = step.only(0)
    before, left = flat(step.dims(0), rows), 1
    fits: list[Rows] = []
    for axis, size in enumerate(out):
        outer = before // left if left else 0
        inner = size // (outer * step.count) if outer else 0
        if outer * left == before and outer * step.count * inner == size and inner:
            fits.append(Rows(axis, outer, inner))
        left *= size
    if not fits:
        raise Held(f"cuts rows apart: its target is {out}")
    return min(
        fits,
        key=lambda r: (not r.alone, r.axis not in follows, r.alone and r.axis != rows.axis, r.axis),
    )


@rule("ConstantOfShape")
def _constant(step: Step) -> Rows | None:
    return _of_shape(step)


@rule("Tile")
def _tile(step: Step) -> Rows | None:
    rows = step.at(0)
    if rows is None:
        return _of_shape(step)
    if step.call.numbers(1)[rows.axis] != 1:
        raise Held("repeats the axis of the batch")
    return rows


def _of_shape(step: Step) -> Rows | None:
    """Where a tensor that is the same for all rows gets an axis that counts them."""
    slot = 0 if step.node.op_type == "ConstantOfShape" else 1
    numbers = step.call.numbers(slot)
    marked = [k for k, n in enumerate(numbers) if marks_of(n)]
    if not marked:
        return None
    own = step.dims(0) if slot else ()
    rank = len(numbers)
    there = own[marked[0] - rank] if len(own) >= rank - marked[0] else 1
    if len(marked) > 1 or numbers[marked[0]] != step.count or there != 1:
        raise Held("makes a shape of the number of rows in a way that is not followed")
    return Rows(marked[0])


@rule("Expand")
def _expand(step: Step) -> Rows | None:
    rows, target = step.at(0), step.call.numbers(1)
    if rows is None:
        return _of_shape(step)
    rank = max(len(step.dims(0)), len(target))
    axis = rows.axis - len(step.dims(0)) + rank
    place = axis - rank + len(target)
    if place >= 0:
        if target[place] not in (1, step.dims(0)[rows.axis]):
            raise Held("repeats the axis of the batch")
        if target[place] != 1 and not marks_of(target[place]):
            step.entry(1, place, 1)
    return rows.at(axis)


def _alike(step: Step, axis: int, does: str) -> Rows:
    """Inputs that must all have the same rows, of which ``axis`` is not the axis."""
    found = next(r for r in step.rows if r is not None)
    if found.axis == axis:
        raise Held(f"{does} along the axis of the batch")
    for slot in range(len(step.node.inputs)):
        own = step.at(slot)
        if own is None:
            step.spread(slot, found)
        elif own != found:
            raise Held("joins rows that lie along different axes")
    return found


@rule("Concat")
def _concat(step: Step) -> Rows:
    slot = next(k for k, r in enumerate(step.rows) if r is not None)
    return _alike(step, axis_of(step, 0, slot), "joins tensors")


@rule("Split")
def _split(step: Step) -> Rows:
    return _apart(step, [axis_of(step, 0)], "cuts")


@rule("Slice")
def _slice(step: Step) -> Rows:
    rows, dims = step.only(0), step.dims(0)
    starts, ends = step.call.ints("starts", 1) or [], step.call.ints("ends", 2) or []
    axes = [int(a) % len(dims) for a in step.call.ints("axes", 3) or range(len(starts))]
    steps = step.call.ints("steps", 4) or [1] * len(starts)
    if rows.axis in axes:
        at, size = axes.index(rows.axis), int(dims[rows.axis])
        far = ends[at] >= _FAR or bool(marks_of(ends[at]))
        if starts[at] != 0 or steps[at] != 1 or ends[at] < size or not (far or step.given(2)):
            raise Held("takes some of the rows")
        if not far:
            step.entry(2, at, _FAR)
    return rows


@rule("Gather")
def _gather(step: Step) -> Rows:
    x, index, axis = step.at(0), step.at(1), axis_of(step, 0)
    if x is None:
        assert index is not None
        return index.at(index.axis + axis)
    if index is not None:
        raise Held("takes other entries for each row out of what is another for each row")
    if x.axis == axis:
        raise Held("takes single rows out of the batch")
    return x if x.axis < axis else x.at(x.axis - 1 + len(step.dims(1)))


@rule("GatherElements", "ScatterElements")
def _elements(step: Step) -> Rows:
    return _alike(step, axis_of(step, 0), "takes entries")


@rule("Pad")
def _pad(step: Step) -> Rows:
    rows, rank = step.only(0), len(step.dims(0))
    pads = step.call.attr("paddings") or step.call.ints("pads", 1) or []
    given = step.given(3)
    axes = [int(a) % rank for a in step.call.numbers(3)] if given else list(range(rank))
    if rows.axis in axes:
        at = axes.index(rows.axis)
        if pads[at] or pads[at + len(axes)]:
            raise Held("adds entries to the axis of the batch")
    return rows


@rule("ReverseSequence")
def _reverse(step: Step) -> Rows:
    rows = step.only(0) if step.at(1) is None else step.at(0)
    batch = int(step.call.attr("batch_axis", 1))
    if rows is None or not rows.alone or rows.axis != batch:
        raise Held("turns round the axis of the batch")
    if step.at(1) is None:
        step.spread(1, Rows(0))
    return rows
