"""Rules for operators: the sizes of their outputs, and which sizes of their inputs fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from graph_init.sizes.known import (
    Call,
    Conflict,
    Dim,
    Dims,
    Known,
    marks_of,
    of_sizes,
    product,
    slice_end,
)

Rule = Callable[[Call], list[Known]]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def _made(c: Call, *shapes: Dims, dtype: int | None = None) -> list[Known]:
    kind = c.dtype() if dtype is None else dtype
    return [Known(kind, shape) for shape in shapes]


def equal(found: int, wanted: int, words: str) -> int:
    """One of two equal sizes, that of fewer unknowns; a conflict if they differ."""
    if found != wanted:
        raise Conflict(words, found, wanted)
    return min(found, wanted, key=lambda n: marks_of(n).bit_count())


def broadcast(*shapes: Dims) -> Dims:
    """numpy's rule, with what each size follows from."""
    rank = max(len(s) for s in shapes)
    result: list[int] = []
    for axis in range(-rank, 0):
        sizes = [s[axis] for s in shapes if len(s) >= -axis]
        wide = [n for n in sizes if n != 1]
        if not wide:
            result.append(Dim(1, marks_of(*sizes)))
            continue
        kept = min(wide, key=lambda n: marks_of(n).bit_count())
        for n in wide:
            if n != kept:
                words = f"joins axes of {int(n)} and {int(kept)}, which must be equal"
                raise Conflict(words, n, kept)
        result.append(kept)
    return tuple(result)


@rule(
    *"Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum Elu Erf Exp "
    "FastGelu Floor Gelu HardSigmoid HardSwish Hardmax Identity LRN LeakyRelu Log LogSoftmax "
    "LpNormalization MeanVarianceNormalization Mish Neg Not QuickGelu Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu "
    "Trilu BiasGelu RandomNormalLike RandomUniformLike Bernoulli ReverseSequence ScatterElements "
    "ScatterND Scatter".split()
)
def _same(c: Call) -> list[Known]:
    return _made(c, c.dims(0))


@rule("Scaler")  # of ai.onnx.ml
def _scaler(c: Call) -> list[Known]:
    return _made(c, c.dims(0), dtype=TensorProto.FLOAT)


@rule("Dropout")
def _dropout(c: Call) -> list[Known]:
    shape = c.dims(0)
    return [Known(c.dtype(), shape), Known(TensorProto.BOOL, shape)]


@rule("Cast")
def _cast(c: Call) -> list[Known]:
    return _made(c, c.dims(0), dtype=int(c.attr("to")))


@rule(*"Add Sub Mul Div Pow Mod Max Min Sum Mean PRelu BitwiseAnd BitwiseOr BitwiseXor".split())
def _elementwise(c: Call) -> list[Known]:
    return _made(c, broadcast(*(c.dims(k) for k in range(len(c.ins)))))


@rule(*"Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor".split())
def _compare(c: Call) -> list[Known]:
    return _made(c, broadcast(c.dims(0), c.dims(1)), dtype=TensorProto.BOOL)


@rule("IsNaN", "IsInf")
def _is(c: Call) -> list[Known]:
    return _made(c, c.dims(0), dtype=TensorProto.BOOL)


@rule("Where")
def _where(c: Call) -> list[Known]:
    return _made(c, broadcast(c.dims(0), c.dims(1), c.dims(2)), dtype=c.dtype(1))


@rule("Shape")
def _shape(c: Call) -> list[Known]:
    dims = c.dims(0)
    return [of_sizes(dims[c.attr("start", 0) : c.attr("end")])]


@rule("Size")
def _size(c: Call) -> list[Known]:
    (whole,) = [product(c.dims(0))]
    made = of_sizes([whole])
    assert made.content is not None and made.marks is not None
    return [Known(TensorProto.INT64, (), made.content.reshape(()), made.marks.reshape(()))]


# -- arrangement --------------------------------------------------------------------------------


@rule("Transpose")
def _transpose(c: Call) -> list[Known]:
    x = c.dims(0)
    order = c.attr("perm") or range(len(x))[::-1]
    return _made(c, tuple(x[p] for p in order))


