"""Inputs that only steer: rates, lengths, flags and masks that sizes or branches follow from.

Random numbers would make no graph of such an input, or none that is alive. It is found by what it
does, and given a value by :func:`choices`, whose order the documentation states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graph_init.ir import Array, Shape
from graph_init.model.reading import reads_shape_only, stored

#: Between an input and what it is compared with, and between a size and the input it follows from.
_VIEWS = frozenset("Cast Identity Squeeze Unsqueeze Reshape Gather Slice Flatten".split())
_COMPARES = frozenset("Equal Greater Less GreaterOrEqual LessOrEqual".split())
#: Nodes looked at from an input forward.
_FAR = 64


class Choice(NamedTuple):
    """A value for an input that steers, and why it is tried."""

    value: Array
    reason: str
    asked: bool = False


def behind(value: ir.Value | None) -> set[str] | None:
    """The graph inputs whose numbers make ``value``; None where one of them is no steering one.

    Those that steer hold integers or booleans, or a single number.
    """
    found: set[str] = set()
    pending, seen = [value], set[int]()
    while pending:
        at = pending.pop()
        if at is None or id(at) in seen or at.is_initializer():
            continue
        seen.add(id(at))
        node = at.producer()
        if node is None:
            if not at.is_graph_input() or not steers(at):
                return None
            found.add(at.name or "")
            continue
        pending.extend(x for k, x in enumerate(node.inputs) if not reads_shape_only(node, k))
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                pending.extend(attribute.as_graph().outputs)
    return found


def steers(value: ir.Value) -> bool:
    """Whether an input may steer: whole numbers, flags, or one number of any type."""
    if value.dtype is None or value.shape is None:
        return False
    return not value.dtype.is_floating_point() or all(d == 1 for d in value.shape)


def choices(value: ir.Value, shape: Shape, sizes: Sequence[int]) -> Iterator[Choice]:
    """Values to try for an input of this shape, in order.

    ``sizes`` are the axes of the other inputs, the largest open one first: a length may be one.
    """
    assert value.dtype is not None
    kind = value.dtype.numpy()

    def full(number: float, reason: str) -> Choice:
        return Choice(np.full(shape, number, kind), reason)

    if kind == np.bool_:
        yield full(1, "true")
        yield full(0, "false")
        return
    for number in _compared(value):
        yield full(number, f"the model compares it with {number:g}")
    if len(shape) >= 2:
        yield full(1, "a mask that keeps every element")
    elif len(shape) == 1:
        for size in dict.fromkeys(sizes):
            yield full(size, f"the full length of an input, {size}")
    for number in (1, 16_000, 2, 0):
        yield full(number, "a usual number, as the model does not show which one it needs")
    if not shape:
        for size in dict.fromkeys(sizes):
            yield full(size, f"the size of another input, {size}")


def _compared(value: ir.Value) -> list[float]:
    """The constants that an input, or an entry of it, is compared with, in the model's order."""
    found: dict[float, None] = {}
    pending, seen = [value], 0
    while pending and seen < _FAR:
        at = pending.pop(0)
        for node, slot in at.uses():
            seen += 1
            if node.op_type in _VIEWS and slot == 0:
                pending.extend(node.outputs)
            elif node.op_type in _COMPARES:
                tensor = stored(node.inputs[1 - slot])
                if tensor is not None and tensor.size == 1:
                    found[float(tensor.numpy().reshape(-1)[0])] = None
    return list(found)
