"""How values of a loaded model are read: their types, and nodes that read a shape alone."""

from __future__ import annotations

import onnx_ir as ir

_ONNX_NAMES = {"float": "float32", "double": "float64"}

# Only the shape or the type of the input is read.
SHAPE_ONLY = frozenset({"Shape", "Size", "ConstantOfShape", "EyeLike"})
SHAPE_ONLY_SLOTS = frozenset({("CastLike", 1), ("RandomNormalLike", 0), ("RandomUniformLike", 0)})


def dtype_name(value: ir.Value) -> str:
    """Name of a value's element type as ONNX and numpy write it, for instance ``"float32"``."""
    dtype = value.dtype
    if dtype is None and value.const_value is not None:
        dtype = value.const_value.dtype
    name = "undefined" if dtype is None else dtype.name.lower()
    return _ONNX_NAMES.get(name, name)


def reads_shape_only(node: ir.Node, slot: int) -> bool:
    """Whether the node's input ``slot`` is read for its shape or type alone."""
    return node.op_type in SHAPE_ONLY or (node.op_type, slot) in SHAPE_ONLY_SLOTS


def stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer, or of a Constant node as bodies have them; None if computed."""
    if value is None or value.const_value is not None:
        return None if value is None else value.const_value
    maker = value.producer()
    if maker is None or maker.op_type != "Constant":
        return None
    given = maker.attributes.get("value")
    return None if given is None else given.as_tensor()