@rule("Reshape")
def _reshape(c: Call) -> list[Known]:
    # Before opset 5 the target is an attribute.
    target = c.ints("shape", 1) or []
    given = c.get(0)
    if (given is None or given.dims is None) and all(n > 0 for n in target):
        return _made(c, tuple(target))
    x = c.dims(0)
    if not c.attr("allowzero"):
        target = [x[k] if n == 0 and k < len(x) else n for k, n in enumerate(target)]
    whole, part = product(x), product(n for n in target if n != -1)
    if -1 in target:
        if part == 0 or whole % part:
            words = f"cuts {int(whole)} elements into parts of {int(part)}, which leaves a rest"
            wanted = max(part, 1) * max(whole // max(part, 1), 1)
            raise Conflict(words, whole, wanted, part=part)
        target[target.index(-1)] = whole // part
    elif whole != part:
        words = f"makes the shape {[int(n) for n in target]} of {int(whole)} elements"
        raise Conflict(words, whole, part)
    return _made(c, tuple(target))


@rule("Flatten")
def _flatten(c: Call) -> list[Known]:
    x, axis = c.dims(0), c.attr("axis", 1)
    return _made(c, (product(x[:axis]), product(x[axis:])))


@rule("Unsqueeze")
def _unsqueeze(c: Call) -> list[Known]:
    x, axes = c.dims(0), c.ints("axes", 1) or []
    rank = len(x) + len(axes)
    places = {int(a) % rank for a in axes}
    rest = iter(x)
    return _made(c, tuple(Dim(1) if k in places else next(rest) for k in range(rank)))


@rule("Squeeze")
def _squeeze(c: Call) -> list[Known]:
    x, axes = c.dims(0), c.ints("axes", 1)
    if axes is None:
        return _made(c, tuple(n for n in x if n != 1))
    places = {int(a) % len(x) for a in axes}
    for k in places:
        equal(x[k], 1, f"drops axis {k} of {int(x[k])}, which must be 1")
    return _made(c, tuple(n for k, n in enumerate(x) if k not in places))


@rule("Expand")
def _expand(c: Call) -> list[Known]:
    return _made(c, broadcast(c.dims(0), tuple(c.numbers(1))))


@rule("Tile")
def _tile(c: Call) -> list[Known]:
    return _made(c, tuple(n * r for n, r in zip(c.dims(0), c.numbers(1), strict=True)))


@rule("Concat")
def _concat(c: Call) -> list[Known]:
    shapes = [c.dims(k) for k in range(len(c.ins))]
    axis = c.attr("axis") % len(shapes[0])
    result = list(shapes[0])
    for shape in shapes[1:]:
        if len(shape) != len(result):
            raise Conflict(f"joins tensors of {len(result)} and {len(shape)} axes")
        for k, n in enumerate(shape):
            if k == axis:
                result[k] = result[k] + n
            else:
                words = f"joins tensors whose axis {k} is {int(result[k])} and {int(n)}"
                result[k] = equal(result[k], n, words)
    return _made(c, tuple(result))


@rule("Split")
def _split(c: Call) -> list[Known]:
    x = c.dims(0)
    axis = c.attr("axis", 0) % len(x)
    parts, count = c.ints("split", 1), len(c.node.outputs)
    if parts is None:
        part = (x[axis] + (count - 1)) // count
        if c.attr("num_outputs") is None and part * count != x[axis]:
            raise Conflict(f"cuts {int(x[axis])} into {count} equal parts", x[axis], part * count)
        parts = [part] * (count - 1) + [x[axis] - part * (count - 1)]
    else:
        whole: int = sum(parts)
        equal(x[axis], whole, f"cuts {int(whole)} of an axis of {int(x[axis])}")
    return _made(c, *((*x[:axis], n, *x[axis + 1 :]) for n in parts))


@rule("Slice")
def _slice(c: Call) -> list[Known]:
    x = list(c.dims(0))
    starts, ends = c.ints("starts", 1) or [], c.ints("ends", 2) or []
    axes = c.ints("axes", 3) or list(range(len(starts)))
    steps = c.ints("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = int(axis) % len(x)
        x[axis] = _length(x[axis], start, end, int(step))
    return _made(c, tuple(x))


def _length(size: int, start: int, end: int, step: int) -> int:
    """Of ``range(start, end, step)`` within an axis of ``size``."""
    if step == 0:
        raise Conflict("slices with a step of 0")
    count = len(range(int(size))[slice(int(start), slice_end(end), step)])
    inside = 0 <= start <= size and 0 <= end <= size
    return Dim(count, marks_of(start, end) | (0 if inside else marks_of(size)))


@rule("Gather")
def _gather(c: Call) -> list[Known]:
    x, index = c.dims(0), c.get(1)
    axis = c.attr("axis", 0) % max(len(x), 1)
    if index is not None and index.content is not None and index.content.size:
        most = max(int(index.content.max()) + 1, -int(index.content.min()))
        if most > x[axis]:
            words = f"takes entry {most - 1} of an axis of {int(x[axis])}"
            raise Conflict(words, x[axis], most, True)
    return _made(c, (*x[:axis], *c.dims(1), *x[axis + 1 :]))


@rule("GatherElements")
def _gather_elements(c: Call) -> list[Known]:
    return _made(c, c.dims(1))


@rule("GatherND")
def _gather_nd(c: Call) -> list[Known]:
    x, index = c.dims(0), c.dims(1)
    batch = c.attr("batch_dims", 0)
    return _made(c, (*index[:-1], *x[batch + int(index[-1]) :]))


@rule("Pad")
def _pad(c: Call) -> list[Known]:
    x = c.dims(0)
    pads = c.attr("paddings") or c.ints("pads", 1) or []
    given = c.get(3)
    axes = [int(a) % len(x) for a in c.numbers(3)] if given is not None else list(range(len(x)))
    result = list(x)
    for k, axis in enumerate(axes):
        before, after = pads[k], pads[k + len(axes)]
        result[axis] = x[axis] + before + after
        most = max(int(before), int(after))
        if c.attr("mode") == "reflect" and most >= x[axis]:
            words = f"reflects {most} entries of an axis of {int(x[axis])}"
            raise Conflict(words, x[axis], most + 1, True)
    return _made(c, tuple(result))


@rule("DepthToSpace", "SpaceToDepth")
def _blocks(c: Call) -> list[Known]:
    (n, channels, h, w), k = c.dims(0), c.attr("blocksize")
    if c.node.op_type == "DepthToSpace":
        return _made(c, (n, channels // (k * k), h * k, w * k))
    for size in (h, w):
        if size % k:
            raise Conflict(f"cuts an axis of {int(size)} into blocks of {k}", size, size // k * k)
    return _made(c, (n, channels * (k * k), h // k, w // k))


@rule("ConstantOfShape")
def _constant_of_shape(c: Call) -> list[Known]:
    fill = c.attr("value")
    dtype = TensorProto.FLOAT if fill is None else int(fill.dtype)
    return _made(c, tuple(c.numbers(0)), dtype=dtype)


@rule("Range")
def _range(c: Call) -> list[Known]:
    values = [v for v in c.ins if v is not None]
    for slot, value in enumerate(values):
        if value.content is None:
            c.numbers(slot)  # says what is needed
    start, limit, step = (v.content.reshape(-1)[0] for v in values if v.content is not None)
    count = max(int(np.ceil((limit - start) / step)), 0) if step else 0
    marks = 0
    for value in values:
        marks |= value.followed
    return _made(c, (Dim(count, marks),))


@rule("OneHot")
def _one_hot(c: Call) -> list[Known]:
    x, (depth,) = c.dims(0), c.numbers(1)
    axis = c.attr("axis", -1) % (len(x) + 1)
    return _made(c, (*x[:axis], depth, *x[axis:]), dtype=c.dtype(2))


@rule("NonZero")
def _non_zero(c: Call) -> list[Known]:
    x = c.get(0)
    if x is None or x.content is None:
        c.numbers(0)
        return []
    count = int(np.count_nonzero(x.content))
    return _made(c, (Dim(x.content.ndim), Dim(count, x.followed)), dtype=TensorProto.INT64)


# -- reductions ---------------------------------------------------------------------------------


@rule(*(f"Reduce{n}" for n in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()))
def _reduce(c: Call) -> list[Known]:
    x, axes = c.dims(0), c.ints("axes", 1)
    if not axes:
        axes = [] if c.attr("noop_with_empty_axes") else list(range(len(x)))
    places = {int(a) % max(len(x), 1) for a in axes}
    return _made(c, _reduced(x, places, c.attr("keepdims", 1)))


def _reduced(x: Dims, places: set[int], keep: int) -> Dims:
    if keep:
        return tuple(Dim(1) if k in places else n for k, n in enumerate(x))
    return tuple(n for k, n in enumerate(x) if k not in places)


@rule("ArgMax", "ArgMin")
def _arg(c: Call) -> list[Known]:
    x = c.dims(0)
    places = {c.attr("axis", 0) % len(x)}
    return _made(c, _reduced(x, places, c.attr("keepdims", 1)), dtype=TensorProto.INT64)


@rule("TopK")
def _top_k(c: Call) -> list[Known]:
    x = list(c.dims(0))
    axis = c.attr("axis", -1) % len(x)
    k = (c.ints("k", 1) or [1])[0] if c.attr("k") is None else c.attr("k")
    if k > x[axis]:
        raise Conflict(f"takes the {int(k)} largest of {int(x[axis])}", x[axis], k, True)
    x[axis] = k
    return [Known(c.dtype(), tuple(x)), Known(TensorProto.INT64, tuple(x))]


def names(shape: Sequence[int]) -> str:
    """A shape in a sentence."""
    return "×".join(str(int(n)) for n in shape)
