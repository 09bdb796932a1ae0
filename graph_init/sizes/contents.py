"""Small contents that sizes are computed from, with the unknowns that each number follows from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graph_init.ir import Array
from graph_init.ir.folding import evaluate
from graph_init.sizes.known import MAX_CONTENT, Call, Known, of_content, slice_end

Function = Callable[..., Array]

_UNARY: dict[str, Function] = {
    "Identity": lambda x: x,
    "Neg": np.negative,
    "Abs": np.abs,
    "Not": np.logical_not,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Sqrt": np.sqrt,
    "Round": np.round,
}
_BINARY: dict[str, Function] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "And": np.logical_and,
    "Greater": np.greater,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
    "Or": np.logical_or,
    "Min": np.minimum,
    "Max": np.maximum,
    "Xor": np.logical_xor,
}
#: Of these every result is one of the numbers of input 0, so its unknowns are found by the same
#: arrangement of marks.
_ARRANGE = frozenset(
    "Gather Slice Unsqueeze Squeeze Reshape Transpose Flatten Expand Tile GatherElements".split()
)


def contents(c: Call) -> list[Known] | None:
    """The outputs' contents where those of all inputs are known and small, else None."""
    given = [v for v in c.ins if v is not None]
    if not given or len(c.node.outputs) != 1 or c.node.domain not in ("", "ai.onnx"):
        return None
    if any(v.content is None or v.marks is None for v in given):
        return None
    op = c.node.op_type
    arrays = [v.content for v in given if v.content is not None]
    marks = [v.marks for v in given if v.marks is not None]
    whole = 0
    for v in given:
        whole |= v.followed
    with np.errstate(all="ignore"):
        if op in _UNARY:
            return [of_content(np.asarray(_UNARY[op](arrays[0])), marks[0])]
        if op in _BINARY and len(arrays) == 2:
            mixed = np.bitwise_or(*np.broadcast_arrays(*marks)) if whole else 0
            return [of_content(np.asarray(_BINARY[op](*arrays)), mixed)]
        if op == "Div" and len(arrays) == 2:
            mixed = np.bitwise_or(*np.broadcast_arrays(*marks)) if whole else 0
            return [of_content(np.asarray(_quotient(*arrays)), mixed)]
        if op == "Cast":
            kind = ir.DataType(int(c.attr("to")))
            if kind is ir.DataType.STRING:
                return None
            return [of_content(arrays[0].astype(kind.numpy()), marks[0])]
        if op == "Concat":
            axis = c.attr("axis")
            return [of_content(np.concatenate(arrays, axis), np.concatenate(marks, axis))]
    return _others(c, whole, arrays=[None if v is None else v.content for v in c.ins], marks=marks)


def _quotient(a: Array, b: Array) -> Array:
    """Integers are divided towards zero."""
    if a.dtype.kind != "i":
        return np.asarray(np.true_divide(a, b), a.dtype)
    exact = np.abs(a) // np.maximum(np.abs(b), 1)
    signed: Array = (np.sign(a) * np.sign(b) * exact).astype(a.dtype)
    return signed


def _others(
    c: Call, whole: int, arrays: Sequence[Array | None], marks: Sequence[Array]
) -> list[Known] | None:
    op = c.node.op_type
    attributes = {k: _plain(a) for k, a in c.node.attributes.items()}
    if any(v is None for v in attributes.values()):
        return None
    made = _evaluated(c, arrays, attributes)
    if made is None or made.size > MAX_CONTENT:
        return None
    if whole and op in _ARRANGE:
        places = _evaluated(c, [marks[0], *arrays[1:]], attributes)
        if places is not None and places.shape == made.shape:
            rest = 0
            for array in marks[1:]:
                rest |= int(np.bitwise_or.reduce(array, axis=None)) if array.size else 0
            return [of_content(made, places | rest)]
    return [of_content(made, whole)]


def _plain(attribute: ir.Attr) -> object:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) or attribute.is_ref():
        return None
    value = attribute.value
    return ir.to_proto(value) if attribute.type == ir.AttributeType.TENSOR else value


def _evaluated(
    c: Call, arrays: Sequence[Array | None], attributes: dict[str, object]
) -> Array | None:
    quick = _QUICK.get(c.node.op_type)
    if quick is not None:
        try:
            return np.asarray(quick(c, arrays))
        except (IndexError, LookupError, TypeError, ValueError):
            return None
    found = evaluate(c.node.op_type, arrays, attributes, 1, opset=c.opset)
    return None if found is None else np.asarray(found[0])


def _take(c: Call, arrays: Sequence[Array | None]) -> Array:
    x, index = arrays[0], arrays[1]
    assert x is not None and index is not None
    return np.take(x, index, axis=c.attr("axis", 0))


def _add_axes(c: Call, arrays: Sequence[Array | None]) -> Array:
    axes = c.ints("axes", 1) or []
    assert arrays[0] is not None
    return np.expand_dims(arrays[0], tuple(int(a) for a in axes))


def _drop_axes(c: Call, arrays: Sequence[Array | None]) -> Array:
    axes = c.ints("axes", 1)
    assert arrays[0] is not None
    return np.squeeze(arrays[0], None if axes is None else tuple(int(a) for a in axes))


def _cut(c: Call, arrays: Sequence[Array | None]) -> Array:
    x = arrays[0]
    assert x is not None
    starts, ends = c.ints("starts", 1) or [], c.ints("ends", 2) or []
    axes = c.ints("axes", 3) or range(len(starts))
    steps = c.ints("steps", 4) or [1] * len(starts)
    place = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place[int(axis)] = slice(int(start), slice_end(end), int(step))
    return x[tuple(place)]


#: Those of which exporters write hundreds; the reference implementation does the others.
_QUICK: dict[str, Callable[[Call, Sequence[Array | None]], Array]] = {
    "Gather": _take,
    "Unsqueeze": _add_axes,
    "Squeeze": _drop_axes,
    "Slice": _cut,
}
