"""Sequences whose tensors are known while the graph is built, so that no sequence is left in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import TensorProto

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers


@dataclass(eq=False, slots=True)
class SequenceValue(Value):
    """A list of tensors under one name; it never becomes a value of the finished graph."""

    items: list[Value] = field(default_factory=list)


def _sequence(b: Builder, items: list[Value]) -> SequenceValue:
    active = any(v.requires_grad for v in items)
    return SequenceValue(
        b.unique("sequence"), TensorProto.UNDEFINED, None, requires_grad=active, items=items
    )


def _items(c: Call) -> list[Value]:
    value = c[0]
    if not isinstance(value, SequenceValue):
        raise c.refuse("reads a sequence that is not built from tensors inside the graph")
    return value.items


@lowers("SplitToSequence")
def _split_to_sequence(b: Builder, c: Call) -> Value:
    x, axis = c[0], c.attrs.get("axis", 0) % c[0].rank
    sizes, given = [], c.const(1)
    if given is not None and given.ndim == 1:
        sizes = [int(s) for s in given]
    else:
        each = 1 if given is None else int(given)
        sizes = [min(each, x.dims[axis] - k) for k in range(0, x.dims[axis], each)]
    items, start = [], 0
    for size in sizes:
        part = b.slice(x, axis, start, start + size)
        if given is None and not c.attrs.get("keepdims", 1):
            part = b.reshape(part, [d for i, d in enumerate(part.dims) if i != axis])
        items.append(part)
        start += size
    return _sequence(b, items)


@lowers("SequenceConstruct")
def _construct(b: Builder, c: Call) -> Value:
    return _sequence(b, [v for v in c.inputs if v is not None])


@lowers("SequenceAt")
def _at(b: Builder, c: Call) -> Value:
    index = c.const(1)
    assert index is not None
    return _items(c)[int(index)]


@lowers("SequenceLength")
def _length(b: Builder, c: Call) -> Value:
    return b.constant(len(_items(c)))


@lowers("ConcatFromSequence")
def _concat(b: Builder, c: Call) -> Value:
    items, axis = _items(c), c.attrs["axis"]
    if c.attrs.get("new_axis"):
        rank = items[0].rank + 1
        axis %= rank
        items = [b.reshape(v, [*v.dims[:axis], 1, *v.dims[axis:]]) for v in items]
    return b.op("Concat", *items, axis=axis)


@lowers("SequenceEmpty")
def _empty(b: Builder, c: Call) -> Value:
    return _sequence(b, [])


def _position(c: Call, index: int, default: int) -> int:
    given = c.const(index)
    return default if given is None else int(given)


@lowers("SequenceInsert")
def _insert(b: Builder, c: Call) -> Value:
    items = list(_items(c))
    items.insert(_position(c, 2, len(items)), c[1])
    return _sequence(b, items)


@lowers("SequenceErase")
def _erase(b: Builder, c: Call) -> Value:
    items = list(_items(c))
    del items[_position(c, 1, -1)]
    return _sequence(b, items)
