"""Facts about single tensors and nodes: contents, shapes, swaps of axes, slopes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graph_init.analysis.graph import static_shape
from graph_init.ir import all_equal

MASK_LEVEL = -1e4  # scores at or below this are masked out


Flips = tuple[bool, bool]  # whether Transposes swapped the first two axes, the last two


def wide_axes(shape: tuple[int, ...]) -> int:
    """Number of dimensions other than 1."""
    return sum(size != 1 for size in shape)


def leak(node: ir.Node) -> float | None:
    """The slope of an activation for negative arguments, where its node gives one."""
    if node.op_type == "LeakyRelu":
        given = node.attributes.get("alpha")
        return None if given is None else given.as_float()
    if node.op_type == "PRelu" and node.inputs[1] is not None:
        slopes = node.inputs[1].const_value
        return None if slopes is None else float(slopes.numpy().astype(np.float64).mean())
    return None


def flipped(node: ir.Node, flips: Flips) -> Flips:
    """The swaps so far, with the node's own if it is a Transpose."""
    if node.op_type != "Transpose":
        return flips
    given = node.attributes.get("perm")
    if given is None:
        return not flips[0], not flips[1]
    order = list(given.as_ints())
    if len(order) < 2:
        return flips
    return flips[0] ^ (order[0] > order[1]), flips[1] ^ (order[-2] > order[-1])


def next_shape(
    node: ir.Node, output: ir.Value, shape: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Shape of an output of a node that passes a tensor on; None if it is not known."""
    inferred = static_shape(output)
    if inferred is not None:
        return inferred
    if node.op_type == "Transpose" and shape is not None:
        given = node.attributes.get("perm")
        order = list(given.as_ints()) if given is not None else list(range(len(shape)))[::-1]
        return tuple(shape[axis] for axis in order)
    if node.op_type in ("Identity", "Cast", "CastLike", "Mul", "Div", "Add", "Sub", "Dropout"):
        return shape
    return None


def constant_filled(tensor: ir.TensorProtocol, level: float | None = None) -> bool:
    """Whether all elements are equal (to ``level`` if given)."""
    if tensor.size == 0:
        return False
    values = tensor.numpy()
    return (level is None or values.flat[0] == level) and all_equal(values)


def is_mask(tensor: ir.TensorProtocol) -> bool:
    """Whether every element is 0 or at most `MASK_LEVEL`."""
    values = tensor.numpy().reshape(-1)
    if tensor.size == 0 or not (values[0] == 0 or values[0] <= MASK_LEVEL):
        return False
    return bool(np.all((values == 0) | (values <= MASK_LEVEL)))
