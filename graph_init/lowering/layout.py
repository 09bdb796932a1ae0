"""Operators that move or select elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, numpy_helper

from graph_init.ir import FLOATS, Builder, Value
from graph_init.lowering.registry import Call, lowers


@lowers("Flatten")
def _flatten(b: Builder, c: Call) -> Value:
    x = c[0]
    axis = c.attrs.get("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    return b.reshape(x, [int(np.prod(x.dims[:axis])), int(np.prod(x.dims[axis:]))])


@lowers("Squeeze")
def _squeeze(b: Builder, c: Call) -> Value:
    x = c[0]
    axes = c.ints("axes", 1)
    gone = (
        {a % x.rank for a in axes}
        if axes is not None
        else {i for i, d in enumerate(x.dims) if d == 1}
    )
    return b.reshape(x, [d for i, d in enumerate(x.dims) if i not in gone])


@lowers("Unsqueeze")
def _unsqueeze(b: Builder, c: Call) -> Value:
    x = c[0]
    axes = c.ints("axes", 1) or []
    rank = x.rank + len(axes)
    new = {a % rank for a in axes}
    rest = iter(x.dims)
    return b.reshape(x, [1 if i in new else next(rest) for i in range(rank)])


@lowers("Reshape")
def _reshape(b: Builder, c: Call) -> Value:
    if "shape" in c.attrs:  # opset 1
        return b.reshape(c[0], c.attrs["shape"])
    if c.attrs.get("allowzero"):
        return b.op("Reshape", c[0], c[1], allowzero=1)
    return b.op("Reshape", c[0], c[1])


@lowers("Slice")
def _slice(b: Builder, c: Call) -> Value:
    x = c[0]
    if not c.requires_grad and any(v is not None and v.const is None for v in c.inputs[1:]):
        return b.op("Slice", *c.inputs)
    starts, ends = c.ints("starts", 1) or [], c.ints("ends", 2) or []
    axes = c.ints("axes", 3) or list(range(len(starts)))
    steps = c.ints("steps", 4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= x.rank
        chosen = range(x.dims[axis])[start:end:step]
        if step == 1:
            x = b.slice(x, axis, chosen.start, max(chosen.stop, chosen.start))
        else:
            x = b.op("Gather", x, b.ints(chosen), axis=axis)
    return x


@lowers("Split")
def _split(b: Builder, c: Call) -> list[Value | None]:
    x = c[0]
    axis = c.attrs.get("axis", 0) % x.rank
    sizes = c.ints("split", 1)
    if sizes is None:
        parts = len(c.wanted)
        each = -(-x.dims[axis] // parts)
        sizes = [min(each, x.dims[axis] - i * each) for i in range(parts)]
    starts = np.cumsum([0, *sizes])
    return [
        b.slice(x, axis, int(a), int(z)) if want else None
        for a, z, want in zip(starts[:-1], starts[1:], c.wanted, strict=True)
    ]


@lowers("Gather")
def _gather(b: Builder, c: Call) -> Value:
    x, i = c[0], c[1]
    axis = c.attrs.get("axis", 0) % x.rank if x.shape is not None else c.attrs.get("axis", 0)
    if c.requires_grad:
        if i.const is not None:
            i = non_negative(b, i, x.dims[axis])
        if i.rank == 0:
            taken = b.op("Gather", x, b.reshape(i, [1]), axis=axis)
            return b.reshape(taken, [d for k, d in enumerate(x.dims) if k != axis])
    return b.op("Gather", x, i, axis=axis)


@lowers("GatherElements")
def _gather_elements(b: Builder, c: Call) -> Value:
    x, i = c[0], c[1]
    axis = c.attrs.get("axis", 0) % x.rank
    return b.op(
        "GatherElements", x, non_negative(b, i, x.dims[axis]) if c.requires_grad else i, axis=axis
    )


@lowers("GatherND")
def _gather_nd(b: Builder, c: Call) -> Value:
    x, i, lead = c[0], c[1], c.attrs.get("batch_dims", 0)
    if c.requires_grad:
        i = non_negative(b, i, x.dims[lead : lead + i.dims[-1]])
    return b.op("GatherND", x, i, batch_dims=lead)


def non_negative(b: Builder, index: Value, sizes: int | Sequence[int]) -> Value:
    """int64 indices counted from the start; ``sizes`` one number, or one for the last axis' each.

    The engine's gradients of the gathers do not take negative ones.
    """
    index = b.cast(index, TensorProto.INT64)
    below = b.op("Less", index, b.constant(np.int64(0)))
    return b.where(below, b.add(index, b.constant(np.asarray(sizes, np.int64))), index)


@lowers("Concat")
def _concat(b: Builder, c: Call) -> Value:
    values = [v for v in c.inputs if v is not None and not (v.shape is not None and 0 in v.dims)]
    return b.op("Concat", *(values or [c[0]]), axis=c.attrs["axis"])


@lowers("Pad")
def _pad(b: Builder, c: Call) -> Value:
    x = c[0]
    if c.get(1) is not None and c[1].const is None:
        return b.op("Pad", *c.inputs, mode=c.attrs.get("mode", "constant"))
    pads = c.ints("pads", 1) or []
    axes = [int(a) % x.rank for a in (c.const(3) if c.get(3) is not None else range(x.rank))]  # type: ignore[union-attr]
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    mode = c.attrs.get("mode", "constant")
    if mode != "constant":
        return _pad_by_index(b, x, before, after=after, mode=mode)
    for axis in axes:  # negative pads cut
        start, stop = max(0, -before[axis]), x.dims[axis] - max(0, -after[axis])
        x = b.slice(x, axis, start, stop)
    widths = [max(0, before.get(a, 0)) for a in range(x.rank)]
    widths += [max(0, after.get(a, 0)) for a in range(x.rank)]
    if not any(widths):
        return x
    fill = c.get(2)
    if fill is None:
        fill = b.scalar(c.attrs.get("value", 0.0), x)
    if fill.const is not None:
        return b.op("Pad", x, b.ints(widths), b.reshape(fill, []), mode="constant")
    wide = b.op("Pad", x, b.ints(widths), b.scalar(0.0, x), mode="constant")
    border = np.ones(wide.dims, bool)
    border[tuple(slice(w, w + d) for w, d in zip(widths, x.dims, strict=False))] = False
    return b.where(b.constant(border), b.reshape(fill, []), wide)


def _pad_by_index(
    b: Builder, x: Value, before: dict[int, int], after: dict[int, int], mode: str
) -> Value:
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    for axis in before:
        lead, tail = before[axis], after[axis]
        if lead or tail:
            index = np.pad(
                np.arange(x.dims[axis]),
                (max(lead, 0), max(tail, 0)),
                mode=modes[mode],  # type: ignore[call-overload]
            )
            index = index[max(0, -lead) : len(index) - max(0, -tail)]
            x = b.op("Gather", x, b.ints(index), axis=axis)
    return x


@lowers("Tile")
def _tile(b: Builder, c: Call) -> Value:
    x = c[0]
    if not c.requires_grad and c[1].const is None:
        return b.op("Tile", x, c[1])
    repeats = c.ints("repeats", 1) or []
    apart = [d for size in x.dims for d in (1, size)]
    wide = [d for r, size in zip(repeats, x.dims, strict=True) for d in (r, size)]
    spread = b.expand(b.reshape(x, apart), wide)
    return b.reshape(spread, [r * d for r, d in zip(repeats, x.dims, strict=True)])


@lowers("Where")
def _where(b: Builder, c: Call) -> Value:
    return b.where(c[0], c[1], c[2])


@lowers("Expand")
def _expand(b: Builder, c: Call) -> Value:
    return b.op("Expand", c[0], c[1])


@lowers("Transpose")
def _transpose(b: Builder, c: Call) -> Value:
    perm = list(c.attrs.get("perm") or range(c[0].rank)[::-1])
    if sorted(perm) != list(range(c[0].rank)):
        raise c.refuse(f"has the perm {perm}, which does not name each of {c[0].rank} axes once")
    return b.transpose(c[0], perm)


@lowers("Trilu")
def _trilu(b: Builder, c: Call) -> Value:
    x = c[0]
    if not c.requires_grad:
        return b.op("Trilu", *c.inputs, upper=c.attrs.get("upper", 1))
    offset = int(k.flat[0]) if (k := c.const(1)) is not None else 0
    ones = np.ones(x.dims[-2:], bool)
    kept = np.triu(ones, offset) if c.attrs.get("upper", 1) else np.tril(ones, offset)
    return b.where(b.constant(kept), x, b.scalar(0.0, x))


@lowers("DepthToSpace")
def _depth_to_space(b: Builder, c: Call) -> Value:
    n, ch, h, w = c[0].dims
    s = c.attrs["blocksize"]
    if c.attrs.get("mode", "DCR") == "DCR":
        split, perm = [n, s, s, ch // s**2, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, perm = [n, ch // s**2, s, s, h, w], [0, 1, 4, 2, 5, 3]
    return b.reshape(b.transpose(b.reshape(c[0], split), perm), [n, ch // s**2, h * s, w * s])


@lowers("SpaceToDepth")
def _space_to_depth(b: Builder, c: Call) -> Value:
    n, ch, h, w = c[0].dims
    s = c.attrs["blocksize"]
    apart = b.reshape(c[0], [n, ch, h // s, s, w // s, s])
    perm = [0, 3, 5, 1, 2, 4] if c.attrs.get("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return b.reshape(b.transpose(apart, perm), [n, ch * s * s, h // s, w // s])


@lowers("Cast")
def _cast(b: Builder, c: Call) -> Value:
    """Casts between float types vanish, since all of them have one precision here."""
    if c.attrs["to"] not in TensorProto.DataType.values():
        raise c.refuse(f"casts to element type {c.attrs['to']}, which does not exist")
    return b.cast(c[0], b.precision if c.attrs["to"] in FLOATS else c.attrs["to"])


@lowers("CastLike")
def _cast_like(b: Builder, c: Call) -> Value:
    return b.cast(c[0], c[1].dtype)


@lowers("Constant")
def _constant(b: Builder, c: Call) -> Value:
    for key, value in c.attrs.items():
        if key == "value":
            return b.literal(numpy_helper.to_array(value))
        if key in ("value_float", "value_floats"):
            return b.literal(np.asarray(value, np.float32))
        if key in ("value_int", "value_ints"):
            return b.constant(np.asarray(value, np.int64))
    raise c.refuse("holds no numeric value")


@lowers("ConstantOfShape")
def _constant_of_shape(b: Builder, c: Call) -> Value:
    fill = c.attrs.get("value")
    number = b.literal(np.zeros(1, np.float32) if fill is None else numpy_helper.to_array(fill))
    if c[0].const is None:
        assert number.const is not None
        return b.op("ConstantOfShape", c[0], value=numpy_helper.from_array(number.const))
    return b.expand(b.reshape(number, []), [int(d) for d in c[0].const])


@lowers("OptionalGetElement")
def _optional_get_element(b: Builder, c: Call) -> Value:
    return c[0]


@lowers("CenterCropPad")
def _center_crop_pad(b: Builder, c: Call) -> Value:
    x = c[0]
    axes = c.attrs.get("axes") or range(x.rank)
    for axis, target in zip(axes, c.ints("", 1) or [], strict=True):
        axis %= x.rank
        size = x.dims[axis]
        if target < size:
            start = (size - target) // 2
            x = b.slice(x, axis, start, start + target)
        elif target > size:
            widths = [0] * 2 * x.rank
            widths[axis] = (target - size) // 2
            widths[x.rank + axis] = target - size - widths[axis]
            x = b.op("Pad", x, b.ints(widths), b.scalar(0.0, x), mode="constant")
    return x
