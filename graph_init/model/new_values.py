"""New values in the place of a tensor's old ones, in the element type that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir

from graph_init.errors import NumericalError, UsageError

NewValue = np.ndarray | Callable[[], np.ndarray]


# Attribute of Constant -> its field, whether the field is a list, numpy dtype.
SCALAR_ATTRIBUTES: dict[str, tuple[str, bool, Any]] = {
    "value_float": ("f", False, np.float32),
    "value_floats": ("floats", True, np.float32),
    "value_int": ("i", False, np.int64),
    "value_ints": ("ints", True, np.int64),
}


def set_attribute(name: str, attribute: onnx.AttributeProto, value: NewValue) -> None:
    """Store ``value`` in the attribute of a Constant node that gives ``name``."""
    field, is_list, dtype = SCALAR_ATTRIBUTES[attribute.name]
    shape = (len(getattr(attribute, field)),) if is_list else ()
    array = _checked(value, shape, np.dtype(dtype), name)
    if is_list:
        getattr(attribute, field)[:] = array.tolist()
    else:
        setattr(attribute, field, array.item())


def _checked(value: NewValue, shape: tuple[int, ...], dtype: Any, name: str) -> np.ndarray:
    array = np.asarray(value() if callable(value) else value)
    if array.shape != shape:
        raise UsageError(
            f"new value of tensor {name!r} has shape {list(array.shape)}, not {list(shape)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array.astype(dtype)).reshape(shape)
    # Only a narrower dtype can overflow.
    narrower = result.dtype.itemsize < array.dtype.itemsize and result.dtype.kind not in "iub"
    lost = np.isfinite(array) & ~np.isfinite(result) if narrower else np.zeros(0, bool)
    if lost.any():
        raise NumericalError(
            f"new value of tensor {name!r} does not fit in {np.dtype(dtype).name}: "
            f"{int(lost.sum())} of {lost.size} elements would become infinite"
        )
    return result


def cast(tensor: onnx.TensorProto, value: NewValue, name: str = "") -> np.ndarray:
    """``value`` in the element type of ``tensor``, with its shape.

    Raises UsageError where the shape is another, and NumericalError where a number does not fit.
    """
    dtype = onnx_ir.DataType(tensor.data_type).numpy()
    return _checked(value, tuple(tensor.dims), dtype, name or tensor.name)


def raw_bytes(array: np.ndarray) -> bytes:
    """The bytes of ``array`` as ONNX stores them, little end first."""
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.isbuiltin == 1 else array
    return little.tobytes()


def set_tensor(tensor: onnx.TensorProto, value: NewValue, name: str) -> None:
    """Store ``value`` in the field of ``tensor`` that holds its data now."""
    array = cast(tensor, value, name)
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    if tensor.HasField("raw_data") or not len(getattr(tensor, field)):
        tensor.raw_data = raw_bytes(array)
        return
    if field == "int32_data" and array.dtype.kind not in "iub":
        # float16, bfloat16 and float8 are stored as their bit patterns.
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    getattr(tensor, field)[:] = array.ravel().tolist()
